"""The two dates of a certificate, read without a library, are those that cryptography reads."""

from __future__ import annotations

import base64
import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.link.validity import Validity, read_validity, renewal_time

KEY = ec.generate_private_key(ec.SECP256R1())
DAY = 86_400.0
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def certificate(begin: datetime.datetime, end: datetime.datetime, issuer: str = "CA", serial: int = 7) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, issuer[:64])] * (1 + len(issuer) // 64))
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, begin, end)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


@settings(max_examples=60, deadline=None)
@given(
    begin=st.integers(-600_000_000, 4_100_000_000).map(lambda seconds: EPOCH + datetime.timedelta(seconds=seconds)),
    seconds=st.integers(0, 100 * 365 * 86_400),
    issuer=st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=400),
    serial=st.integers(1, 2**159),
)
def test_any_dates_issuer_and_serial_number(begin: datetime.datetime, seconds: int, issuer: str, serial: int) -> None:
    end = begin + datetime.timedelta(seconds=seconds)
    pem = certificate(begin, end, issuer, serial)
    wanted = Validity(begin.timestamp(), end.timestamp())
    assert read_validity(pem) == wanted
    assert read_validity(b"text before\n" + pem + pem) == wanted


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 600), flip=st.integers(1, 255))
def test_what_is_no_certificate_is_refused_and_never_ends_the_agent(cut: int, flip: int) -> None:
    pem = bytearray(
        certificate(
            datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
        )
    )
    pem[cut % len(pem)] ^= flip
    for content in (bytes(pem), bytes(pem[:cut]), b"", b"-----BEGIN CERTIFICATE----------END CERTIFICATE-----"):
        with contextlib.suppress(AgentError):  # any other error fails the test
            read_validity(content)


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), st.floats(0, 4e9))
def test_a_device_renews_before_two_thirds_of_the_life(device: str, begin: float) -> None:
    life = Validity(begin, begin + 365 * DAY)
    moment = renewal_time(life, device)
    assert begin + 0.5 * 365 * DAY <= moment < begin + 2 / 3 * 365 * DAY
    assert renewal_time(life, device) == moment


def test_devices_that_were_enrolled_at_once_do_not_renew_at_once() -> None:
    life = Validity(1.8e9, 1.8e9 + 365 * DAY)
    days = [int(renewal_time(life, f"press-{number}") // DAY) for number in range(10_000)]
    busiest = max(days.count(day) for day in set(days))
    assert len(set(days)) > 50
    assert busiest < 2 * 10_000 / len(set(days))


@pytest.mark.parametrize("text", ["20261301000000Z", "not a time", "261129"])
def test_a_date_that_is_none_is_refused(text: str) -> None:
    pem = certificate(
        datetime.datetime(2060, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2061, 1, 1, tzinfo=datetime.UTC)
    )
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    broken = der.replace(b"20600101000000Z", text.encode().ljust(15))
    with pytest.raises(AgentError, match="cannot be read"):
        read_validity(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(broken) + b"-----END CERTIFICATE-----")
