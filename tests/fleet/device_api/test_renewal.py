"""A device renews its certificate: the agent's own code against the real devices' API, over real mutual TLS."""

from __future__ import annotations

import json
import ssl
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.fleet.device_api.client import Listener
from tests.fleet.trust.world import Killed, World, killed_at, make_csr
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.identity import Identity, enroll, load_identity, parse_token
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_agent.link.renewal import CertificateRenewal, settle
from wheeltapper_agent.link.validity import read_validity, renewal_time
from wheeltapper_fleet.devices.certificates import accepts_certificate
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import devices

DAY = 86_400.0


class DeviceClock:
    """A device's clock that a test sets; monotonic time goes on with it."""

    def __init__(self, now: float) -> None:
        self.time = now
        self.up = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.up


class Device:
    """The part of an agent that has to do with its identity. Making it again is a restart."""

    def __init__(self, listener: Listener, state: Path, clock: DeviceClock) -> None:
        self.listener, self.state, self.clock = listener, state, clock
        self.identity = settle(load_identity(state))
        self.client = HttpsClient(listener.url, self.context(), 5.0)
        self.reconnections = 0
        self.renewal = CertificateRenewal(self.identity, self.client, clock, self._reconnect, 5.0)

    @classmethod
    def enrolled(cls, listener: Listener, name: str = "press-1") -> Device:
        state = listener.world.folder / f"state-{name}"
        enroll(listener.url, parse_token(listener.world.enrolment.create_token(name)), state)
        return cls(listener, state, DeviceClock(listener.world.clock()))

    def _reconnect(self) -> None:
        self.reconnections += 1

    def context(self) -> ssl.SSLContext:
        return tls_context(self.identity.ca, self.identity.certificate, self.identity.key)

    def restart(self) -> Device:
        self.client.close()
        return Device(self.listener, self.state, self.clock)

    def asks(self) -> str:
        """The code by which the fleet refuses this device; empty if it is accepted."""
        try:
            self.client.request("GET", "/v1/tuf/timestamp.json", 100_000)
        except HttpsError as error:
            return error.remote_code or error.code
        return ""

    def files(self) -> set[str]:
        return {path.name for path in self.identity.key.parent.iterdir()}


def certificate_of(world: World, device: str) -> tuple[str, str | None]:
    query = select(devices.c.certificate_sha256, devices.c.next_certificate_sha256).where(devices.c.id == device)
    with world.engine.connect() as connection:
        row = connection.execute(query).one()
    return row.certificate_sha256, row.next_certificate_sha256


def test_a_renewed_device_is_accepted_and_its_old_certificate_is_not(listener: Listener) -> None:
    device = Device.enrolled(listener)
    old_key, old_certificate = device.identity.key.read_bytes(), device.identity.certificate.read_bytes()
    assert device.asks() == ""
    for _ in range(3):
        before = device.identity.key.read_bytes()
        device.renewal.renew()
        assert device.identity.key.read_bytes() != before, "the key is a new one"
        assert stat.S_IMODE(device.identity.key.stat().st_mode) == 0o600
        assert device.asks() == "", "the client that was there uses the new certificate"
        assert device.files() == {"device.key", "device.crt", "ca.pem", "root.json", "fleet.json"}
    assert device.reconnections == 3
    assert device.restart().asks() == ""
    old = listener.client(old_certificate, old_key)
    assert old.get("/v1/tuf/timestamp.json").code == "device.certificate_replaced"
    assert old.ask("POST", "/v1/certificate", json.dumps({"csr": make_csr("press-1")[1].decode()})).status == 403


def test_both_certificates_are_good_until_the_new_one_is_seen(listener: Listener) -> None:
    certificate, key = listener.world.enrol("press-1")
    old = listener.client(certificate, key)
    news = []
    for _ in range(2):  # the answer to the first request is lost, and it is sent again
        new_key, csr = make_csr("press-1")
        answer = old.ask("POST", "/v1/certificate", json.dumps({"csr": csr.decode()}))
        assert answer.status == 200
        news.append(listener.client(answer.json["certificate"].encode(), new_key))
    assert old.get("/v1/tuf/timestamp.json").status == 200
    assert news[0].get("/v1/tuf/timestamp.json").code == "device.certificate_replaced"
    assert old.get("/v1/tuf/timestamp.json").status == 200
    assert news[1].get("/v1/certificate").json["device"] == "press-1"
    assert old.get("/v1/tuf/timestamp.json").code == "device.certificate_replaced"
    assert news[1].get("/v1/tuf/timestamp.json").status == 200
    assert certificate_of(listener.world, "press-1")[1] is None


