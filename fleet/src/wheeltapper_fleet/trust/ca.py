"""The fleet's certificate authority: issues the certificates of devices and of the service itself.

Invariants:
    * The fleet decides what a device's certificate says: the subject is the device id alone, and every extension that
      the CSR requests is ignored. Only the CSR's public key is used, after its signature was checked.
    * Only EC keys on P-256, P-384 or P-521. A device's certificate is valid for TLS clients only, the server's for TLS
      servers only, and neither can issue another.
    * The service's own name at the broker (``fleet.ingest``) contains a dot, so it can never be a device's name.

What this module does not do: revocation (the database is asked at every request) and renewal.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.names import FLEET_COMMON_NAME
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["MAX_CSR_BYTES", "DeviceCertificate", "FleetCA", "TlsFiles"]

MAX_CSR_BYTES: Final = 16 * 1024
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost")
_BACKDATE_SECONDS: Final = 3600
_DAY_SECONDS: Final = 86_400
_CA_DAYS: Final = 3650
_DEVICE_DAYS: Final = 365
_SERVICE_DAYS: Final = 365
_RENEW_DAYS: Final = 30
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True)
class TlsFiles:
    """Paths of the PEM files that one party of a TLS connection needs: its certificate, its key, and the CA."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class DeviceCertificate:
    """A newly issued device certificate.

    Args:
        pem: the certificate.
        sha256: its fingerprint; the database keeps it.
        expires_at: Unix seconds.
    """

    pem: bytes
    sha256: str
    expires_at: float


class FleetCA:
    """The certificate authority whose files are ``ca.pem`` and ``ca.key`` in ``folder``.

    Args:
        folder: the CA's folder, as :meth:`create` made it.
        clock: Unix seconds.

    Raises:
        FleetError: ``ca.missing``.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        try:
            self.pem = self.certificate_path.read_bytes()
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as error:
            raise FleetError("ca.missing", f"there is no CA in {folder}; run `wheeltapper keys init` first") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FleetError("ca.missing", f"{folder / 'ca.key'} does not hold an EC key; restore it from your backup")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self.pem)

    @classmethod
    def create(cls, folder: Path, clock: Callable[[], float]) -> FleetCA:
        """Create a CA: a key and a self-signed certificate, valid for ten years.

        Raises:
            FleetError: ``keys.exists``.
        """
        if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
            raise FleetError("keys.exists", f"{folder} holds a CA already; it is never overwritten")
        files.make_folder(folder, private=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"wheeltapper fleet CA {secrets.token_hex(4)}")
        builder = _builder(name, name, key.public_key(), clock(), _CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        files.write_atomic(folder / "ca.key", _key_pem(key), files.PRIVATE)
        files.write_atomic(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, clock)

    @property
    def certificate_path(self) -> Path:
        """Path of the CA's certificate (PEM)."""
        return self._folder / "ca.pem"

    @property
    def ca_sha256(self) -> str:
        """Fingerprint of the CA's certificate. An enrolment token carries it, so that a device knows whom to trust."""
        return certificate_sha256(self._certificate)

    def sign_device_csr(self, csr_pem: bytes, device: str) -> DeviceCertificate:
        """Issue the certificate of ``device`` for the key in its certificate signing request.

        Args:
            csr_pem: PKCS#10 in PEM, with the subject CN = ``device``.
            device: the device's id.

        Raises:
            FleetError: ``enrol.csr_invalid``, ``enrol.cn_mismatch``.
        """
        public_key = _checked_csr(csr_pem, device_id(device))
        certificate = self._issue(device, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, _DEVICE_DAYS)
        return DeviceCertificate(
            pem=certificate.public_bytes(serialization.Encoding.PEM),
            sha256=certificate_sha256(certificate),
            expires_at=certificate.not_valid_after_utc.timestamp(),
        )

    def server_files(self, hosts: Sequence[str] = ()) -> TlsFiles:
        """The server's certificate for 127.0.0.1, localhost and ``hosts``.

        A new one is issued if there is none, if the hosts changed, or if it expires within 30 days.
        """
        wanted = [_general_name(host) for host in dict.fromkeys((*_LOCAL_HOSTS, *hosts))]
        return self._service_files("server", "fleet.server", ExtendedKeyUsageOID.SERVER_AUTH, wanted)

    def ingest_files(self) -> TlsFiles:
        """The service's own client certificate at the broker; issued anew if missing or near its expiry."""
        return self._service_files("ingest", FLEET_COMMON_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _service_files(self, stem: str, name: str, usage: ObjectIdentifier, hosts: list[x509.GeneralName]) -> TlsFiles:
        """The certificate and key ``<stem>.pem`` and ``<stem>.key``; issued anew unless they are still good."""
        found = TlsFiles(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.certificate_path)
        if not self._still_good(found, hosts):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self._issue(name, key.public_key(), usage, _SERVICE_DAYS, hosts)
            # The old certificate is removed first: after a crash in between there is no pair, never one that differs.
            found.certificate.unlink(missing_ok=True)
            files.write_atomic(found.key, _key_pem(key), files.PRIVATE)
            files.write_atomic(found.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return found

    def _still_good(self, found: TlsFiles, hosts: list[x509.GeneralName]) -> bool:
        """Whether the certificate is this CA's, names these hosts, and does not expire soon."""
        try:
            certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
            names: list[x509.GeneralName] = []
            if hosts:
                names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
            certificate.verify_directly_issued_by(self._certificate)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        left_seconds = certificate.not_valid_after_utc.timestamp() - self._clock()
        return found.key.exists() and names == hosts and left_seconds > _RENEW_DAYS * _DAY_SECONDS

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        usage: ObjectIdentifier,
        days: int,
        hosts: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        builder = _builder(_name(name), self._certificate.subject, public_key, self._clock(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _checked_csr(csr_pem: bytes, device: str) -> ec.EllipticCurvePublicKey:
    """Check a certificate signing request and return its public key."""
    if len(csr_pem) > MAX_CSR_BYTES:
        raise FleetError("enrol.csr_invalid", f"the CSR has {len(csr_pem)} bytes; the cap is {MAX_CSR_BYTES}")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        signed = csr.is_signature_valid
        public_key = csr.public_key()
        names = [(attribute.oid, attribute.value) for attribute in csr.subject]
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise FleetError("enrol.csr_invalid", "the CSR cannot be read; send a PEM PKCS#10 request") from error
    if not signed:
        raise FleetError("enrol.csr_invalid", "the CSR is not signed by its own key; make a new one")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, _CURVES):
        raise FleetError("enrol.csr_invalid", "the CSR's key must be an EC key on P-256, P-384 or P-521")
    if names != [(NameOID.COMMON_NAME, device)]:
        raise FleetError("enrol.cn_mismatch", f"the CSR's subject must be CN={device} and nothing else")
    return public_key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: float, days: int
) -> x509.CertificateBuilder:
    """A certificate valid from an hour ago (for devices with slow clocks) until ``days`` from now."""
    start = datetime.datetime.fromtimestamp(int(now) - _BACKDATE_SECONDS, datetime.UTC)
    end = datetime.datetime.fromtimestamp(int(now) + days * _DAY_SECONDS, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
