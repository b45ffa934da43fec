"""The device's identity: a private key that is made here and never leaves, a certificate from the fleet's CA, the root
of trust (TUF), and the fleet's addresses.

A device enrols with a one-time token ``wt1.<device>.<secret>.<SHA-256 of the CA's certificate>``. It fetches the CA's
certificate over a connection that it cannot verify yet. Only if that certificate has the digest in the token does the
device connect again, now with TLS verified by the CA, and send the secret.

Invariants:
    * The key file appears whole, with mode 0600, and is never overwritten.
    * ``fleet.json`` is written last: the device is enrolled if and only if it exists.
    * An enrolment that broke off is repeated with the same key.

What this module does not do: renew the certificate (:mod:`wheeltapper_agent.link.renewal`).
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic, write_once
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.ids import NAME_PATTERN

if TYPE_CHECKING:  # loaded for enrolment only: 9 MB that an enrolled agent saves
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "NEXT_CERTIFICATE",
    "NEXT_KEY",
    "Fleet",
    "Identity",
    "Token",
    "enroll",
    "load_identity",
    "make_key",
    "make_request",
    "parse_token",
]

_TOKEN: Final = re.compile(r"wt1\.([a-z0-9][a-z0-9-]{0,62})\.([A-Za-z0-9_-]{43})=?\.([0-9a-f]{64})\Z")
_ADDRESS: Final = r"^[^:\s]+:[0-9]{1,5}$|^\[[0-9a-fA-F:.]+\]:[0-9]{1,5}$"
_MAX_ANSWER_BYTES: Final = 256 * 1024
NEXT_KEY, NEXT_CERTIFICATE = "next.key", "next.crt"
"""What a renewal makes, until it takes the place of ``device.key`` and ``device.crt``."""


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed enrolment token. ``text`` holds the secret: never log it."""

    text: str
    device: str
    ca_sha256: str

    def __repr__(self) -> str:
        return f"Token(device={self.device!r})"


