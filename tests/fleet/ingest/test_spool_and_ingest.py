"""The device's spool and delivery against the fleet's ingest: in one process under random faults, and over the
broker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import func, select

from tests.agent.spool_kit import ALL, Clock, FakePublisher, alert, kill, record
from tests.fleet.broker.rig import Rig, until
from tests.fleet.records import stored_records
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.mqtt import BrokerAddress, Link
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Spool, SpoolLimits
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.tables import alerts, messages, spools
from wheeltapper_fleet.telemetry.history import iter_records
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.messages import Ack, Report, Telemetry
from wheeltapper_protocols.wire.topics import Down, Up, up_topic

DEVICE = "dev-1"
MAX_RECORDS = 24
UNFORGOTTEN = 64
"""A kill brings back what was acknowledged but not forgotten yet; the next append keeps the limit again."""


class SpoolAndFleet(RuleBasedStateMachine):
    """Nothing is lost uncounted, nothing is stored twice, no ack goes beyond what the database holds.

    The model knows, by epoch and seq, what each committed record was: its kind and a number that no other has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.engine = open_database(f"sqlite:///{self.folder}/fleet.db")
        self.downs: list[bytes] = []
        self.ingest = Ingest(self.engine, lambda _topic, payload, _retain: self.downs.append(payload))
        self.clock, self.publisher = Clock(), FakePublisher()
        self.given: dict[tuple[str, int], tuple[str, int]] = {}
        self.number = 0
        self.open()

    def open(self) -> None:
        limits = SpoolLimits(max_records=MAX_RECORDS)
        self.spool = Spool(self.folder / "s.db", limits=limits, monotonic=self.clock.monotonic, now=self.clock.now)
        config = DeliveryConfig(batch_seconds=0.0, resend_seconds=5.0, max_in_flight=40)
        self.delivery = Delivery(self.spool, self.publisher, config, self.clock, 8)

    def learn(self) -> None:
        """What is in the spool now was committed there."""
        for held in self.spool.peek(0, 10_000, ALL):
            kind = type(held.item).__name__
            number = -1 if isinstance(held.item, Report) else held.item.window
            known = self.given.setdefault((self.spool.epoch, held.seq), (kind, number))
            assert known == (kind, number), "a seq was given twice"

    @rule(telemetry=st.integers(0, 6), alerts=st.integers(0, 2))
    def append(self, telemetry: int, alerts: int) -> None:
        items: list[Any] = []
        for index in range(telemetry + alerts):
            items.append(record(self.number) if index < telemetry else alert(self.number))
            self.number += 1
        before = self.spool.figures().seq
        self.spool.append(*items)
        assert not items or self.spool.figures().held <= MAX_RECORDS + 1  # and a loss report
        for index, item in enumerate(items):
            self.given[self.spool.epoch, before + 1 + index] = (type(item).__name__, item.window)
        self.learn()

    @rule()
    def send(self) -> None:
        self.clock.seconds += 0.5
        with self.delivery._lock:
            self.delivery._step()

    @precondition(lambda self: self.publisher.sent)
    @rule(data=st.data(), keep=st.booleans())
    def arrive(self, data: Any, keep: bool) -> None:
        """Any message that was ever sent arrives, perhaps not for the last time; ``keep`` leaves it under way."""
        at = data.draw(st.integers(0, len(self.publisher.sent) - 1))
        kind, payload = self.publisher.sent[at] if keep else self.publisher.sent.pop(at)
        self.ingest.process([(up_topic(DEVICE, kind), payload)])

    @precondition(lambda self: self.publisher.sent)
    @rule()
    def all_arrive(self) -> None:
        self.ingest.process([(up_topic(DEVICE, kind), payload) for kind, payload in self.publisher.sent])
        self.publisher.sent.clear()

    @rule()
    def nothing_arrives(self) -> None:
        self.publisher.sent.clear()
        self.delivery.on_connected()

    @precondition(lambda self: self.downs)
    @rule(data=st.data())
    def hear(self, data: Any) -> None:
        ack = decode_down(Down.ACK, data.draw(st.sampled_from(self.downs)))
        assert isinstance(ack, Ack)
        assert ack.seq <= max(seq for epoch, seq in self.given if epoch == ack.epoch)
        self.delivery.on_ack(ack)

    @rule(hard=st.booleans())
    def die(self, hard: bool) -> None:
        if hard:
            kill(self.spool)
        else:
            self.spool.close()
        self.open()

    @invariant()
    def all_is_somewhere_once(self) -> None:
        epoch, figures = self.spool.epoch, self.spool.figures()
        held = {entry.seq for entry in self.spool.peek(0, 10_000, ALL)}
        with reading(self.engine) as connection:
            found = [each for each in iter_records(connection, DEVICE) if each.epoch == epoch]
            row = connection.execute(select(spools).where(spools.c.epoch == epoch)).one_or_none()
            raised = connection.execute(select(func.count()).select_from(alerts)).scalar_one()
        stored = {each.seq: each for each in found}
        assert len(stored) == len(found), "a record was stored twice"
        for seq, each in stored.items():
            kind, number = self.given[epoch, seq]
            assert (each.kind.lower(), each.window) in (("telemetry", number), ("alert", number), ("report", None))
            assert kind.lower().startswith(each.kind)
        assert raised == sum(each.kind == "alert" for each in stored.values())
        contiguous, dropped = (row.contiguous, row.dropped) if row is not None else (0, 0)
        assert sum(seq <= contiguous for seq in stored) + dropped == contiguous
        assert figures.acked <= contiguous
        gone = [seq for seq in range(1, figures.seq + 1) if seq not in stored and seq not in held]
        assert len(gone) <= figures.dropped
        assert figures.held == len(held) <= MAX_RECORDS + UNFORGOTTEN

    def teardown(self) -> None:
        for _ in range(60):  # at the end nothing is lost on the way: the fleet learns of everything, stored or dropped
            self.clock.seconds += 61
            with self.delivery._lock:
                self.delivery._step(flush=True)
            if self.publisher.sent:
                self.all_arrive()
            for payload in self.downs:
                ack = decode_down(Down.ACK, payload)
                assert isinstance(ack, Ack)
                self.delivery.on_ack(ack)
            self.downs.clear()
            self.spool.flush()  # as its thread does within seconds of an ack: what was dropped meanwhile is told now
            if self.spool.figures().held == 0:
                break
        figures = self.spool.figures()
        assert figures.held == 0
        with reading(self.engine) as connection:
            row = connection.execute(select(spools)).one_or_none()
        if figures.seq:
            assert row is not None
            assert row.contiguous == figures.seq
            assert row.dropped <= figures.dropped
        self.spool.close()
        self.engine.dispose()
        shutil.rmtree(self.folder)


