"""What the fleet reads from an X.509 certificate: its common name and its fingerprint."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

__all__ = ["certificate_sha256", "common_name"]


def certificate_sha256(certificate: x509.Certificate) -> str:
    """The certificate's fingerprint: SHA-256 (hex) of its DER encoding."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def common_name(certificate: x509.Certificate) -> str | None:
    """The subject's common name; None unless there is exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None