class Fleet(Struct, frozen=True, kw_only=True):
    """The device's id in its fleet, and the addresses of the fleet; the content of ``fleet.json``.

    ``brokers`` names every node of a clustered broker as ``host:port``; ``mqtt_host`` and ``mqtt_port`` are the first.
    """

    device: Annotated[str, Meta(pattern=NAME_PATTERN)]
    https_url: Annotated[str, Meta(pattern=r"^https://", max_length=300)]
    mqtt_host: Annotated[str, Meta(min_length=1, max_length=255)]
    mqtt_port: Annotated[int, Meta(ge=1, le=65535)]
    brokers: Annotated[tuple[Annotated[str, Meta(pattern=_ADDRESS, max_length=263)], ...], Meta(max_length=16)] = ()

    @property
    def other_brokers(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every node of the broker but the first."""
        found = ((host.strip("[]"), int(port)) for host, _, port in (each.rpartition(":") for each in self.brokers))
        return tuple(each for each in found if each != (self.mqtt_host, self.mqtt_port))


class _Answer(Fleet, frozen=True, kw_only=True):
    """The service's answer to an enrolment."""

    certificate: Annotated[str, Meta(max_length=65536)]
    ca: Annotated[str, Meta(max_length=65536)]
    root: Annotated[str, Meta(max_length=131072)]


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled device: its fleet, and the paths of its files."""

    fleet: Fleet
    key: Path
    certificate: Path
    ca: Path
    root: Path


def _identity(folder: Path, fleet: Fleet) -> Identity:
    certificate = folder / "device.crt"
    if (folder / NEXT_CERTIFICATE).exists() and not (folder / NEXT_KEY).exists():
        certificate = folder / NEXT_CERTIFICATE  # a renewal was cut off when the new key was in place
    return Identity(fleet, folder / "device.key", certificate, folder / "ca.pem", folder / "root.json")


def parse_token(text: str) -> Token:
    """Parse the text of an enrolment token.

    Raises:
        AgentError: ``enrol.token``: it is none.
    """
    match = _TOKEN.match(text.strip())
    if match is None:
        raise AgentError(
            "enrol.token", "this is not an enrolment token; ask the fleet for one: `wheeltapper device token …`"
        )
    return Token(text.strip(), match.group(1), match.group(3))


def load_identity(state_dir: Path) -> Identity:
    """Load the identity from the state folder ``state_dir``.

    Raises:
        AgentError: ``enrol.missing`` (the device is not enrolled, or a file is missing), ``enrol.denied`` (this user
            may not read it).
    """
    folder = state_dir / "identity"
    try:
        fleet = msgspec.json.decode((folder / "fleet.json").read_bytes(), type=Fleet)
        identity = _identity(folder, fleet)
        for path in (identity.key, identity.certificate, identity.ca, identity.root):
            if not path.is_file():
                raise AgentError("enrol.missing", f"{path.name} is missing from {folder}; enrol again")
    except PermissionError as error:
        raise AgentError(
            "enrol.denied", f"{folder} is closed to this user; run it as root or as the service's user"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise AgentError(
            "enrol.missing",
            f"no identity in {state_dir}: enrol with `wheeltapper-agent enroll --server … --state-dir {state_dir}`",
        ) from error
    return identity


def enroll(server: str, token: Token, state_dir: Path, timeout_seconds: float = 20.0) -> Identity:
    """Enrol this device: make a key, have the fleet's CA certify it, and store the identity.

    Args:
        server: address of the fleet service, ``https://host:port``.
        token: made by ``wheeltapper device token``.
        state_dir: the agent's state folder.
        timeout_seconds: see :class:`~wheeltapper_agent.link.https.HttpsClient`.

    Raises:
        AgentError: ``enrol.already``, ``enrol.unreachable``, ``enrol.ca_mismatch``, ``enrol.refused``,
            ``enrol.response``, ``enrol.storage``, ``enrol.key_damaged``.
    """
    folder = state_dir / "identity"
    if (folder / "fleet.json").exists():
        raise AgentError(
            "enrol.already", f"{state_dir} holds an identity already; remove its folder 'identity' to enrol again"
        )
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        ca_pem = _fetch_ca(server, token, timeout_seconds)
        key = make_key(folder / "device.key")
        answer = _ask(server, ca_pem, token, key, timeout_seconds)
        _check(answer, token, ca_pem, key)
        write_atomic(folder / "ca.pem", ca_pem, 0o644)
        write_atomic(folder / "device.crt", answer.certificate.encode(), 0o644)
        write_atomic(folder / "root.json", answer.root.encode(), 0o644)
        fleet = Fleet(
            device=answer.device,
            https_url=answer.https_url,
            mqtt_host=answer.mqtt_host,
            mqtt_port=answer.mqtt_port,
            brokers=answer.brokers,
        )
        write_atomic(folder / "fleet.json", msgspec.json.encode(fleet))
    except OSError as error:
        raise AgentError("enrol.storage", f"the identity cannot be stored in {folder}: {error}") from error
    return _identity(folder, fleet)


def _fetch_ca(server: str, token: Token, timeout_seconds: float) -> bytes:
    """The CA's certificate as PEM, fetched from ``server`` and checked against the digest in ``token``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    context = ssl.create_default_context()
    # The server is not trusted yet and gets no secret: its answer counts only if it has the digest in the token.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # urllib3 warns of what is intended here
            pem = HttpsClient(server, context, timeout_seconds).request("GET", "/v1/enrol/ca", _MAX_ANSWER_BYTES)
    except HttpsError as error:
        raise AgentError("enrol.unreachable", error.message) from error
    try:
        given = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise AgentError("enrol.ca_mismatch", "the server's CA certificate cannot be read") from error
    # A CA that was renewed is given out together with those before it, which older tokens name.
    for certificate in given:
        der = certificate.public_bytes(serialization.Encoding.DER)
        if hashlib.sha256(der).hexdigest() == token.ca_sha256:
            return certificate.public_bytes(serialization.Encoding.PEM)  # only the one that was checked
    raise AgentError(
        "enrol.ca_mismatch", "the server's CA is not the one that the token names; is it the right server?"
    )


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key: the one at ``path``, left by an attempt that broke off, or a new one.

    Raises:
        AgentError: ``enrol.key_damaged``.
        OSError: it cannot be stored.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise AgentError(
                "enrol.key_damaged", f"{path} is damaged: {brief(error)}; remove it and enrol again"
            ) from error
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        raise AgentError("enrol.key_damaged", f"{path} is not an EC key; remove it and enrol again")
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_once(path, pem, 0o600)
    return made


def make_request(key: ec.EllipticCurvePrivateKey, device: str) -> str:
    """A certificate signing request (PKCS #10, PEM) of ``device`` for ``key``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _ask(server: str, ca_pem: bytes, token: Token, key: ec.EllipticCurvePrivateKey, timeout_seconds: float) -> _Answer:
    """Send the token and a certificate signing request (PKCS #10) to ``server``, over TLS verified by the CA."""
    body = {"token": token.text, "csr": make_request(key, token.device)}
    context = ssl.create_default_context(cadata=ca_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        raw = HttpsClient(server, context, timeout_seconds).request(
            "POST", "/v1/enrol", _MAX_ANSWER_BYTES, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
    except HttpsError as error:
        code = "enrol.refused" if error.status else "enrol.unreachable"
        raise AgentError(code, error.message) from error
    try:
        return msgspec.json.decode(raw, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError("enrol.response", f"the server's answer cannot be read: {error}") from error


def _check(answer: _Answer, token: Token, ca_pem: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Check that the certificate is of this device, key and CA, and that the root of trust verifies itself.

    Raises:
        AgentError: ``enrol.response``.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import NameOID
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))
        metadata = Metadata[Root].from_bytes(answer.root.encode())
        if not isinstance(metadata.signed, Root):
            raise ValueError("the root of trust is of another type")
        metadata.verify_delegate(Root.type, metadata)
    except (ValueError, TypeError, InvalidSignature, RepositoryError) as error:
        raise AgentError("enrol.response", f"the server's answer cannot be verified: {error}") from error
    if answer.device != token.device or names != [token.device] or certificate.public_key() != key.public_key():
        raise AgentError("enrol.response", f"the certificate in the answer is not that of {token.device}")
