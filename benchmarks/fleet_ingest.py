"""Figures of the ingest: messages of 10 records, published over TLS at QoS 1 → committed and acknowledged.

The same burst is published for each reader, each behind the same embedded broker in the same run:

* a subscriber that only counts what comes: paho's client as it is, and the fleet's own connection;
* the fleet's ingest on SQLite (``synchronous=FULL``), and on PostgreSQL;
* a plain loop: paho hands each message on, sqlite-utils writes its records and commits.

All readers run in this process, as the ingest does in the service; publisher and broker are processes of their own.
Each is measured three times in turn, and the median counts.

    python benchmarks/fleet_ingest.py
"""

from __future__ import annotations

import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import paho.mqtt.client as mqtt
import sqlite_utils
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion
from rig import Row, row, run
from sqlalchemy import func, select

from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.permissions import FLEET_CLIENT_ID
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.threads import share_interpreter
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.sim.mqtt_packets import connect_packet, publish_packet
from wheeltapper_fleet.tables import devices, spools
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_protocols.wire.codec import decode, encode
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import ALL_UP_FILTER, Up, up_topic

DEVICES: Final = 50
MESSAGES: Final = 600
"""Of each device."""
RECORDS: Final = 10
ROUNDS: Final = 3
_IN_FLIGHT: Final = 200
_LOOP_SECONDS: Final = 8.0
"""So long the plain loop is watched: it takes much longer for all."""
_PATIENCE_SECONDS: Final = 120.0


def names() -> list[str]:
    """The devices."""
    return [f"press-{number:03d}" for number in range(DEVICES)]


# --- the publisher, a process of its own ----------------------------------------------------------------------------


