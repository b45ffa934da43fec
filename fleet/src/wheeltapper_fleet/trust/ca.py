"""The fleet's certificate authority: issues the certificates of devices and of the service itself.

Invariants:
    * The fleet decides what a device's certificate says: the subject is the device id alone, and every extension that
      the CSR requests is ignored. Only the CSR's public key is used, after its signature was checked.
    * Only EC keys on P-256, P-384 or P-521. A device's certificate is valid for TLS clients only, the server's for TLS
      servers only, and neither can issue another.
    * The service's own name at the broker (``fleet.ingest``) contains a dot, so it can never be a device's name.
    * The CA's certificate is renewed under the same key and name when a third of its life is left. What it issued stays
      valid under the new certificate, and what it issues then is valid under the old one, as long as that lasts. The
      ones before are kept in ``ca-before.pem``, so that a token made under one of them is still good.
    * No certificate outlives the CA's.

What this module does not do: revocation (the database is asked at every request); decide when to renew
(:mod:`wheeltapper_fleet.upkeep`).
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import secrets
from collections.abc import Callable, Iterable, Sequence
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
from wheeltapper_fleet.ground.names import fleet_name
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_fleet.trust.expiry import Life, RenewedBy
from wheeltapper_protocols.wire.ids import device_id

__all__ = [
    "DEVICE_SECONDS",
    "MAX_CSR_BYTES",
    "CertificateLives",
    "DeviceCertificate",
    "FleetCA",
    "TlsFiles",
    "certificate_life",
]

MAX_CSR_BYTES: Final = 16 * 1024
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost")
_BACKDATE_SECONDS: Final = 3600.0
_DAY_SECONDS: Final = 86_400
DEVICE_SECONDS: Final = 365 * _DAY_SECONDS
_RENEWED_SHARE: Final = 1 / 3
"""A certificate is renewed when this share of its life is left."""
_STAND_IN_SECONDS: Final = 300.0
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True)
class CertificateLives:
    """How long newly issued certificates are valid: the CA's own, the service's, and devices'; in seconds.

    A device's begins ``device_backdate_seconds`` before its issue, for devices whose clocks are slow.
    """

    ca_seconds: float = 3650 * _DAY_SECONDS
    service_seconds: float = 365 * _DAY_SECONDS
    device_seconds: float = DEVICE_SECONDS
    device_backdate_seconds: float = _BACKDATE_SECONDS


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
        serial: its serial number (hex), by which a revocation list names it.
    """

    pem: bytes
    sha256: str
    expires_at: float
    serial: str = ""


