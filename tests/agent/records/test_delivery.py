"""Delivery: what goes out when, at which rate, and how often an idle one wakes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.agent.servers import until
from tests.agent.spool_kit import Clock, FakePublisher, alert, record
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Held, Spool
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import Ack, Alert, LossReport, Report, Telemetry
from wheeltapper_protocols.wire.topics import Up


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
