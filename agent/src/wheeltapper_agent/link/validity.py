"""From when to when a certificate is valid, and when a device renews its own. Pure.

The device's own certificate is read here without a library: ``cryptography`` would take 8 MB of an agent that otherwise
does without it. Only what is read, the two dates, is understood; whether the certificate can be trusted is for the TLS
library.

Source: RFC 5280, 4.1 (fields) and 4.1.2.5 (validity); RFC 7468 (PEM); X.690, 8.1 (DER).
"""

from __future__ import annotations

import binascii
import datetime
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["Validity", "read_validity", "renewal_time"]

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18
_FORMATS: Final = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
_EARLIEST_SHARE: Final = 0.5
_JITTER_SHARE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is valid, Unix seconds."""

    begins_at: float
    ends_at: float


def renewal_time(validity: Validity, device: str) -> float:
    """When a device renews its certificate: after 50 % to 65 % of its life, always the same moment for one certificate.

    Devices that were enrolled in one hour so renew over two months, not in one hour.

    Args:
        validity: of the certificate.
        device: the device's id.

    Returns:
        Unix seconds.
    """
    digest = hashlib.sha256(f"{device} {validity.begins_at}".encode()).digest()
    share = _EARLIEST_SHARE + _JITTER_SHARE * int.from_bytes(digest[:4], "big") / 2**32
    return validity.begins_at + share * (validity.ends_at - validity.begins_at)


def read_validity(pem: bytes) -> Validity:
    """Read the validity of the first certificate in ``pem``.

    Raises:
        AgentError: ``identity.certificate``: it cannot be read.
    """
    found = _PEM.search(pem)
    try:
        if found is None:
            raise ValueError("no certificate")
        outer = _Der(binascii.a2b_base64(found.group(1)))
        fields = _Der(_Der(outer.take(_SEQUENCE)).take(_SEQUENCE))
        fields.skip(_VERSION)
        fields.take(_INTEGER)  # serial number
        fields.take(_SEQUENCE)  # signature algorithm
        fields.take(_SEQUENCE)  # issuer
        dates = _Der(fields.take(_SEQUENCE))
        return Validity(dates.time(), dates.time())
    except (ValueError, IndexError, OverflowError) as error:
        raise AgentError("identity.certificate", f"the device's certificate cannot be read: {error}") from error


class _Der:
    """Reads one DER element after the other."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def take(self, tag: int) -> bytes:
        """The content of the next element, which must have ``tag``."""
        if self._rest[0] != tag:
            raise ValueError(f"element {self._rest[0]:#x} in place of {tag:#x}")
        length, start = self._rest[1], 2
        if length & 0x80:  # the long form: so many bytes of length follow
            start += length & 0x7F
            length = int.from_bytes(self._rest[2:start], "big")
        content, self._rest = self._rest[start : start + length], self._rest[start + length :]
        if len(content) != length:
            raise ValueError("it is cut off")
        return content

    def skip(self, tag: int) -> None:
        """Read the next element if it has ``tag``."""
        if self._rest[0] == tag:
            self.take(tag)

    def time(self) -> float:
        """The next element, a time, in Unix seconds."""
        tag = self._rest[0]
        text = self.take(tag).decode("ascii")
        moment = datetime.datetime.strptime(text, _FORMATS.get(tag, "")).replace(tzinfo=datetime.UTC)
        if tag == _UTC_TIME and moment.year >= 2050:  # RFC 5280: two digits of a year are 1950 to 2049
            moment = moment.replace(year=moment.year - 100)
        return moment.timestamp()