def publish(folder: Path, port: int, epoch: str) -> None:
    """Publish the burst: connect, say ``ready``, wait for a line, publish all, wait for every PUBACK."""
    sockets = [_connected(folder, port, name) for name in names()]
    now = time.time()
    waiting = {each: [_packet(name, epoch, number, now) for number in range(MESSAGES)] for each, name in sockets}
    print("ready", flush=True)
    sys.stdin.readline()
    sent, answered = dict.fromkeys(waiting, 0), dict.fromkeys(waiting, 0)
    while any(count < 4 * MESSAGES for count in answered.values()):
        for each, packets in waiting.items():
            room = min(50, _IN_FLIGHT - (sent[each] - answered[each] // 4), MESSAGES - sent[each])
            if room > 0:
                each.setblocking(True)
                each.sendall(b"".join(packets[sent[each] : sent[each] + room]))
                sent[each] += room
            each.setblocking(False)
            with suppress(ssl.SSLWantReadError):
                answered[each] += len(each.recv(65_536))


def _connected(folder: Path, port: int, name: str) -> tuple[ssl.SSLSocket, str]:
    import socket

    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{name}.pem", folder / "device.key")
    found = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
    found.sendall(connect_packet(name, 60, up_topic(name, Up.STATUS), b'{"online":false}'))
    answer = found.recv(4)
    if answer[:1] != b"\x20" or answer[3:] != b"\0":
        raise SystemExit(f"{name} was refused: {answer!r}")
    return found, name


def _packet(name: str, epoch: str, number: int, now: float) -> bytes:
    first = number * RECORDS
    records = [
        TelemetryRecord(
            seq=first + place + 1,
            pipeline="bearing",
            window=first + place,
            t_s=now - 600 + first / 10 + place / 10,
            model="bearing-anomaly",
            release=3,
            score=0.3 + 0.013 * place + 0.0001 * number,
            latency_ms=1.25 + 0.01 * place,
        )
        for place in range(RECORDS)
    ]
    payload = encode(Telemetry(epoch=epoch, oldest=first + 1, records=records))
    return publish_packet(up_topic(name, Up.TELEMETRY), payload, number % 65_535 + 1)


# --- the readers ------------------------------------------------------------------------------------------------------

Reader = Callable[[str, bytes], None]


class PlainSubscriber:
    """paho's client as it is, subscribed to what devices send."""

    def __init__(self, *, host: str, port: int, ca: Path, certificate: Path, key: Path) -> None:
        self.on_message: Reader = lambda topic, payload: None
        self._address = host, port
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=FLEET_CLIENT_ID)
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
        self._client.tls_set_context(context)
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.on_message(message.topic, bytes(message.payload))

    def start(self) -> None:
        """Connect and subscribe."""
        self._client.connect(*self._address)
        self._client.loop_start()
        self._client.subscribe(ALL_UP_FILTER, qos=0)
        if not self._subscribed.wait(15.0):
            raise SystemExit("the plain subscriber could not subscribe")

    def stop(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class Bench:
    """Broker, identities and the fleet's own connection; :meth:`burst` measures one reader."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        ca = FleetCA.create(folder / "ca", time.time)
        (folder / "ca.pem").write_bytes(ca.pem)
        server, self.own = ca.server_files(), ca.ingest_files()
        self.database = open_database(f"sqlite:///{folder}/identities.db")
        stack.callback(self.database.dispose)
        self._enrol(ca)
        fingerprint = certificate_sha256(x509.load_pem_x509_certificate(self.own.certificate.read_bytes()))
        auth = AuthCallout(self.database, fleet_certificate_sha256=fingerprint)
        config = BrokerConfig(
            folder=folder / "broker",
            certificate=server.certificate,
            key=server.key,
            ca=server.ca,
            mqtt_port=0,
            client_port=0,
        )
        self.server = BrokerServer(config, auth_user=auth.user, auth_issuer=auth.issuer)
        stack.callback(self.server.stop)
        self.server.start()
        stack.callback(auth.stop)
        auth.start(self.server.client_url)
        self._bursts = 0
        self.cpu_seconds = 0.0
        """Of this process, during the last burst."""

    def _enrol(self, ca: FleetCA) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / "device.key").write_bytes(key.private_bytes(*form))
        with self.database.begin() as connection:
            for name in names():
                subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
                csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
                made = ca.sign_device_csr(csr.public_bytes(serialization.Encoding.PEM), name)
                (self.folder / f"{name}.pem").write_bytes(made.pem)
                certificate = x509.load_pem_x509_certificate(made.pem)
                row = {"id": name, "tags": {}, "enrolled_at": 0.0, "certificate_expires_at": 1e10}
                row |= {"certificate_sha256": certificate_sha256(certificate), "counter": 0}
                connection.execute(devices.insert().values(row))

    def burst(
        self, read: Reader, done: Callable[[float], bool], publish_through: list[FleetLink], *, plain: bool = False
    ) -> float:
        """Publish a burst to ``read``; returns the seconds from its begin until ``done`` (of the seconds so far).

        Args:
            read: gets topic and payload.
            done: whether everything has come.
            publish_through: gets the connection, to answer by.
            plain: read by paho's client as it is, not by the fleet's own connection.
        """
        self._bursts += 1
        own = self.own
        make: Any = PlainSubscriber if plain else FleetLink
        link = make(
            host="127.0.0.1", port=self.server.config.mqtt_port, ca=own.ca, certificate=own.certificate, key=own.key
        )
        publish_through[:] = [link]
        link.on_message = read
        link.start()
        command = [sys.executable, __file__, "--publish", str(self.folder), str(self.server.config.mqtt_port)]
        command.append(f"{self._bursts:016x}")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as publisher:
            assert publisher.stdin is not None
            assert publisher.stdout is not None
            if publisher.stdout.readline() != "ready\n":
                raise SystemExit("the publisher could not connect")
            began, busy = time.perf_counter(), time.process_time()
            print("go", file=publisher.stdin, flush=True)
            while not done(time.perf_counter() - began):
                if time.perf_counter() - began > _PATIENCE_SECONDS:
                    raise SystemExit("not everything came in time")
                time.sleep(0.002)
            seconds = time.perf_counter() - began
            self.cpu_seconds = time.process_time() - busy
            publisher.kill()
        link.stop()
        return seconds

    def counted(self, *, plain: bool) -> float:
        """A subscriber that only counts."""
        seen = 0

        def count(topic: str, _payload: bytes) -> None:
            nonlocal seen
            seen += topic.endswith("/telemetry")

        return DEVICES * MESSAGES / self.burst(count, lambda _: seen >= DEVICES * MESSAGES, [], plain=plain)

    def ingested(self, url: str) -> float:
        """The fleet's ingest, into the database at ``url``."""
        engine = open_database(url)
        link: list[FleetLink] = []
        acked: dict[str, int] = {}

        def answer(topic: str, payload: bytes, retain: bool) -> None:
            link[0].publish(topic, payload, retain)
            if topic.endswith("/ack"):
                acked[topic] = msgspec.json.decode(payload)["seq"]

        ingest = Ingest(engine, answer)
        ingest.start()
        whole = MESSAGES * RECORDS
        seconds = self.burst(
            ingest.offer, lambda _: len(acked) == DEVICES and all(each == whole for each in acked.values()), link
        )
        ingest.stop()
        with reading(engine) as connection:
            stored = connection.execute(select(func.sum(spools.c.stored)).where(spools.c.contiguous == whole)).scalar()
        if ingest.counts.overflowed or int(stored or 0) % (DEVICES * whole):
            raise SystemExit(f"{ingest.counts}, {stored} records stored")
        engine.dispose()
        return DEVICES * MESSAGES / seconds

    def looped(self) -> float:
        """A plain loop: each message is decoded and its records are inserted and committed."""
        path = self.folder / f"plain-{self._bursts}.db"
        database = threading.local()
        written = 0

        def write(topic: str, payload: bytes) -> None:
            nonlocal written
            if not topic.endswith("/telemetry"):
                return
            if not hasattr(database, "records"):
                database.records = sqlite_utils.Database(path)["records"]
                database.records.db.execute("PRAGMA journal_mode=WAL")
                database.records.db.execute("PRAGMA synchronous=FULL")
            message = decode(Up.TELEMETRY, payload)
            assert isinstance(message, Telemetry)
            device = topic.split("/")[2]
            rows = [
                {"device": device, "epoch": message.epoch, **msgspec.to_builtins(record)} for record in message.records
            ]
            database.records.insert_all(rows, pk=("device", "epoch", "seq"), ignore=True, alter=True)
            written += 1

        whole = DEVICES * MESSAGES
        seconds = self.burst(write, lambda passed: written >= whole or passed > _LOOP_SECONDS, [], plain=True)
        return written / seconds


@contextmanager
def postgresql() -> Iterator[str | None]:
    """A PostgreSQL of its own; None where there is none."""
    try:
        import pgserver
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="wheeltapper-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server: Any = pgserver.get_server(folder)  # type: ignore[attr-defined]  # its __init__ exports by import
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def rows() -> list[Row]:
    """The rows of the table."""
    share_interpreter()  # as the service does
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wheeltapper-bench-")))
        url = stack.enter_context(postgresql())
        bench = Bench(folder, stack)
        readers: dict[str, Callable[[], float]] = {
            "count": lambda: bench.counted(plain=True),
            "count by the fleet's connection": lambda: bench.counted(plain=False),
            "sqlite": lambda: bench.ingested(f"sqlite:///{folder}/ingest.db"),
            "loop": bench.looped,
        }
        if url is not None:
            readers["postgresql"] = lambda: bench.ingested(url)
        for _ in range(ROUNDS):
            for name, read in readers.items():
                rates.setdefault(name, []).append(read())
                each = 1e6 * bench.cpu_seconds / (DEVICES * MESSAGES)
                print(f"  {name}: {rates[name][-1]:.0f} messages/s, {each:.0f} µs of CPU each", file=sys.stderr)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    reached = middle["sqlite"] * RECORDS
    allowed = middle["count"] * RECORDS
    found = [
        row("ingest: messages/s that a plain paho subscriber receives which only counts", middle["count"]),
        row("ingest: messages/s that only the fleet's connection receives", middle["count by the fleet's connection"]),
        row(
            "ingest on SQLite: records/s, published → committed and acked",
            reached,
            at_least=min(150_000.0, allowed / 2),
        ),
        row("ingest on SQLite / the counting subscriber", middle["sqlite"] / middle["count"], at_least=0.5),
        row("ingest on SQLite / a plain paho and sqlite-utils loop", middle["sqlite"] / middle["loop"], at_least=5.0),
    ]
    if "postgresql" in middle:
        found.append(row("ingest on PostgreSQL / on SQLite", middle["postgresql"] / middle["sqlite"], at_least=0.3))
    return found


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["--publish"]:
        publish(Path(arguments[1]), int(arguments[2]), arguments[3])
        return 0
    found: Any = run(rows, "The ingest's figures")
    return 0 if all(each["holds"] in (True, None) for each in found) else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(_main(sys.argv[1:]))
