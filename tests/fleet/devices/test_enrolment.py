from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select

from tests.fleet.trust.world import World, make_csr
from wheeltapper_fleet.devices.enrolment import Enrolled
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import devices, enrolment_tokens
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_protocols.errors import WireError


def code_of(world: World, token: str, csr: bytes) -> str:
    with pytest.raises(FleetError) as caught:
        world.enrolment.enrol(token, csr)
    return caught.value.code


def test_enrol(world: World) -> None:
    token = world.enrolment.create_token("dev-1", tags={"site": "north"})
    prefix, device, secret, ca_sha256 = token.split(".")
    assert (prefix, device) == ("wt1", "dev-1")
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert ca_sha256 == certificate_sha256(x509.load_pem_x509_certificate(world.ca.pem))
    answer = world.enrolment.enrol(token, make_csr("dev-1")[1])
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert answer.root.encode() == world.repository.trusted_root()
    assert (answer.mqtt_host, answer.mqtt_port) == ("127.0.0.1", 8883)
    with world.engine.connect() as connection:
        row = connection.execute(select(devices)).one()
        kept = connection.execute(select(enrolment_tokens)).one()
    assert (row.id, row.tags, row.state) == ("dev-1", {"site": "north"}, "active")
    assert row.certificate_sha256 == certificate_sha256(certificate)
    assert kept.used_at is not None
    assert secret not in str(kept)


def test_refused_tokens(world: World) -> None:
    csr = make_csr("dev-1")[1]
    token = world.enrolment.create_token("dev-1")
    made_up = token.split(".")
    made_up[2] = base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode()
    for text in (".".join(made_up), "", "wt1", token + "x", token.replace("dev-1", "dev-2"), "wt1.é.x.y"):
        assert code_of(world, text, csr) == "enrol.token_unknown"
    world.enrolment.enrol(token, csr)
    assert code_of(world, token, csr) == "enrol.token_used"
    short = world.enrolment.create_token("dev-2", ttl_seconds=60)
    world.clock.now += 61
    assert code_of(world, short, make_csr("dev-2")[1]) == "enrol.token_expired"
    with world.engine.connect() as connection:
        enrolled = select(devices.c.id).where(devices.c.enrolled_at.is_not(None))
        assert connection.execute(enrolled).scalars().all() == ["dev-1"]


def test_a_refused_csr_does_not_use_up_the_token(world: World) -> None:
    token = world.enrolment.create_token("dev-1")
    assert code_of(world, token, make_csr("dev-2")[1]) == "enrol.cn_mismatch"
    assert code_of(world, token, b"garbage") == "enrol.csr_invalid"
    assert world.enrolment.enrol(token, make_csr("dev-1")[1]).device == "dev-1"


def test_a_device_exists_once(world: World) -> None:
    first, second = (world.enrolment.create_token("dev-1") for _ in range(2))
    world.enrolment.enrol(first, make_csr("dev-1")[1])
    assert code_of(world, second, make_csr("dev-1")[1]) == "enrol.device_exists"
    with pytest.raises(FleetError) as caught:
        world.enrolment.create_token("dev-1")
    assert caught.value.code == "enrol.device_exists"
    forget_device(world.engine, "dev-1", who="ann", now=1.0)
    assert world.enrolment.enrol(second, make_csr("dev-1")[1]).device == "dev-1"


def test_of_racing_users_one_wins(world: World) -> None:
    token = world.enrolment.create_token("dev-1")
    barrier = threading.Barrier(6)
    outcomes: list[Any] = []

    def use(csr: bytes) -> None:
        barrier.wait()
        try:
            outcomes.append(world.enrolment.enrol(token, csr))
        except FleetError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=use, args=(make_csr("dev-1")[1],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, Enrolled)]
    assert len(winners) == 1
    assert [outcome for outcome in outcomes if outcome not in winners] == ["enrol.token_used"] * 5
    certificate = x509.load_pem_x509_certificate(winners[0].certificate.encode())
    with world.engine.connect() as connection:
        kept = connection.execute(select(devices.c.certificate_sha256)).scalar_one()
    assert kept == certificate_sha256(certificate)


def test_bad_requests(world: World) -> None:
    with pytest.raises(WireError):
        world.enrolment.create_token("../dev")
    with pytest.raises(FleetError) as caught:
        world.enrolment.create_token("dev-1", ttl_seconds=0)
    assert caught.value.code == "enrol.ttl"
    people = Devices(world.engine, world.clock)
    with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
        people.move("nobody", Action.REVOKE, who="ann")
    with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
        people.forget("nobody", who="ann")
