"""The device's spool and delivery against the fleet's ingest: in one process under random faults, and over the
broker."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
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
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.mqtt import BrokerAddress, Link
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Held, Spool, SpoolLimits
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.tables import alerts, records, spools
from wheeltapper_protocols.wire.codec import decode, decode_down, encode
from wheeltapper_protocols.wire.messages import Ack, Alert, LossReport, Report, Telemetry
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
            stored = {row.seq: row for row in connection.execute(select(records).where(records.c.epoch == epoch))}
            row = connection.execute(select(spools).where(spools.c.epoch == epoch)).one_or_none()
            raised = connection.execute(select(func.count()).select_from(alerts)).scalar_one()
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


def test_a_backlog_goes_out_at_a_bounded_rate_and_what_is_live_does_not_wait(tmp_path: Path) -> None:
    clock, publisher = Clock(), FakePublisher()
    spool = Spool(tmp_path / "s.db")
    for index in range(0, 3000, 100):
        spool.append(*(record(index + at) for at in range(100)), alert(index))
    config = DeliveryConfig(catch_up_records_per_second=100.0, max_in_flight=100_000, resend_seconds=1e6)
    delivery = Delivery(spool, publisher, config, clock, 50)
    began, burst, counted, live_after = clock.seconds, 50, 0, -1
    order: list[tuple[str, int]] = []
    while counted < 3030 and clock.seconds < began + 100:
        for _ in range(4):  # however often it is asked
            delivery._step()
        for kind, payload in publisher.sent:
            message = decode(kind, payload)
            assert isinstance(message, Telemetry | Alert)
            records = message.records if isinstance(message, Telemetry) else [message]
            order += [(kind.value, each.seq) for each in records]
        if live_after == -1 and len(order) > 1000:
            spool.append(alert(5000))
            live_after = len(order)
        publisher.sent.clear()
        counted = len(order) - (live_after >= 0)
        assert counted <= burst + 100.0 * (clock.seconds - began) + 1e-6
        clock.seconds += 0.1
    assert counted == 3030
    assert order[live_after][0] == "alert"  # the very next thing, with 2000 records before it
    telemetry = [seq for kind, seq in order if kind == "telemetry"]
    assert telemetry == sorted(telemetry)
    waited = [seq for kind, seq in order if kind == "alert" and seq <= 3030]
    assert waited == sorted(waited)
    assert clock.seconds - began == pytest.approx((3030 - burst) / 100.0, abs=2.0)  # the last batch waits for more
    spool.close()


def test_a_fleet_that_does_not_ack_is_not_flooded_and_hears_what_is_live_at_once(tmp_path: Path) -> None:
    """An hour with ten alerts a minute: each goes out when it is made, and again at most fifty a resend time."""
    clock, publisher = Clock(), FakePublisher()
    spool = Spool(tmp_path / "s.db", monotonic=clock.monotonic, now=clock.now)
    delivery = Delivery(spool, publisher, DeliveryConfig(), clock)
    first: dict[int, float] = {}
    sent = 0
    for minute in range(60):
        spool.append(*(item for at in range(10) for item in (record(10 * minute + at), alert(10 * minute + at))))
        made_at, due = clock.seconds, clock.seconds + 60.0
        while clock.seconds < due:
            wait_seconds = delivery._step()
            for kind, payload in publisher.sent[sent:]:
                message = decode(kind, payload)
                if isinstance(message, Alert) and first.setdefault(message.seq, clock.seconds) == clock.seconds:
                    assert message.window < 10 * minute or clock.seconds - made_at < 0.1
            sent = len(publisher.sent)
            clock.seconds = min(due, clock.seconds + max(0.005, wait_seconds))
    assert len(first) == 600
    kinds = [kind for kind, _ in publisher.sent]
    assert kinds.count(Up.ALERT) <= 600 + 50 * 65  # resend times of 5, 10, 20, 40 and then 60 seconds
    assert kinds.count(Up.TELEMETRY) <= 300
    for _ in range(40):  # the fleet is there again: everything goes out, and the rest of the alerts with the first ack
        clock.seconds += 61.0
        publisher.sent.clear()
        delivery._step()
        seqs = [message.seq for kind, payload in publisher.sent if isinstance(message := decode(kind, payload), Alert)]
        if seqs:
            break
    assert len(seqs) == 50
    delivery.on_ack(Ack(epoch=spool.epoch, seq=seqs[0]))
    publisher.sent.clear()
    while delivery._step() < 1.0:
        clock.seconds += 0.05
    again = [message.seq for kind, payload in publisher.sent if isinstance(message := decode(kind, payload), Alert)]
    assert seqs + again == sorted(first)
    spool.close()


def test_a_record_that_cannot_be_sent_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    clock, publisher = Clock(), FakePublisher()
    spool = Spool(tmp_path / "s.db")
    huge = Report(
        epoch="0" * 16, oldest=1, seq=1, at=0.0, body=LossReport(why="x", counts={"k" * 100_000: 1, "l" * 200_000: 2})
    )
    spool.append(alert(0), huge, alert(1))
    delivery = Delivery(spool, publisher, DeliveryConfig(), clock, 50)
    for _ in range(5):
        delivery._step()
    sent = [decode(kind, payload) for kind, payload in publisher.sent]
    assert [message.seq for message in sent if isinstance(message, Alert | Report)] == [1, 3, 4]
    assert isinstance(sent[1], Alert)
    assert sent[1].after == 1
    assert spool.figures().dropped_by_kind == {"report": 1}
    spool.close()


def test_an_idle_delivery_asks_nothing_of_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, publisher = Clock(), FakePublisher()
    spool = Spool(tmp_path / "s.db")
    delivery = Delivery(spool, publisher, DeliveryConfig(batch_seconds=5.0), clock, 50)
    asked: list[int] = []
    peek = spool.peek

    def noted(after: int, limit: int, kinds: Sequence[str]) -> list[Held]:
        asked.append(after)
        return peek(after, limit, kinds)

    monkeypatch.setattr(spool, "peek", noted)
    spool.append(*(record(at) for at in range(3)))
    assert delivery._step() == pytest.approx(5.0)  # the batch may still grow
    assert len(asked) == 1  # for alerts
    clock.seconds += 4.0
    assert delivery._step() == pytest.approx(1.0)
    assert (len(asked), publisher.sent) == (1, [])
    clock.seconds += 1.0
    assert delivery._step() == 0.0
    assert [kind for kind, _ in publisher.sent] == [Up.TELEMETRY]
    asked.clear()
    delivery.on_ack(Ack(epoch=spool.epoch, seq=3))
    for _ in range(20):
        assert delivery._step() >= 5.0
        clock.seconds += 5.0
    assert asked == []
    spool.append(alert(3))
    delivery._step()
    assert [kind for kind, _ in publisher.sent] == [Up.TELEMETRY, Up.ALERT]
    spool.close()


def test_a_delivery_without_a_connection_sleeps_whatever_waits(tmp_path: Path) -> None:
    looks: list[float] = []

    class Offline:
        @property
        def connected(self) -> bool:
            looks.append(time.monotonic())
            return False

        def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool:
            return False

    spool = Spool(tmp_path / "s.db")
    delivery = Delivery(spool, Offline(), DeliveryConfig(), SystemClock(), 50)
    delivery.start()
    for at in range(5):
        spool.append(record(at))
        time.sleep(0.1)
    delivery.stop()
    assert 1 <= len(looks) <= 12  # one at each record, and no more in between
    spool.close()


def test_a_delivery_sleeps_while_a_batch_fills_and_wakes_when_it_is_full_or_an_alert_comes(tmp_path: Path) -> None:
    publisher = FakePublisher()
    spool = Spool(tmp_path / "s.db")
    delivery = Delivery(spool, publisher, DeliveryConfig(batch_seconds=60.0, resend_seconds=60.0), SystemClock(), 20)
    looks: list[float] = []
    step = delivery._step

    def noted(flush: bool = False) -> float:
        looks.append(time.monotonic())
        return step(flush)

    delivery._step = noted  # type: ignore[method-assign]
    delivery.start()

    def count(kind: Up) -> int:
        return [sent for sent, _ in publisher.sent].count(kind)

    try:
        for at in range(10):
            spool.append(record(at))
            time.sleep(0.02)
        assert 1 <= len(looks) <= 4
        spool.append(alert(10))
        until(lambda: count(Up.ALERT) == 1, 5.0)
        assert count(Up.TELEMETRY) == 0
        for at in range(11, 20):
            spool.append(record(at))
        time.sleep(0.2)
        assert count(Up.TELEMETRY) == 0  # twenty are held, and one of them is the alert
        spool.append(record(20))
        until(lambda: count(Up.TELEMETRY) == 1, 5.0)
    finally:
        delivery.stop()
        spool.close()


# --- with a real broker -----------------------------------------------------------------------------------------------


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

    def stored(*where: Any) -> int:
        with reading(rig.database) as connection:
            return int(connection.execute(select(func.count()).select_from(records).where(*where)).scalar_one())

    with Agent(rig, spool, config, 500) as agent:
        until(lambda: stored() > 2000, 30)
        spool.append(alert(999_999))
        until(lambda: stored(records.c.window == 999_999) == 1, 30)
        live.append(stored())
        until(lambda: spool.figures().held == 0, 120)
    assert agent.acks == sorted(agent.acks)
    assert agent.acks[-1] == total + 1
    with reading(rig.database) as connection:
        query = select(records.c.seq, records.c.window, records.c.kind).order_by(records.c.received_at, records.c.seq)
        rows = connection.execute(query).all()
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
        stored = connection.execute(select(func.count()).select_from(records)).scalar_one()
        bodies = connection.execute(select(records.c.body).where(records.c.kind == "report")).scalars().all()
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
            stored = connection.execute(select(func.count()).select_from(records)).scalar_one()
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
