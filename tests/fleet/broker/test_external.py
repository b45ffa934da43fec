"""Brokers of their own, from the files of ``wheeltapper broker config``: three nodes of NATS, and Mosquitto."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine, func, select

from tests.fleet.broker.external import HOSTS, MosquittoAlone, NatsCluster
from tests.fleet.broker.rig import Device, until
from tests.fleet.trust.world import World
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_fleet.broker.link import SHARED_UP_FILTER, FleetLink
from wheeltapper_fleet.broker.partitions import PARTITIONS, STATUS_FILTER, partition_of, partitions_of
from wheeltapper_fleet.config import FleetConfig, load_config
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.issued import record_issued, serial_is_known, void_serials
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.serving.messaging import Messaging, start_messaging
from wheeltapper_fleet.tables import devices, issued_certificates, messages, spools
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.messages import Status, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Down, Up, down_filter, down_topic, up_topic

EPOCH = "0123456789abcdef"


class ExternalRig:
    """A broker of its own, and the service's side of it as ``serve`` starts it."""

    def __init__(
        self, folder: Path, make: Callable[[Path, Path], NatsCluster | MosquittoAlone], stack: ExitStack
    ) -> None:
        self.world = World.create(folder)
        self.broker = make(folder / "broker", self.world.data_dir)
        stack.callback(self.broker.stop)
        self.config = load_config(self.broker.settings, {"data_dir": self.world.data_dir})
        self.messaging: Messaging = start_messaging(self.config, 0, self.world.ca, self.world.engine, stack)
        assert self.messaging.link is not None
        self.link: FleetLink = self.messaging.link

    def connect(self, device: str, *, client_id: str = "", wait: bool = True, host: str = HOSTS[0]) -> Device:
        folder = self.world.folder / "devices"
        folder.mkdir(exist_ok=True)
        certificate, key = folder / f"{device}.pem", folder / f"{device}.key"
        if not certificate.exists():
            for path, pem in zip((certificate, key), self.world.enrol(device), strict=True):
                path.write_bytes(pem)
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id or device, protocol=mqtt.MQTTv311)
        client.tls_set_context(tls_context(self.world.ca.certificate_path, certificate, key))
        client.reconnect_delay_set(1, 1)
        client.will_set(up_topic(device, Up.STATUS), encode(Status(online=False)), qos=1, retain=True)
        found = Device(client)

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                found.refusals += 1
            else:
                client.subscribe(down_filter(device), qos=0)

        def on_subscribe(*_: Any) -> None:
            found.connections += 1
            found.connected.set()

        def on_disconnect(*_: Any) -> None:
            found.connected.clear()
            found.refusals += 1

        client.on_connect, client.on_subscribe, client.on_disconnect = on_connect, on_subscribe, on_disconnect
        client.on_message = lambda _c, _d, message: found.heard.append((message.topic, bytes(message.payload)))
        client.connect_async(host, self.broker.port, keepalive=20)
        client.loop_start()
        if wait:
            assert found.connected.wait(15), "the device could not connect"
        return found

    def contiguous(self, device: str) -> int:
        """How many records of a device are stored without a gap."""
        with reading(self.world.engine) as connection:
            return int(
                connection.execute(
                    select(func.coalesce(func.max(spools.c.contiguous), 0)).where(spools.c.device == device)
                ).scalar_one()
            )

    def online(self, device: str) -> bool:
        with reading(self.world.engine) as connection:
            return bool(connection.execute(select(devices.c.online).where(devices.c.id == device)).scalar_one())


def telemetry(first: int, count: int = 1, oldest: int = 1) -> bytes:
    batch = [TelemetryRecord(seq=first + i, pipeline="main", window=first + i - 1, t_s=0.0) for i in range(count)]
    return encode(Telemetry(epoch=EPOCH, oldest=oldest, records=batch))


