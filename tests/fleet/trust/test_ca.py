from __future__ import annotations

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fleet.trust.world import World, make_csr
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import FleetCA


def test_device_certificate_ignores_what_the_csr_asks_for(world: World) -> None:
    _, csr = make_csr("dev-1")  # it asks to be a CA
    issued = world.ca.sign_device_csr(csr, "dev-1")
    certificate = x509.load_pem_x509_certificate(issued.pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(world.ca.pem))
    assert certificate.subject.rfc4514_string() == "CN=dev-1"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_before_utc.timestamp() < world.clock() - 60
    assert issued.expires_at > world.clock() + 300 * 86_400


@pytest.mark.parametrize(
    ("csr", "code"),
    [
        (make_csr("dev-2")[1], "enrol.cn_mismatch"),
        (b"garbage", "enrol.csr_invalid"),
        (b"", "enrol.csr_invalid"),
        (b"x" * 20_000, "enrol.csr_invalid"),
        (make_csr("dev-1", ec.SECP224R1())[1], "enrol.csr_invalid"),
    ],
)
def test_malformed_and_weak_csrs_are_refused(world: World, csr: bytes, code: str) -> None:
    with pytest.raises(FleetError) as caught:
        world.ca.sign_device_csr(csr, "dev-1")
    assert caught.value.code == code


def test_a_csr_signed_by_another_key_or_with_more_names_is_refused(world: World) -> None:
    der = bytearray(x509.load_pem_x509_csr(make_csr("dev-1")[1]).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(FleetError) as caught:
        world.ca.sign_device_csr(broken, "dev-1")
    assert caught.value.code == "enrol.csr_invalid"
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("dev-1", "dev-2")]
    key = ec.generate_private_key(ec.SECP256R1())
    two = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, hashes.SHA256())
    with pytest.raises(FleetError) as caught:
        world.ca.sign_device_csr(two.public_bytes(serialization.Encoding.PEM), "dev-1")
    assert caught.value.code == "enrol.cn_mismatch"
    other = ed25519.Ed25519PrivateKey.generate()
    edwards = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names[:1])).sign(other, None)
    with pytest.raises(FleetError) as caught:
        world.ca.sign_device_csr(edwards.public_bytes(serialization.Encoding.PEM), "dev-1")
    assert caught.value.code == "enrol.csr_invalid"


def test_service_certificates_are_kept_until_they_must_be_renewed(world: World) -> None:
    files = world.ca.server_files(["fleet.example", "192.0.2.7"])
    first = files.certificate.read_bytes()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    names = x509.load_pem_x509_certificate(first).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "fleet.example"]
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "192.0.2.7"]
    assert world.ca.server_files(["fleet.example", "192.0.2.7"]).certificate.read_bytes() == first
    assert world.ca.server_files().certificate.read_bytes() != first
    second = files.certificate.read_bytes()
    world.clock.now += 340 * 86_400
    assert world.ca.server_files().certificate.read_bytes() != second


def test_the_fleets_own_name_cannot_be_a_device_id(world: World) -> None:
    certificate = x509.load_pem_x509_certificate(world.ca.ingest_files().certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=fleet.ingest"
    assert world.ca.ingest_files().certificate.read_bytes() == certificate.public_bytes(serialization.Encoding.PEM)


def test_a_ca_is_never_overwritten(world: World) -> None:
    with pytest.raises(FleetError) as caught:
        FleetCA.create(world.data_dir / "ca", world.clock)
    assert caught.value.code == "keys.exists"
    with pytest.raises(FleetError) as caught:
        FleetCA(world.folder / "none", world.clock)
    assert caught.value.code == "ca.missing"
