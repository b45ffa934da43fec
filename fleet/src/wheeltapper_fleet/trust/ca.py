"""The fleet's certificate authority: who is a device, who is the service.

Invariants:
    * A device's certificate says what the fleet decided, not what the CSR asked for: the subject is the device id
      alone, and every extension that the CSR requests is ignored. It contributes its public key, after its signature
      was checked.
    * Only EC keys on P-256 or stronger. A device's certificate is good for TLS clients only, the server's for TLS
      servers only, and neither can sign another.
    * ``fleet.ingest``, the service's own name at the broker, holds a dot and so can never be a device's.

Not here: revocation (a device's row in the database says so, at every request) and renewal.
"""

from __future__ import annotations

import datetime
import hashlib
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
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["INGEST_NAME", "MAX_CSR_BYTES", "DeviceCertificate", "FleetCA", "TlsFiles", "certificate_sha256"]

INGEST_NAME: Final = "fleet.ingest"
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
    """Where one party's TLS material is."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class DeviceCertificate:
    """A certificate as issued, with what the database keeps of it."""

    pem: bytes
    sha256: str
    expires_at: float


def certificate_sha256(certificate: x509.Certificate) -> str:
    """SHA-256 (hex) of the certificate's DER."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


class FleetCA:
    """The CA in ``folder`` (``ca.pem``, ``ca.key``).

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
        """Make a new CA.

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
        """The CA's certificate (PEM)."""
        return self._folder / "ca.pem"

    @property
    def ca_sha256(self) -> str:
        """SHA-256 (hex) of the CA certificate's DER: what an enrolment token carries."""
        return certificate_sha256(self._certificate)

    def sign_device_csr(self, csr_pem: bytes, device: str) -> DeviceCertificate:
        """The certificate of ``device`` for the key in its CSR.

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
        """The service's certificate for 127.0.0.1, localhost and ``hosts``; made anew if needed."""
        wanted = [_general_name(host) for host in dict.fromkeys((*_LOCAL_HOSTS, *hosts))]
        return self._service_files("server", "fleet.server", ExtendedKeyUsageOID.SERVER_AUTH, wanted)

    def ingest_files(self) -> TlsFiles:
        """The service's own client certificate at the broker (CN :data:`INGEST_NAME`)."""
        return self._service_files("ingest", INGEST_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _service_files(self, stem: str, name: str, usage: ObjectIdentifier, hosts: list[x509.GeneralName]) -> TlsFiles:
        found = TlsFiles(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.certificate_path)
        if not self._still_good(found, hosts):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self._issue(name, key.public_key(), usage, _SERVICE_DAYS, hosts)
            # The certificate goes away first: a crash in between leaves no pair, never two that do not match.
            found.certificate.unlink(missing_ok=True)
            files.write_atomic(found.key, _key_pem(key), files.PRIVATE)
            files.write_atomic(found.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return found

    def _still_good(self, found: TlsFiles, hosts: list[x509.GeneralName]) -> bool:
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