TestSpoolAndFleet = SpoolAndFleet.TestCase
TestSpoolAndFleet.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


# --- what goes first, and how fast ------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.enrol(DEVICE)
    try:
        yield made
    finally:
        made.stop()


class Agent:
    """Spool, delivery and link of an agent."""

    def __init__(self, rig: Rig, spool: Spool, config: DeliveryConfig, batch_records: int) -> None:
        certificate, key = rig.certificates[DEVICE]
        address = BrokerAddress(DEVICE, "127.0.0.1", rig.port, rig.ca.path, certificate, key)
        self.link = Link(address, self._connected, self._heard, 1.0)
        self.delivery = Delivery(spool, self.link, config, SystemClock(), batch_records)
        self.acks: list[int] = []

    def _connected(self) -> None:
        self.delivery.on_connected()

    def _heard(self, kind: Down, payload: bytes) -> None:
        message = decode_down(kind, payload)
        if isinstance(message, Ack):
            self.acks.append(message.seq)
            self.delivery.on_ack(message)

    def __enter__(self) -> Agent:
        self.delivery.start()
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.delivery.stop()
        self.link.stop()


def test_a_week_offline_comes_in_order_and_once(rig: Rig, tmp_path: Path) -> None:
    """10,080 batches (one a minute), with an alert each 1,000; a live alert overtakes what waits."""
    spool = Spool(tmp_path / "s.db", commit_seconds=5.0)
    batches, each = 10_080, 4
    for batch in range(batches):
        spool.append(*(record(batch * each + index) for index in range(each)))
        if batch % 1000 == 0:
            spool.append(alert(batch * each))
    spool.flush()
    total = spool.figures().seq
    assert total == batches * each + 11
    config = DeliveryConfig(catch_up_records_per_second=20_000.0, resend_seconds=10.0)
    live: list[int] = []

    def stored() -> int:
        with reading(rig.database) as connection:
            return int(connection.execute(select(func.coalesce(func.sum(messages.c.records), 0))).scalar_one())

    def alert_is_stored() -> bool:
        with reading(rig.database) as connection:
            return connection.execute(select(alerts).where(alerts.c.window == 999_999)).first() is not None

    with Agent(rig, spool, config, 500) as agent:
        until(lambda: stored() > 2000, 30)
        spool.append(alert(999_999))
        until(alert_is_stored, 30)
        live.append(stored())
        until(lambda: spool.figures().held == 0, 120)
    assert agent.acks == sorted(agent.acks)
    assert agent.acks[-1] == total + 1
    rows = stored_records(rig.database)
    with reading(rig.database) as connection:
        row = connection.execute(select(spools)).one()
    assert (row.contiguous, row.dropped) == (total + 1, 0)
    assert len(rows) == total + 1
    telemetry = [entry.window for entry in rows if entry.kind == "telemetry"]
    assert telemetry == list(range(batches * each))
    assert live[0] < total  # it did not wait for the end
    spool.close()


