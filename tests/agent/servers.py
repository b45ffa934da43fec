"""Real servers for the tests: a CA, an HTTPS server that speaks the device API, a Mosquitto with mutual TLS."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.agent.repository import Repository
from wheeltapper_agent.link.identity import Fleet, Identity

_PEM = serialization.Encoding.PEM


def with_key_identifiers(
    builder: x509.CertificateBuilder, key: Any, issuer_key: Any, ca: bool
) -> x509.CertificateBuilder:
    """What Python 3.13 demands of certificates by default (RFC 5280, sections 4.2.1.1 to 4.2.1.3)."""
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .add_extension(usage, critical=True)
    )


class Authority:
    """A certificate authority that writes its certificates into ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._issue("Test CA", self._key.public_key(), ca=True)
        self.pem = self.certificate.public_bytes(_PEM)
        self.sha256 = hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.pem)

    def _issue(self, name: str, key: Any, ca: bool = False) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return with_key_identifiers(builder, key, self._key.public_key(), ca).sign(self._key, hashes.SHA256())

    def sign_csr(self, pem: str, name: str | None = None) -> str:
        """The certificate for a CSR, in PEM; ``name`` replaces the name in the CSR."""
        csr = x509.load_pem_x509_csr(pem.encode())
        asked = str(csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        return self._issue(name or asked, csr.public_key()).public_bytes(_PEM).decode()

    def pair(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key for ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, path = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(self._issue(name, key.public_key()).public_bytes(_PEM))
        path.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return certificate, path


class DeviceServer:
    """The device API over real TLS.

    ``planted`` replaces the answers of paths with (status, body). ``requests`` has the paths of all requests.
    """

    def __init__(self, authority: Authority, repository: Repository, mqtt_port: int = 1) -> None:
        self.authority, self.repository, self.mqtt_port = authority, repository, mqtt_port
        self.planted: dict[str, tuple[int, bytes]] = {}
        self.requests: list[str] = []
        self.ranges: list[tuple[str, str]] = []
        """(path, Range header) of the requests for a part of a file."""
        self.range_answer = "honour"
        """How ranges are answered: ``honour``, ``ignore``, ``refuse`` (416) or ``elsewhere`` (another part)."""
        self.break_after: int | None = None
        """The connection is closed after this many bytes of an answer."""
        self.trickles = ""
        """Answers to paths with this prefix are sent one byte at a time."""
        self.captures: dict[str, bytes] = {}
        self.enrol_name: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: Any) -> None:
                """Log nothing."""

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if not outer.trickles or not self.path.startswith(outer.trickles):
                    self.wfile.write(body)
                    return
                for byte in body:
                    time.sleep(0.05)
                    self.wfile.write(bytes([byte]))

            def do_GET(self) -> None:
                outer.requests.append(self.path)
                status, body = outer.get(self.path)
                asked = self.headers["Range"]
                if asked and status == 200:
                    outer.ranges.append((self.path, asked))
                    self._part(body, int(asked.removeprefix("bytes=").rstrip("-")))
                elif outer.break_after is not None and "/blobs/" in self.path and len(body) > outer.break_after:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: outer.break_after])
                    self.close_connection = True
                else:
                    self._answer(status, body)

            def _part(self, body: bytes, first: int) -> None:
                if outer.range_answer == "ignore":
                    self._answer(200, body)
                elif outer.range_answer == "refuse" or first >= len(body):
                    self._answer(416, b"{}")
                else:
                    first += outer.range_answer == "elsewhere"
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
                    self.send_header("Content-Length", str(len(body) - first))
                    self.end_headers()
                    self.wfile.write(body[first:])

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers["Content-Length"]))

            def do_POST(self) -> None:
                self._answer(*outer.enrol(json.loads(self._body())))

            def do_PUT(self) -> None:
                body = self._body()
                assert hashlib.sha256(body).hexdigest() == self.headers["X-Content-SHA256"]
                outer.captures[self.path.rpartition("/")[2]] = body
                self._answer(200, b"{}")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = authority.pair("localhost")
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url: str = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of the answer to ``path``."""
        if path in self.planted:
            return self.planted[path]
        kind, _, name = path.removeprefix("/v1/").partition("/")
        found = {"tuf": self.repository.metadata, "blobs": self.repository.blobs}.get(kind, {}).get(name)
        if path == "/v1/enrol/ca":
            found = self.authority.pem
        return (200, found) if found is not None else (404, b'{"code":"api.not_found","message":"no"}')

    def enrol(self, body: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer to an enrolment: the signed CSR, where the token has the right secret."""
        device, secret = body["token"].split(".")[1:3]
        if secret != "s" * 43:
            return 403, b'{"code":"enrol.token_unknown","message":"the token is not known"}'
        answer = {
            "device": device,
            "certificate": self.authority.sign_csr(body["csr"], self.enrol_name),
            "ca": self.authority.pem.decode(),
            "root": self.repository.root.decode(),
            "mqtt_host": "127.0.0.1",
            "mqtt_port": self.mqtt_port,
            "https_url": self.url,
        }
        return 200, json.dumps(answer).encode()

    def identity(self, folder: Path) -> Identity:
        """The identity of ``device-1`` in ``folder``, as if it had enrolled."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = self.authority.pair("device-1")
        root = folder / "root.json"
        root.write_bytes(self.repository.root)
        fleet = Fleet(device="device-1", https_url=self.url, mqtt_host="127.0.0.1", mqtt_port=self.mqtt_port)
        return Identity(fleet, key, certificate, self.authority.path, root)

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A Mosquitto broker on a free port.

    Args:
        folder: the folder for its configuration.
        lines: lines of the configuration besides the listener.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join((f"listener {self.port} 127.0.0.1", "user root", *lines, "")))
        self.start()

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        self._process = subprocess.Popen(
            ["/usr/sbin/mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    def kill(self) -> None:
        """Kill the broker with SIGKILL."""
        self._process.kill()
        self._process.wait()


class Mosquitto(Broker):
    """A broker with mutual TLS whose user name is the certificate's CN."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = authority.pair("broker")
        acl = folder / "acl"
        acl.write_text(
            "pattern write wt/v1/%u/up/+\npattern read wt/v1/%u/down/+\nuser fleet.ingest\ntopic readwrite wt/v1/#\n"
        )
        super().__init__(
            folder,
            f"cafile {authority.path}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true",
            f"use_identity_as_username true\nallow_anonymous false\nacl_file {acl}",
        )


def until(condition: Any, seconds: float = 15.0, what: str = "the condition") -> None:
    """Wait until ``condition()`` is true; raise AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.03)


@contextlib.contextmanager
def closing_all(*closers: Any) -> Iterator[None]:
    """Call every closer when the block ends."""
    try:
        yield
    finally:
        for closer in closers:
            closer()
