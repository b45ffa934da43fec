"""The broker with real mutual TLS: who may connect, publish and subscribe, and what survives kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from tests.fleet.broker.rig import Ca, Rig, until
from tests.fleet.records import stored_records
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.tables import devices, refused, spools
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.messages import Status, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Down, Up, down_topic, up_topic

EPOCH = "0123456789abcdef"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"))
    for device in ("dev-1", "dev-2", "dev-3", "dev-4"):
        rig.enrol(device)
    rig.enrol("gone", revoked=True)
    try:
        yield rig
    finally:
        rig.stop()


def telemetry(first: int, count: int = 1, oldest: int = 1) -> bytes:
    batch = [TelemetryRecord(seq=first + i, pipeline="main", window=first + i - 1, t_s=0.0) for i in range(count)]
    return encode(Telemetry(epoch=EPOCH, oldest=oldest, records=batch))


def stored(rig: Rig, device: str) -> int:
    return len(stored_records(rig.database, device))


def refusals(rig: Rig, device: str) -> dict[str, int]:
    with reading(rig.database) as connection:
        query = select(refused.c.code, refused.c["count"]).where(refused.c.device == device)
        return {row[0]: row[1] for row in connection.execute(query)}


def online(rig: Rig, device: str) -> bool:
    with reading(rig.database) as connection:
        return bool(connection.execute(select(devices.c.online).where(devices.c.id == device)).scalar_one())


def test_records_are_stored_and_acknowledged_and_the_will_sets_the_device_offline(rig: Rig) -> None:
    with rig.connect("dev-1") as device:
        device.client.publish(up_topic("dev-1", Up.STATUS), encode(Status(online=True, at=1.0)), qos=1, retain=True)
        device.client.publish(up_topic("dev-1", Up.TELEMETRY), telemetry(1, 3), qos=1)
        until(lambda: any(topic == down_topic("dev-1", Down.ACK) for topic, _ in device.heard))
        ack = decode_down(Down.ACK, device.heard[-1][1])
        assert (ack.epoch, ack.seq) == (EPOCH, 3)  # type: ignore[union-attr]  # an Ack
        assert stored(rig, "dev-1") == 3
        until(lambda: online(rig, "dev-1"))
        sock = device.client.socket()
        assert sock is not None
        sock.close()  # without saying goodbye
        until(lambda: not online(rig, "dev-1"))


def test_a_device_can_neither_publish_for_nor_subscribe_to_another(rig: Rig) -> None:
    with rig.connect("dev-2") as victim, rig.connect("dev-3") as thief:
        for topic in (
            "wt/v1/dev-3/down/+",
            "wt/v1/+/down/+",
            "#",
            "wt/v1/dev-2/down/command",
            "$MQTT/#",
            "wt/v1/+/up/+",
        ):
            if "dev-3" not in topic:
                thief.client.subscribe(topic, qos=0)
        time.sleep(0.3)
        before = stored(rig, "dev-2")
        thief.client.publish(up_topic("dev-2", Up.TELEMETRY), telemetry(1), qos=1)
        thief.client.publish(down_topic("dev-2", Down.COMMAND), b"{}", qos=1)
        thief.client.publish(down_topic("dev-2", Down.ASSIGNMENT), b"evil", qos=1, retain=True)
        time.sleep(0.3)
        rig.link.publish(down_topic("dev-2", Down.COMMAND), b"for dev-2")
        until(lambda: any(payload == b"for dev-2" for _, payload in victim.heard))
        time.sleep(0.3)
        assert [payload for _, payload in victim.heard] == [b"for dev-2"]
        assert thief.heard == []
        assert stored(rig, "dev-2") == before


@pytest.mark.parametrize("who", ["gone", "stranger"])
def test_revoked_and_unknown_certificates_cannot_connect(rig: Rig, who: str) -> None:
    if who not in rig.certificates:
        rig.certificates[who] = rig.ca.issue(who)[:2]
    with rig.connect(who, wait=False) as device:
        until(lambda: device.refusals > 0)
        assert not device.connected.is_set()


def test_another_client_id_than_the_common_name_is_refused(rig: Rig) -> None:
    with rig.connect("dev-1") as victim, rig.connect("dev-3", client_id="dev-1", wait=False) as thief:
        until(lambda: thief.refusals > 0)
        time.sleep(0.3)
        assert not thief.connected.is_set()
        assert victim.connected.is_set()


def test_a_replaced_certificate_of_a_device_is_refused(rig: Rig) -> None:
    with rig.connect("dev-1", files=rig.ca.issue("dev-1", "-old")[:2], wait=False) as device:
        until(lambda: device.refusals > 0)
        assert not device.connected.is_set()


def test_certificates_of_another_ca_and_a_forged_fleet_certificate_are_refused(rig: Rig, tmp_path: Path) -> None:
    other = Ca(tmp_path)
    for files in (other.issue("dev-1")[:2], rig.ca.issue("fleet.ingest", "-second")[:2]):
        name = files[0].stem.removesuffix("-second")
        with rig.connect("dev-1", client_id=name, files=files, wait=False) as device:
            time.sleep(1.0)
            assert not device.connected.is_set()


@pytest.mark.parametrize("kind", list(Up))
def test_malformed_messages_on_every_topic_are_counted_and_nothing_stops(rig: Rig, kind: Up) -> None:
    before = sum(refusals(rig, "dev-4").values())
    with rig.connect("dev-4") as device:
        nested = b"[" * 100_000
        packed = b"\x91" * 100_000
        for payload in (b"", b"\xff\x00garbage", nested, packed, b"x" * 300_000):
            device.client.publish(up_topic("dev-4", kind), payload, qos=1)
        expected = 4 if kind is Up.STATUS else 5
        until(lambda: sum(refusals(rig, "dev-4").values()) >= before + expected)
        device.client.publish(up_topic("dev-4", kind), b"x" * 10_000_000, qos=0)  # more than the broker takes
        time.sleep(0.3)
    with rig.connect("dev-3") as healthy:
        first = stored(rig, "dev-3") + 1
        healthy.client.publish(up_topic("dev-3", Up.TELEMETRY), telemetry(first), qos=1)
        until(lambda: stored(rig, "dev-3") == first)


def test_a_revoked_device_can_be_disconnected(rig: Rig) -> None:
    rig.enrol("dev-5")
    with rig.connect("dev-5") as device:
        with rig.database.begin() as connection:
            connection.execute(devices.update().where(devices.c.id == "dev-5").values(state="revoked"))
        rig.auth.disconnect("dev-5")
        until(lambda: device.refusals > 1)
        assert not device.connected.is_set()


def test_two_devices_with_one_identity_are_noticed_with_both_addresses(rig: Rig) -> None:
    rig.enrol("dev-8")

    def reported(instance: str) -> bool:
        with reading(rig.database) as connection:
            status = connection.execute(select(devices.c.status).where(devices.c.id == "dev-8")).scalar_one()
        return bool(status) and status["instance"] == instance

    def notices() -> list[tuple[str, str]]:
        return [(each.code, each.detail) for each in get_device(rig.database, "dev-8").notices]

    for turn in range(2):
        for instance, address in (("a" * 16, "127.0.0.2"), ("b" * 16, "127.0.0.3")):
            assert turn == 0 or instance[0] == "a" or notices() == []
            with rig.connect("dev-8", address=address) as device:
                status = Status(online=True, at=1.0, instance=instance)
                device.client.publish(up_topic("dev-8", Up.STATUS), encode(status), qos=1, retain=True)
                until(partial(reported, instance))
    [(code, detail)] = notices()
    assert code == "device.shared_identity"
    assert "127.0.0.2 and 127.0.0.3" in detail


def test_kill_9_of_the_broker_loses_nothing(rig: Rig) -> None:
    """The broker is killed twice while a device sends: each record is stored once, retained assignments are kept."""
    rig.enrol("dev-6")
    total, acked = 600, 0
    rig.link.publish(down_topic("dev-6", Down.ASSIGNMENT), b"assignment", retain=True)
    with rig.connect("dev-6") as device:
        until(lambda: (down_topic("dev-6", Down.ASSIGNMENT), b"assignment") in device.heard)
        stop = threading.Event()

        def killer() -> None:
            for _ in range(2):
                if stop.wait(0.7):
                    return
                pid = rig.server.pid
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                until(lambda: rig.link.connected and device.connected.is_set(), 20)

        thread = threading.Thread(target=killer)
        thread.start()
        made, deadline = 0, time.monotonic() + 40
        while acked < total and time.monotonic() < deadline:
            made = min(total, made + 20)
            for first in range(acked + 1, made + 1, 50):
                count = min(50, made + 1 - first)
                device.client.publish(up_topic("dev-6", Up.TELEMETRY), telemetry(first, count, oldest=acked + 1), qos=0)
            time.sleep(0.05)
            for topic, payload in list(device.heard):
                if topic.endswith("/ack"):
                    acked = max(acked, decode_down(Down.ACK, payload).seq)  # type: ignore[union-attr]  # an Ack
        thread.join()
        stop.set()
        assert acked == total
        assert rig.server.restarts >= 2
        assert stored(rig, "dev-6") == total
        device.heard.clear()
        device.client.subscribe("wt/v1/dev-6/down/+", qos=0)
        until(lambda: (down_topic("dev-6", Down.ASSIGNMENT), b"assignment") in device.heard)
    with reading(rig.database) as connection:
        row = connection.execute(select(spools).where(spools.c.device == "dev-6")).one()
    assert (row.contiguous, row.dropped) == (total, 0)


def test_the_broker_keeps_little_garbage(rig: Rig) -> None:
    """At Go's default the broker has twice the memory that its connections need."""
    pid = rig.server.pid
    assert pid is not None
    assert int(psutil.Process(pid).environ()["GOGC"]) < 100


def test_stop_ends_the_broker_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pid = rig.server.pid
    assert pid is not None
    rig.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


_PARENT = """
import sys, time
from pathlib import Path
from tests.fleet.broker.rig import Rig
print(Rig(Path(sys.argv[1])).server.pid, flush=True)
time.sleep(60)
"""


def test_the_broker_dies_when_the_fleet_service_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE, 5)