def test_dropped_in_the_middle_the_fleet_learns_of_it(rig: Rig, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 500)
    for index in range(2000):
        if index % 100 == 0:
            spool.append(record(index), alert(index))
        else:
            spool.append(record(index))
    held = spool.figures().held
    assert spool.figures().dropped > 1500
    with Agent(rig, spool, DeliveryConfig(batch_seconds=0.1), 100):
        until(lambda: spool.figures().held == 0 and spool._state.reported == spool.figures().dropped, 30)
    with reading(rig.database) as connection:
        row = connection.execute(select(spools)).one()
        raised = connection.execute(select(alerts.c.window).order_by(alerts.c.seq)).scalars().all()
    kept = stored_records(rig.database)
    stored, bodies = len(kept), [each.body or {} for each in kept if each.kind == "report"]
    figures = spool.figures()
    assert raised == list(range(0, 2000, 100))
    assert stored >= held
    assert row.contiguous == figures.seq
    assert row.dropped == figures.dropped
    assert stored + row.dropped == figures.seq
    assert bodies[-1]["body"]["counts"] == {"telemetry": figures.dropped}
    spool.close()


def test_holes_and_late_records_are_counted_exactly(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    said: list[bytes] = []
    ingest = Ingest(engine, lambda _topic, payload, _retain: said.append(payload))

    def hear(first: int, count: int, oldest: int, after: int | None = None) -> tuple[int, int, int]:
        batch = [msgspec.structs.replace(record(first + index), seq=first + index) for index in range(count)]
        message = Telemetry(epoch="0123456789abcdef", oldest=oldest, records=batch, after=after)
        ingest.process([(up_topic(DEVICE, Up.TELEMETRY), encode(message))])
        ack = decode_down(Down.ACK, said[-1])
        assert isinstance(ack, Ack)
        with reading(engine) as connection:
            row = connection.execute(select(spools)).one()
        stored = len(stored_records(engine))
        assert ack.seq == row.contiguous
        return row.contiguous, row.dropped, stored

    assert hear(10, 1, oldest=10) == (10, 9, 1)
    assert hear(1, 3, oldest=1) == (10, 6, 4)  # they were under way when they were dropped
    assert hear(1, 3, oldest=1) == (10, 6, 4)
    assert hear(20, 2, oldest=11, after=12) == (10, 6, 6)  # 11 and 12 are held: the prefix does not reach the hole
    assert hear(11, 2, oldest=11) == (12, 6, 8)
    assert hear(20, 2, oldest=11, after=12) == (21, 13, 8)  # in one step, without an ack in between
    assert hear(15, 1, oldest=11) == (21, 12, 9)
    engine.dispose()