def test_the_broker_accepts_the_next_certificate_as_the_first_to_see_it(listener: Listener) -> None:
    device = Device.enrolled(listener)
    device.renewal._ask()
    current, following = certificate_of(listener.world, "press-1")
    assert following is not None
    engine = listener.world.engine
    assert accepts_certificate(engine, "press-1", current)
    assert not accepts_certificate(engine, "press-2", following)
    assert accepts_certificate(engine, "press-1", following)
    assert not accepts_certificate(engine, "press-1", current)
    assert certificate_of(listener.world, "press-1") == (following, None)


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ({"csr": make_csr("press-2")[1].decode()}, "enrol.cn_mismatch", 403),
        ({"csr": make_csr("fleet.ingest")[1].decode()}, "enrol.cn_mismatch", 403),
        ({"csr": "garbage"}, "enrol.csr_invalid", 400),
        ({"csr": 7}, "api.bad_request", 400),
        ([], "api.bad_request", 400),
        ({"csr": "x" * 40_000}, "api.too_large", 413),
    ],
)
def test_requests_that_are_refused_change_nothing(listener: Listener, body: object, code: str, status: int) -> None:
    client = listener.enrolled("press-1")
    before = certificate_of(listener.world, "press-1")
    answer = client.ask("POST", "/v1/certificate", json.dumps(body))
    assert (answer.status, answer.code) == (status, code)
    assert certificate_of(listener.world, "press-1") == before


def test_only_the_device_itself_renews_and_not_too_often(listener: Listener) -> None:
    body = json.dumps({"csr": make_csr("press-1")[1].decode()})
    assert listener.client().ask("POST", "/v1/certificate", body).code == "api.unauthorized"
    client = listener.enrolled("press-1")
    answers = [client.ask("POST", "/v1/certificate", body).status for _ in range(8)]
    assert answers == [200] * 6 + [429] * 2
    other = json.dumps({"csr": make_csr("press-2")[1].decode()})
    assert listener.enrolled("press-2").ask("POST", "/v1/certificate", other).status == 200


def test_a_revoked_device_gets_no_certificate_and_its_next_one_is_refused_too(listener: Listener) -> None:
    device = Device.enrolled(listener)
    device.renewal._ask()
    following = certificate_of(listener.world, "press-1")[1]
    assert following is not None
    Devices(listener.world.engine, listener.world.clock).move("press-1", Action.REVOKE, who="ann")
    assert not accepts_certificate(listener.world.engine, "press-1", following)
    with pytest.raises(HttpsError) as caught:
        device.renewal.renew()
    assert caught.value.remote_code == "device.revoked"
    device.renewal._next.certificate.unlink()
    with pytest.raises(HttpsError) as caught:
        device.renewal.renew()
    assert caught.value.remote_code == "device.revoked"


