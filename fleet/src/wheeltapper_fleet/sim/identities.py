"""The identities of simulated devices: enrolment over the devices' API, and the folder that remembers them.

All devices of a folder share one private key, which is quick to make and changes nothing for the fleet: each has a
certificate of its own. The folder holds ``device.key``, ``ca.pem``, ``root.json``, ``fleet.json``, and
``devices.jsonl`` with one device and its certificate a line; ``memory.json`` is what devices remember from run to run.

What this module does not do: speak MQTT.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.sim.updates import Memory

__all__ = ["Endpoints", "Identities", "enrol"]

_PARALLEL: Final = 16
_PER_ADDRESS: Final = 50
"""A fleet takes 60 enrolments a minute from one address. Devices have their own; on loopback, so do these."""
_WAIT_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 60.0


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the fleet told the devices that it is."""

    mqtt_host: str
    mqtt_port: int
    https_url: str


@dataclass
class Identities:
    """The folder of the simulator.

    Args:
        folder: made where it is missing.
    """

    folder: Path

    def __post_init__(self) -> None:
        files.make_folder(self.folder, private=True)
        self.certificates: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / "devices.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # a line that was not written whole
                    row = json.loads(line)
                    self.certificates[row["device"]] = row["certificate"]

    @property
    def key_path(self) -> Path:
        """The one private key (PEM)."""
        return self.folder / "device.key"

    @property
    def ca_path(self) -> Path:
        """The fleet's CA (PEM)."""
        return self.folder / "ca.pem"

    @property
    def endpoints(self) -> Endpoints:
        """Where the fleet is."""
        return msgspec.json.decode((self.folder / "fleet.json").read_bytes(), type=Endpoints)

    @property
    def root(self) -> bytes:
        """The TUF root that the devices trust."""
        return (self.folder / "root.json").read_bytes()

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The private key; made where there is none."""
        if not self.key_path.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            files.write_atomic(self.key_path, pem, files.PRIVATE)
        loaded = serialization.load_pem_private_key(self.key_path.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return loaded

    def remember_fleet(self, ca: bytes, answer: Mapping[str, Any]) -> None:
        """Keep what an enrolment's answer says of the fleet."""
        endpoints = Endpoints(
            mqtt_host=answer["mqtt_host"], mqtt_port=answer["mqtt_port"], https_url=answer["https_url"]
        )
        files.write_atomic(self.ca_path, ca)
        files.write_atomic(self.folder / "root.json", str(answer["root"]).encode())
        files.write_atomic(self.folder / "fleet.json", msgspec.json.encode(endpoints))

    def add(self, device: str, certificate: str) -> None:
        """Remember the certificate of a device."""
        self.certificates[device] = certificate
        with (self.folder / "devices.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"device": device, "certificate": certificate}) + "\n")

    def memories(self) -> dict[str, Memory]:
        """What devices remember; nothing where the run before did not end cleanly."""
        try:
            return msgspec.json.decode((self.folder / "memory.json").read_bytes(), type=dict[str, Memory])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """Keep what devices remember, beside what others remember already."""
        files.write_atomic(self.folder / "memory.json", msgspec.json.encode({**self.memories(), **memories}))

    def tls_maker(self, host: str) -> Callable[[str], Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]]:
        """What makes TLS connections to ``host``, each with the certificate of the device that it is asked for.

        One context serves all: OpenSSL gives a connection a copy of the certificate that the context has when the
        connection is made (SSL_new(3)).
        """
        context = ssl.create_default_context(cafile=str(self.ca_path))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        shown = self.folder / "shown.pem"
        key_pem = self.key_path.read_text(encoding="ascii")

        def of_device(device: str) -> Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]:
            def make(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
                shown.write_text(self.certificates[device] + key_pem, encoding="ascii")
                context.load_cert_chain(shown)
                return context.wrap_bio(incoming, outgoing, server_hostname=host)

            return make

        files.write_atomic(shown, b"", files.PRIVATE)
        return of_device

    def https_context(self, device: str) -> ssl.SSLContext:
        """The TLS of HTTPS requests with the certificate of ``device``."""
        context = ssl.create_default_context(cafile=str(self.ca_path))
        pair = self.folder / "https.pem"
        files.write_atomic(pair, (self.certificates[device]).encode() + self.key_path.read_bytes(), files.PRIVATE)
        context.load_cert_chain(pair)
        return context


async def enrol(
    identities: Identities,
    devices: Sequence[str],
    server: str,
    token_of: Callable[[str], str],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Enrol those of ``devices`` that the folder does not have, as a device does: token, CSR, certificate.

    Each device's certificate is on disk before the next is asked for, so that a run that broke off can be repeated.

    Args:
        identities: the folder.
        devices: their ids.
        server: the devices' API, ``https://host:port``.
        token_of: makes an enrolment token for a device; called on a thread.
        progress: told how many are done.

    Raises:
        FleetError: ``sim.enrol``, ``sim.ca``, ``client.unreachable``, and what making a token raises.
    """
    missing = [device for device in devices if device not in identities.certificates]
    if not missing:
        return
    first = await asyncio.to_thread(token_of, missing[0])
    ca = await _fetch_ca(server, first.rpartition(".")[2])
    context = ssl.create_default_context(cadata=ca.decode("ascii"))
    key, slots, done = identities.key(), asyncio.Semaphore(_PARALLEL), 0

    async def one(device: str, client: httpx.AsyncClient) -> None:
        nonlocal done
        async with slots:
            token = first if device == missing[0] else await asyncio.to_thread(token_of, device)
            answer = await _ask(client, token, _request(key, device))
        if not identities.ca_path.exists() or device == missing[0]:
            identities.remember_fleet(ca, answer)
        identities.add(device, str(answer["certificate"]))
        done += 1
        progress(done)

    for number, group in enumerate(_groups(missing, _PER_ADDRESS)):
        transport = httpx.AsyncHTTPTransport(verify=context, local_address=_address(server, number))
        client = httpx.AsyncClient(transport=transport, base_url=server, timeout=_TIMEOUT_SECONDS)
        async with client, asyncio.TaskGroup() as tasks:
            for device in group:
                tasks.create_task(one(device, client))


def _groups(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[index : index + size] for index in range(0, len(names), size))


def _address(server: str, number: int) -> str | None:
    """The address to connect from: on loopback another one for each group, elsewhere the system's choice."""
    host = urlsplit(server).hostname or ""
    if host not in ("127.0.0.1", "localhost"):
        return None
    return str(ipaddress.IPv4Address("127.0.1.0") + number % 60_000)


async def _fetch_ca(server: str, digest: str) -> bytes:
    """The fleet's CA, which must have the digest that the token names."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent; the digest decides
    try:
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
            pem = (await client.get(f"{server}/v1/enrol/ca")).content
    except httpx.HTTPError as error:
        raise FleetError("client.unreachable", f"{server} does not answer: {type(error).__name__}", 503) from error
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    for each in found:
        if hashlib.sha256(each.public_bytes(serialization.Encoding.DER)).hexdigest() == digest:
            return each.public_bytes(serialization.Encoding.PEM)
    raise FleetError("sim.ca", f"{server} has another CA than the fleet that made the token; is it the right server?")


async def _ask(client: httpx.AsyncClient, token: str, csr: str) -> dict[str, Any]:
    while True:
        try:
            response = await client.post("/v1/enrol", json={"token": token, "csr": csr})
        except httpx.HTTPError as error:
            raise FleetError("client.unreachable", f"the enrolment broke off: {type(error).__name__}", 503) from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            await asyncio.sleep(_WAIT_SECONDS)
            continue
        if response.status_code != httpx.codes.OK:
            raise FleetError("sim.enrol", f"an enrolment was refused: {response.text[:300]}")
        return dict(response.json())


def _request(key: ec.EllipticCurvePrivateKey, device: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode("ascii")
