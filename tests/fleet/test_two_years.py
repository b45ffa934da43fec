"""Two years in the life of a fleet, on a simulated clock: on no day does anything end that was not renewed in time.

The service's turn, the ceremony, the device's rule of when to renew and its TUF client are the real ones. Certificates
are judged by their dates and signatures, since no TLS library takes the time from a test; real TLS over several lives
is in ``test_reloading.py`` and ``device_api/test_renewal.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.fleet.trust.test_ceremony import refreshed, target
from tests.fleet.trust.world import MODEL, World, make_csr
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.link.validity import read_validity, renewal_time
from wheeltapper_fleet.devices.certificates import check_certificate
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.renewal import renew_certificate
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import CertificateLives, FleetCA
from wheeltapper_fleet.trust.ceremony import renew_roles
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_fleet.upkeep import Upkeep

DAY = 86_400.0
STEPS_A_DAY = 2
OPERATOR_TAKES_DAYS = 60
"""So long after the first warning somebody comes with the offline keys."""
AWAY = {"press-away": (90, 320), "press-lost": (150, 560)}
"""Devices that are switched off, from day to day."""
NAMES = ("press-1", "press-2", "press-3", *AWAY)


@dataclass
class Device:
    """What a device has: its certificate, and the CA that came with it."""

    name: str
    certificate: bytes
    ca: bytes

    @property
    def sha256(self) -> str:
        return certificate_sha256(x509.load_pem_x509_certificate(self.certificate))

    def is_on(self, day: float) -> bool:
        begin, end = AWAY.get(self.name, (0, 0))
        return not begin <= day < end


def enrolled(world: World, name: str) -> Device:
    token = world.enrolment.create_token(name)
    answer = world.enrolment.enrol(token, make_csr(name)[1])
    return Device(name, answer.certificate.encode(), answer.ca.encode())


def is_valid(pem: bytes, ca_pem: bytes, now: float) -> bool:
    """Whether a certificate is valid at ``now`` for somebody who trusts the CA's certificate ``ca_pem``."""
    certificate, ca = x509.load_pem_x509_certificate(pem), x509.load_pem_x509_certificate(ca_pem)
    certificate.verify_directly_issued_by(ca)
    return all(
        each.not_valid_before_utc.timestamp() <= now < each.not_valid_after_utc.timestamp()
        for each in (certificate, ca)
    )


@pytest.fixture
def fleet(world: World, tmp_path: Path) -> tuple[World, Upkeep]:
    """A fleet whose CA lives for two years only, so that it is renewed within the test."""
    lives = CertificateLives(ca_seconds=730 * DAY)
    world.ca = world.enrolment._ca = FleetCA.create(tmp_path / "short-ca", world.clock, lives)
    world.ca.server_files()
    world.ca.ingest_files()
    duties = (("server", lambda: bool(world.ca.server_files())), ("ingest", lambda: bool(world.ca.ingest_files())))
    return world, Upkeep(world.repository, world.ca, world.engine, world.clock, duties=duties)


def test_two_years(fleet: tuple[World, Upkeep]) -> None:
    """Long because it is one story: a day's turn of service, operator and devices, 730 times."""
    world, upkeep = fleet
    begin = world.clock.now
    devices = {name: enrolled(world, name) for name in NAMES}
    renewals = dict.fromkeys(NAMES, 0)
    warned_day: float | None = None
    ceremonies = releases = 0
    for step in range(730 * STEPS_A_DAY):
        day = step / STEPS_A_DAY
        now = world.clock.now = begin + day * DAY
        upkeep.turn()
        if step % STEPS_A_DAY:
            continue
        by_hand = [life for life in upkeep.ending() if life.name != "device certificate"]
        assert all(life.expires_at > now for life in by_hand), (day, by_hand)
        if by_hand and warned_day is None:
            warned_day = day
        if warned_day is not None and day - warned_day >= OPERATOR_TAKES_DAYS:
            renew_roles(world.keys_dir, world.data_dir, [], clock=world.clock)
            ceremonies, warned_day = ceremonies + 1, None
        if day % 120 == 0:
            releases += 1
            world.publish(releases)
        server = (world.ca.certificate_path.parent / "server.pem").read_bytes()
        for device in [each for each in devices.values() if each.is_on(day)]:
            life = read_validity(device.certificate)
            if device.name == "press-lost" and now >= life.ends_at:
                forget_device(world.engine, device.name, who="ann", now=1.0)
                device = devices[device.name] = enrolled(world, device.name)
            elif now >= renewal_time(life, device.name):
                csr = make_csr(device.name)[1]
                answer = renew_certificate(world.engine, world.ca, device.name, device.sha256, csr)
                device.certificate, device.ca = answer.certificate.encode(), answer.ca.encode()
                renewals[device.name] += 1
            check_certificate(world.engine, device.name, device.sha256)
            assert is_valid(device.certificate, world.ca.pem, now), (day, device.name, "the service refuses the device")
            assert is_valid(server, device.ca, now), (day, device.name, "the device refuses the server")
            if day % 30 == 0:
                refreshed(world, device.name).check_target(target(world, releases))
    assert ceremonies == 2
    assert releases == 7
    assert len(x509.load_pem_x509_certificates(world.ca.bundle)) == 2, "the CA was renewed"
    assert {renewals[name] for name in ("press-1", "press-2", "press-3")} == {3}
    assert renewals["press-away"] >= 2
    refreshed(world, "enrolled-on-the-last-day").check_target(target(world, 1))


def test_the_same_fleet_without_its_operator_dies_and_says_so_before(fleet: tuple[World, Upkeep]) -> None:
    """The test above can fail: what nobody renews ends, first warned of, then refused."""
    world, upkeep = fleet
    world.publish(1)
    warned_day = refused_day = None
    begin = world.clock.now
    for day in range(0, 370, 5):
        world.clock.now = begin + day * DAY
        upkeep.turn()
        if warned_day is None and upkeep.ending():
            warned_day = day
        try:
            world.repository.check_alive(MODEL, world.clock() + 7 * DAY)
        except FleetError:
            refused_day = day if refused_day is None else refused_day
    assert warned_day is not None
    assert refused_day is not None
    assert warned_day + 90 < refused_day < 365
    with pytest.raises(AgentError) as caught:
        refreshed(world, "press-1")
    assert caught.value.code == "trust.expired"