class FleetCA:
    """The certificate authority whose files are ``ca.pem`` and ``ca.key`` in ``folder``.

    Args:
        folder: the CA's folder, as :meth:`create` made it.
        clock: Unix seconds.
        lives: how long what is issued is valid.

    Raises:
        FleetError: ``ca.missing``.
    """

    def __init__(self, folder: Path, clock: Callable[[], float], lives: CertificateLives | None = None) -> None:
        self._folder = folder
        self._clock = clock
        self._lives = lives or CertificateLives()
        try:
            self.pem = self.certificate_path.read_bytes()
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as error:
            raise FleetError(
                "ca.missing",
                f"there are no keys in {folder.parent}: make them with "
                f"`wheeltapper keys init --keys-dir … --data-dir {folder.parent}`, or name another data folder",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FleetError("ca.missing", f"{folder / 'ca.key'} does not hold an EC key; restore it from your backup")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self.pem)

    @classmethod
    def create(cls, folder: Path, clock: Callable[[], float], lives: CertificateLives | None = None) -> FleetCA:
        """Create a CA: a key and a self-signed certificate, valid for ten years.

        Raises:
            FleetError: ``keys.exists``.
        """
        if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
            raise FleetError("keys.exists", f"{folder} holds a CA already; it is never overwritten")
        files.make_folder(folder, private=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"wheeltapper fleet CA {secrets.token_hex(4)}")
        certificate = _ca_certificate(key, name, clock(), (lives or CertificateLives()).ca_seconds)
        files.write_atomic(folder / "ca.key", _key_pem(key), files.PRIVATE)
        files.write_atomic(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, clock, lives)

    def renew(self) -> bool:
        """Renew the CA's own certificate if only a third of its life is left; returns whether it was."""
        with files.locked(self._folder / ".lock"):
            return self._renew()

    def _renew(self) -> bool:
        now = self._clock()
        self.pem = self.certificate_path.read_bytes()  # another process may have renewed it
        self._certificate = x509.load_pem_x509_certificate(self.pem)
        if _left_share(self._certificate, now) > _RENEWED_SHARE:
            return False
        pem = _ca_certificate(self._key, self._certificate.subject, now, self._lives.ca_seconds).public_bytes(
            serialization.Encoding.PEM
        )
        before = [each for each in self._before() if each.not_valid_after_utc.timestamp() > now]
        kept = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (self._certificate, *before))
        files.write_atomic(self._folder / "ca-before.pem", kept)
        files.write_atomic(self.certificate_path, pem)
        self.pem, self._certificate = pem, x509.load_pem_x509_certificate(pem)
        return True

    @property
    def bundle(self) -> bytes:
        """The CA's certificates as PEM: the present one, then those before that are valid still."""
        now = self._clock()
        before = (each for each in self._before() if each.not_valid_after_utc.timestamp() > now)
        return self.pem + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in before)

    def _before(self) -> list[x509.Certificate]:
        try:
            found = x509.load_pem_x509_certificates((self._folder / "ca-before.pem").read_bytes())
        except FileNotFoundError:
            return []
        own = self._certificate.public_bytes(serialization.Encoding.DER)
        return [each for each in found if each.public_bytes(serialization.Encoding.DER) != own]

    def lives(self) -> list[Life]:
        """When the CA's certificate and those of the service end."""
        found = [certificate_life("CA certificate", self.pem, RenewedBy.SERVICE)]
        names = {"server": RenewedBy.SERVICE, "ingest": RenewedBy.SERVICE}
        names |= {path.stem: RenewedBy.SERVICE for path in sorted(self._folder.glob("fleet-*.pem"))}
        names |= {path.stem: RenewedBy.OPERATOR for path in sorted(self._folder.glob("broker-*.pem"))}
        for stem, renewed_by in names.items():
            with contextlib.suppress(FileNotFoundError, ValueError):
                pem = (self._folder / f"{stem}.pem").read_bytes()
                found.append(certificate_life(f"{stem} certificate", pem, renewed_by))
        return found

    def now(self) -> float:
        """The time by which it issues, in Unix seconds."""
        return self._clock()

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
        usage, lives = ExtendedKeyUsageOID.CLIENT_AUTH, self._lives
        certificate = self._issue(
            device, public_key, usage, lives.device_seconds, backdate_seconds=lives.device_backdate_seconds
        )
        return DeviceCertificate(
            pem=certificate.public_bytes(serialization.Encoding.PEM),
            sha256=certificate_sha256(certificate),
            expires_at=certificate.not_valid_after_utc.timestamp(),
            serial=f"{certificate.serial_number:x}",
        )

    def stand_in(self, device: str) -> tuple[bytes, bytes]:
        """A certificate in the name of ``device``, good for minutes, and its key, both PEM: the service itself connects
        with it for a moment, to end the device's own connection.
        """
        key, usage = ec.generate_private_key(ec.SECP256R1()), ExtendedKeyUsageOID.CLIENT_AUTH
        issued = self._issue(device_id(device), key.public_key(), usage, _STAND_IN_SECONDS)
        return issued.public_bytes(serialization.Encoding.PEM), _key_pem(key)

    def revocation_list(self, serials: Iterable[str], seconds: float) -> bytes:
        """A certificate revocation list (PEM, RFC 5280) of the certificates with these serial numbers (hex).

        Args:
            serials: of certificates that are revoked.
            seconds: how long the list is good; brokers refuse everybody after that, so it is written anew long before.
        """
        now = datetime.datetime.fromtimestamp(int(self._clock()), datetime.UTC)
        begin = now - datetime.timedelta(seconds=_BACKDATE_SECONDS)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(begin).next_update(now + datetime.timedelta(seconds=seconds))
        builder = builder.add_extension(x509.CRLNumber(int(self._clock() * 1000)), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(begin)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server_files(self, hosts: Sequence[str] = ()) -> TlsFiles:
        """The server's certificate for 127.0.0.1, localhost and ``hosts``.

        A new one is issued if there is none, if the hosts changed, or if a third of its life is left.
        """
        wanted = [_general_name(host) for host in dict.fromkeys((*_LOCAL_HOSTS, *hosts))]
        return self._service_files("server", "fleet.server", ExtendedKeyUsageOID.SERVER_AUTH, wanted)

    def ingest_files(self, process: str = "ingest") -> TlsFiles:
        """The client certificate of a process of the service at the broker; issued anew if missing or near its expiry.

        Args:
            process: its name; each process that connects has one of its own.
        """
        return self._service_files(_stem(process), fleet_name(process), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def fleet_fingerprint(self, common_name: str) -> str | None:
        """The fingerprint of the present certificate of a process of the service; None if there is none."""
        try:
            stem = _stem(common_name.removeprefix(fleet_name("")))
            pem = (self._folder / f"{stem}.pem").read_bytes()
            return certificate_sha256(x509.load_pem_x509_certificate(pem))
        except (OSError, ValueError):
            return None

    def broker_files(self, host: str) -> TlsFiles:
        """The certificate of a broker on a machine of its own, which also knows it to the other nodes of a cluster."""
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        hosts = [_general_name(each) for each in dict.fromkeys((host, *_LOCAL_HOSTS))]
        return self._service_files(f"broker-{host.replace(':', '-')}", "wheeltapper.broker", usages, hosts)

    def _service_files(
        self,
        stem: str,
        name: str,
        usage: ObjectIdentifier | Sequence[ObjectIdentifier],
        hosts: list[x509.GeneralName],
    ) -> TlsFiles:
        """The certificate and key ``<stem>.pem`` and ``<stem>.key``; issued anew unless they are still good."""
        found = TlsFiles(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.certificate_path)
        with files.locked(self._folder / ".lock"):  # several processes start at once
            if not self._still_good(found, hosts):
                key = ec.generate_private_key(ec.SECP256R1())
                certificate = self._issue(name, key.public_key(), usage, self._lives.service_seconds, hosts)
                # The old certificate is removed first: after a crash in between there is no pair, never a wrong one.
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
        return found.key.exists() and names == hosts and _left_share(certificate, self._clock()) > _RENEWED_SHARE

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        usage: ObjectIdentifier | Sequence[ObjectIdentifier],
        seconds: float,
        hosts: Sequence[x509.GeneralName] = (),
        backdate_seconds: float = _BACKDATE_SECONDS,
    ) -> x509.Certificate:
        now = self._clock()
        seconds = min(seconds, self._certificate.not_valid_after_utc.timestamp() - now)
        if seconds <= 0:
            raise FleetError("ca.expired", "the CA's certificate has expired; start the service again to renew it", 500)
        builder = _builder(_name(name), self._certificate.subject, public_key, now, seconds, backdate_seconds)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([usage] if isinstance(usage, ObjectIdentifier) else usage), critical=False
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def certificate_life(name: str, pem: bytes, renewed_by: RenewedBy) -> Life:
    """When a certificate ends. Its life is counted from its issue, which is an hour after the begin that it names."""
    certificate = x509.load_pem_x509_certificate(pem)
    end = certificate.not_valid_after_utc.timestamp()
    issued = certificate.not_valid_before_utc.timestamp() + _BACKDATE_SECONDS
    return Life(name, end, end - issued, renewed_by)


def _left_share(certificate: x509.Certificate, now: float) -> float:
    """Which share of its life a certificate that was issued here has left; 0 if the clock was wrong at its issue, so
    that it is not valid yet.
    """
    if now < certificate.not_valid_before_utc.timestamp():
        return 0.0
    end = certificate.not_valid_after_utc.timestamp()
    issued = certificate.not_valid_before_utc.timestamp() + _BACKDATE_SECONDS
    return (end - now) / max(end - issued, 1.0)


def _ca_certificate(key: ec.EllipticCurvePrivateKey, name: x509.Name, now: float, seconds: float) -> x509.Certificate:
    """A self-signed certificate that may issue others, which may not."""
    builder = _builder(name, name, key.public_key(), now, seconds)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


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
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    seconds: float,
    backdate_seconds: float = _BACKDATE_SECONDS,
) -> x509.CertificateBuilder:
    """A certificate valid from a while ago (for devices with slow clocks) until ``seconds`` from now."""
    start = datetime.datetime.fromtimestamp(int(now - backdate_seconds), datetime.UTC)
    end = datetime.datetime.fromtimestamp(int(now + seconds), datetime.UTC)
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


def _stem(process: str) -> str:
    """The name of the files of a process's certificate."""
    return process if process == "ingest" else f"fleet-{process}"


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