@pytest.mark.parametrize("after", [False, True])
def test_after_a_power_cut_at_any_write_the_device_has_an_identity_that_the_fleet_accepts(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    device = Device.enrolled(listener, "press-1")
    for nth in range(1, 60):
        finished = False
        with killed_at(monkeypatch, nth, after=after):
            try:
                device.renewal.renew()
                finished = True
            except Killed:
                pass
        device = device.restart()
        if device.asks():  # the fleet saw the new one, which is not in place yet: the first turn puts it there
            assert {"next.key", "next.crt"} <= device.files()
            device.renewal.renew()
        assert device.asks() == ""
        device.renewal.renew()
        assert device.restart().asks() == ""
        assert device.files() == {"device.key", "device.crt", "ca.pem", "root.json", "fleet.json"}
        listener.ahead_seconds += 61.0  # of the limit of renewals
        if finished:
            break
    assert finished
    assert nth > 8


def test_a_next_certificate_that_the_fleet_forgot_or_that_is_damaged_is_asked_for_again(listener: Listener) -> None:
    """The database came from a backup, say."""
    device = Device.enrolled(listener)
    device.renewal._ask()
    with listener.world.engine.begin() as connection:
        connection.execute(devices.update().values(next_certificate_sha256=None))
    device.renewal.renew()
    assert not {"next.key", "next.crt"} & device.files()
    assert device.asks() == ""
    device.renewal._ask()
    device.renewal._next.certificate.write_bytes(device.identity.certificate.read_bytes())  # not of the new key
    device.renewal.renew()
    assert not {"next.key", "next.crt"} & device.files()
    device.renewal._next.key.write_bytes(b"half a key")
    device.renewal.renew()
    assert (device.renewal.renewals, device.asks()) == (1, "")


def test_a_renewed_ca_comes_with_the_certificate_and_another_ca_is_refused(listener: Listener) -> None:
    device = Device.enrolled(listener)
    first = device.identity.ca.read_bytes()
    listener.world.clock.now += 3000 * DAY
    assert listener.world.ca.renew()
    listener.world.clock.now -= 3000 * DAY
    answer = device.renewal
    device.renewal._ask()
    assert device.identity.ca.read_bytes() == listener.world.ca.pem != first
    other = World.create(listener.world.folder / "other")
    key, csr = make_csr("press-1")
    stranger = other.ca.sign_device_csr(csr, "press-1").pem.decode()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from wheeltapper_agent.ground.errors import AgentError
    from wheeltapper_agent.link.renewal import _Answer

    with pytest.raises(AgentError, match="another than the device knows"):
        answer._checked(_Answer(stranger, other.ca.pem.decode()), load_pem_private_key(key, None))
    other.engine.dispose()


def test_a_certificate_is_renewed_when_it_is_due_and_by_a_right_clock_only(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device.enrolled(listener)
    life = read_validity(device.identity.certificate.read_bytes())
    due = renewal_time(life, "press-1")
    for now, wanted in ((0.0, False), (life.begins_at - 1, False), (due - 1, False), (due + 1, True)):
        device.clock.time = now
        assert device.renewal.is_due() is wanted
    device.clock.time = life.ends_at + 1
    for _ in range(3):
        assert not device.renewal.is_due()
    said = [record.getMessage() for record in caplog.records if "identity.expired" in record.getMessage()]
    assert len(said) == 1
    assert "device token" in said[0]
    device.clock.time = due + 1
    device.renewal.turn()
    assert device.renewal._thread is not None
    device.renewal._thread.join(10)
    assert device.renewal.renewals == 1
    thread = device.renewal._thread
    device.renewal.turn()
    assert device.renewal._thread is thread, "the next look is later"
    figures = device.renewal.figures()
    assert figures["expires_at"] > life.ends_at - 1
    assert figures["trouble"] is None


def test_a_device_whose_certificate_ended_comes_back_with_a_token(listener: Listener) -> None:
    device = Device.enrolled(listener)
    with pytest.raises(FleetError) as caught:
        listener.world.enrolment.create_token("press-1")
    assert caught.value.code == "enrol.device_exists"
    forget_device(listener.world.engine, "press-1", who="ann", now=1.0)
    for path in device.identity.key.parent.iterdir():
        path.unlink()
    device.identity.key.parent.rmdir()
    assert Device.enrolled(listener).asks() == ""


def test_a_reader_between_the_two_steps_of_a_swap_takes_the_pair_that_belongs_together(listener: Listener) -> None:
    device = Device.enrolled(listener)
    device.renewal._ask()
    assert device.renewal._accepted()
    following = device.renewal._next
    following.key.replace(device.identity.key)  # and then the power went
    found: Identity = load_identity(device.state)
    assert found == replace(device.identity, certificate=following.certificate)
    assert HttpsClient(listener.url, tls_context(found.ca, found.certificate, found.key)).request(
        "GET", "/v1/certificate", 1000
    )
    assert device.restart().asks() == ""
    assert "next.crt" not in device.files()