@pytest.fixture(scope="module", params=[NatsCluster, MosquittoAlone], ids=["nats", "mosquitto"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalRig]:
    with ExitStack() as stack:
        made = ExternalRig(tmp_path_factory.mktemp("external"), request.param, stack)
        yield made
    made.world.engine.dispose()


def test_records_are_stored_and_acknowledged_and_the_will_is_heard(rig: ExternalRig) -> None:
    assert rig.link.protocol == ("3.1.1" if isinstance(rig.broker, NatsCluster) else "5")
    with rig.connect("dev-1") as device:
        device.client.publish(up_topic("dev-1", Up.STATUS), encode(Status(online=True, at=1.0)), qos=1, retain=True)
        device.client.publish(up_topic("dev-1", Up.TELEMETRY), telemetry(1, 3), qos=1)
        until(lambda: any(topic == down_topic("dev-1", Down.ACK) for topic, _ in device.heard))
        ack = decode_down(Down.ACK, device.heard[-1][1])
        assert (ack.epoch, ack.seq) == (EPOCH, 3)  # type: ignore[union-attr]  # an Ack
        until(lambda: rig.online("dev-1"))
        sock = device.client.socket()
        assert sock is not None
        sock.close()  # without saying goodbye
        until(lambda: not rig.online("dev-1"))


def test_what_is_retained_is_heard_at_the_next_connection(rig: ExternalRig) -> None:
    rig.world.enrol("dev-9")  # never connected
    rig.link.publish(down_topic("dev-2", Down.ASSIGNMENT), b"newest", retain=True)
    with rig.connect("dev-2", host=HOSTS[1] if isinstance(rig.broker, NatsCluster) else HOSTS[0]) as device:
        until(lambda: (down_topic("dev-2", Down.ASSIGNMENT), b"newest") in device.heard)


def test_a_device_can_neither_speak_for_nor_listen_to_nor_push_out_another(rig: ExternalRig) -> None:
    with rig.connect("dev-3") as victim, rig.connect("dev-4") as thief:
        for topic in ("wt/v1/dev-3/down/+", "wt/v1/+/down/+", "#", "$share/x/wt/v1/dev-3/down/+", "wtp/v1/+/+/up/+"):
            thief.client.subscribe(topic, qos=0)
        time.sleep(0.5)
        for topic, payload in (
            (up_topic("dev-3", Up.TELEMETRY), telemetry(1)),
            (f"wtp/v1/{partition_of('dev-3')}/dev-3/up/telemetry", telemetry(1)),
            (down_topic("dev-3", Down.COMMAND), b"evil"),
            (down_topic("dev-3", Down.ASSIGNMENT), b"evil"),
        ):
            thief.client.publish(topic, payload, qos=0)
        time.sleep(0.5)
        rig.link.publish(down_topic("dev-3", Down.COMMAND), b"for dev-3")
        until(lambda: any(payload == b"for dev-3" for _, payload in victim.heard))
        time.sleep(0.3)
        assert [payload for _, payload in victim.heard] == [b"for dev-3"]
        assert thief.heard == []
        assert rig.contiguous("dev-3") == 0
        before = victim.refusals
        with rig.connect("dev-4", client_id="dev-3", wait=False):  # NATS refuses it, Mosquitto calls it dev-4
            time.sleep(1.5)
            assert victim.refusals == before
            assert victim.connected.is_set()


def _revoke(engine: Engine, device: str) -> None:
    Devices(engine, time.time).move(device, Action.REVOKE, who="ann")


def _forget(engine: Engine, device: str) -> None:
    Devices(engine, time.time).forget(device, who="ann")


@pytest.mark.parametrize("end", [_revoke, _forget])
def test_who_is_revoked_or_forgotten_loses_the_connection_and_gets_none(
    rig: ExternalRig, end: Callable[..., None]
) -> None:
    name = f"gone-{end.__name__.strip('_')}"
    with rig.connect(name) as device, rig.connect("stays") as other:
        end(rig.world.engine, name)
        rig.messaging.disconnect(name)
        until(lambda: device.refusals >= 3, 20)
        assert not device.connected.is_set()
        assert device.connections == 1
        assert other.connected.is_set()
        assert other.refusals == 0


def test_a_replaced_certificate_is_refused(rig: ExternalRig) -> None:
    with rig.connect("dev-5") as device:
        newer = rig.world.ca.sign_device_csr(_csr("dev-5"), "dev-5")
        with rig.world.engine.begin() as connection:
            record_issued(connection, "dev-5", newer, rig.world.clock())
            row = {"certificate_sha256": newer.sha256}
            connection.execute(devices.update().where(devices.c.id == "dev-5").values(row))
        rig.messaging.disconnect("dev-5")
        until(lambda: device.refusals >= 2, 20)
        assert device.connections == 1


def test_an_mqtt_5_link_falls_back_where_a_broker_does_not_speak_it(rig: ExternalRig) -> None:
    other = own_link(rig, "other" if isinstance(rig.broker, NatsCluster) else "ingest", newest_mqtt=5, filters=())
    if isinstance(rig.broker, MosquittoAlone):
        rig.link.stop()  # one connection a name
    other.start()
    try:
        assert other.connected
        assert other.protocol == rig_protocol(rig)
    finally:
        other.stop()


def rig_protocol(rig: ExternalRig) -> str:
    return "3.1.1" if isinstance(rig.broker, NatsCluster) else "5"


def own_link(rig: ExternalRig, process: str, **options: Any) -> FleetLink:
    tls = rig.world.ca.ingest_files(process)
    client_id = f"fleet_{process}" if isinstance(rig.broker, NatsCluster) else f"fleet.{process}"
    address = {"host": HOSTS[0], "port": rig.broker.port, "client_id": client_id}
    return FleetLink(**address, ca=tls.ca, certificate=tls.certificate, key=tls.key, **options)  # type: ignore[arg-type]  # as named


def _csr(device: str) -> bytes:
    from tests.fleet.trust.world import make_csr

    return make_csr(device)[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalRig]:
    with ExitStack() as stack:
        made = ExternalRig(tmp_path_factory.mktemp("cluster"), NatsCluster, stack)
        yield made
    made.world.engine.dispose()


def note(heard: set[tuple[str, str]], topic: str, _payload: bytes) -> None:
    """Remember the device and the kind of a message, of those of the test."""
    _, _, device, _, kind = topic.split("/")
    if device.startswith("part-"):
        heard.add((device, kind))


def test_each_partition_hears_its_devices_as_the_server_counts_them(cluster: ExternalRig) -> None:
    heard: dict[str, set[tuple[str, str]]] = {"one": set(), "two": set()}
    links = {name: own_link(cluster, name, partitions=partitions_of(name, heard)) for name in heard}
    for name, link in links.items():
        link.on_message = partial(note, heard[name])
        link.start()
    names = [f"part-{number}" for number in range(12)]
    try:
        for device in names:
            with cluster.connect(device) as connected:
                connected.client.publish(up_topic(device, Up.TELEMETRY), telemetry(1), qos=1).wait_for_publish(5)
                status = encode(Status(online=True, at=1.0))
                connected.client.publish(up_topic(device, Up.STATUS), status, qos=1, retain=True).wait_for_publish(5)
        wanted = {
            name: {(each, kind) for each in names if partition_of(each) in mine for kind in ("telemetry", "status")}
            for name, mine in ((name, partitions_of(name, heard)) for name in heard)
        }
        assert all(wanted.values())
        until(lambda: heard == wanted)
        links["one"].stop()
        heard["two"].clear()
        links["two"].take(range(PARTITIONS))  # every status comes again, also those that were one's
        until(lambda: heard["two"] == {(device, "status") for device in names})
    finally:
        for link in links.values():
            link.stop()


def test_a_node_is_killed_while_devices_send_and_nothing_is_lost(cluster: ExternalRig) -> None:
    """A device sends 400 records, again and again until they are acknowledged; its node is killed in the middle."""
    assert isinstance(cluster.broker, NatsCluster)
    total, acked = 400, 0
    killed = HOSTS[0]  # the service is connected there too
    with cluster.connect("sender", host=HOSTS[0]) as first, cluster.connect("watcher", host=HOSTS[2]) as watcher:
        threading.Timer(0.5, partial(cluster.broker.kill, killed)).start()
        sender, moved = first, False
        end = time.monotonic() + 60
        made = 0
        while acked < total and time.monotonic() < end:
            made = min(total, made + 10)
            for start in range(acked + 1, made + 1, 50):
                payload = telemetry(start, min(50, made + 1 - start), oldest=acked + 1)
                sender.client.publish(up_topic("sender", Up.TELEMETRY), payload, qos=0)
            time.sleep(0.05)
            if not moved and not sender.connected.is_set():
                sender, moved = cluster.connect("sender", host=HOSTS[1], wait=False), True
            for topic, payload in [*first.heard, *sender.heard]:
                if topic.endswith("/ack"):
                    acked = max(acked, decode_down(Down.ACK, payload).seq)  # type: ignore[union-attr]  # an Ack
        sender.__exit__(None, None, None)
        assert moved, "the node was not killed while records were sent"
        assert acked == total
        assert cluster.contiguous("sender") == total
        assert watcher.refusals == 0
        assert cluster.messaging.failing() == []


def test_two_ingests_of_mosquitto_share_and_one_dies(tmp_path: Path) -> None:
    """What devices send goes to one of them or to the other; what the one that dies has not stored comes again."""
    total, acked, made = 300, 0, 0
    with ExitStack() as stack:
        rig = ExternalRig(tmp_path, lambda *place: MosquittoAlone(*place, "ingest", "one", "two"), stack)
        assert rig.messaging.ingest is not None
        rig.messaging.ingest.stop()
        rig.link.stop()
        heard = {"one": 0, "two": 0}
        links = {
            name: own_link(rig, name, filters=(SHARED_UP_FILTER,), retained=STATUS_FILTER, newest_mqtt=5)
            for name in heard
        }
        ingests = {name: Ingest(rig.world.engine, link.publish) for name, link in links.items()}

        def take(name: str, topic: str, payload: bytes) -> None:
            heard[name] += topic.endswith("/telemetry")
            if name == "two" or heard["one"] < 10:  # the tenth is the last that it hears: it dies with it
                ingests[name].offer(topic, payload)

        for name, link in links.items():
            ingests[name].start()
            stack.callback(ingests[name].stop)
            link.on_message = partial(take, name)
            stack.callback(link.stop)
            link.start()
        until(lambda: all(link.connected for link in links.values()))
        with rig.connect("sender") as sender:
            end = time.monotonic() + 60
            while acked < total and time.monotonic() < end:
                made = min(total, made + 5)
                payload = telemetry(acked + 1, min(50, made - acked), oldest=acked + 1)
                sender.client.publish(up_topic("sender", Up.TELEMETRY), payload, qos=0)
                time.sleep(0.02)
                if heard["one"] == 20:
                    links["one"].stop()
                acks = [decode_down(Down.ACK, body).seq for topic, body in sender.heard if topic.endswith("/ack")]  # type: ignore[union-attr]  # an Ack
                acked = max([acked, *acks])
        assert (acked, rig.contiguous("sender")) == (total, total)
        assert heard["one"] >= 10
        assert heard["two"] >= 10
        with reading(rig.world.engine) as connection:
            kept = connection.execute(select(func.sum(messages.c.records))).scalar_one()
        assert kept == total, "a record is stored twice"
    rig.world.engine.dispose()


def test_the_files_keep_their_keys_and_hide_them(tmp_path: Path) -> None:
    from wheeltapper_fleet.broker.configure import configure_nats
    from wheeltapper_fleet.broker.nats_cluster import NatsPorts

    world = World.create(tmp_path)
    for _ in range(2):
        settings = configure_nats(
            tmp_path / "nats", world.data_dir, world.ca, ["a.example", "b.example"], listen="host", ports=NatsPorts()
        )
        texts = {(tmp_path / "nats" / host / "nats.json").read_text() for host in ("a.example", "b.example")}
        keys = (world.data_dir / "broker-keys.json").read_bytes()
        texts |= {keys.decode()}
    assert len(texts) == 3
    for path in (*(tmp_path / "nats").rglob("*.key"), *(tmp_path / "nats").rglob("nats.json")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((world.data_dir / "broker-keys.json").stat().st_mode) == 0o600
    config = load_config(settings, {"data_dir": world.data_dir})
    assert config.broker.own == (("a.example", 8883), ("b.example", 8883))
    assert {life.name for life in world.ca.lives()} >= {"broker-a.example certificate", "broker-b.example certificate"}
    world.engine.dispose()


@pytest.mark.parametrize(
    "text",
    [
        'kind = "rabbit"',
        'kind = "embedded"\naddresses = ["a:1"]',
        'kind = "nats"\naddresses = ["a:8883"]',
        'kind = "nats"\naddresses = ["a:b"]\nclient_urls = ["tls://a:1"]',
        'kind = "nats"\nclient_urls = ["tls://a:1"]',
        'kind = "nats"\naddresses = "a:1"\nclient_urls = ["tls://a:1"]',
        'kind = "mosquitto"\naddresses = ["a:1"]',
        'kind = "mosquitto"\naddresses = ["a:1"]\ncrl_file = "c"',
        'kind = "mosquitto"\naddresses = ["a:1"]\ncrl_file = "c"\npid_file = "p"\nreload_command = ["x"]',
        'kind = "mosquitto"\naddresses = ["a:1"]\ncrl_file = "c"\npid_file = "p"\nclient_urls = ["tls://a:1"]',
        'knid = "nats"',
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.toml").write_text(f"[broker]\n{text}\n")
    with pytest.raises(FleetError) as caught:
        load_config(tmp_path / "fleet.toml")
    assert caught.value.code in ("config.invalid", "config.unknown_key")


def test_nats_without_its_keys_says_what_to_do(tmp_path: Path) -> None:
    world = World.create(tmp_path)
    (tmp_path / "fleet.toml").write_text('[broker]\nkind = "nats"\naddresses = ["a:1"]\nclient_urls = ["tls://a:2"]\n')
    config = load_config(tmp_path / "fleet.toml", {"data_dir": world.data_dir})
    with ExitStack() as stack, pytest.raises(FleetError, match="wheeltapper broker config nats"):
        start_messaging(config, 0, world.ca, world.engine, stack)
    world.engine.dispose()


def test_void_certificates(world: World) -> None:
    """Of a device that is revoked or forgotten, or has another one; not what is over, and not the next one."""
    for device in ("good", "revoked", "forgotten", "renewing", "old"):
        world.enrol(device)
    _revoke(world.engine, "revoked")
    _forget(world.engine, "forgotten")
    following = world.ca.sign_device_csr(_csr("renewing"), "renewing")
    with world.engine.begin() as connection:
        record_issued(connection, "renewing", following, world.clock())
        row = {"next_certificate_sha256": following.sha256}
        connection.execute(devices.update().where(devices.c.id == "renewing").values(row))
        connection.execute(issued_certificates.delete().where(issued_certificates.c.device == "old"))
    with reading(world.engine) as connection:
        of = dict(connection.execute(select(issued_certificates.c.serial, issued_certificates.c.device)).all())
    assert {of[serial] for serial in void_serials(world.engine, world.clock())} == {"revoked", "forgotten"}
    assert void_serials(world.engine, world.clock() + 400 * 86_400) == []
    assert [serial_is_known(world.engine, device) for device in ("good", "old", "forgotten")] == [True, False, True]


def test_one_process_is_the_default() -> None:
    assert FleetConfig().process == "ingest"
