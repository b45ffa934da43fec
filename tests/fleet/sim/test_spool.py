"""The spool of a simulated device: numbers without gaps, nothing forgotten but what was acknowledged or dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.sim.spool import Message, Spool
from wheeltapper_protocols.wire.messages import Ack, AssignmentRefused, Report, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

EPOCH = "00000000000000aa"


def add_records(spool: Spool, count: int, now: float = 0.0) -> None:
    spool.add_telemetry(
        lambda first: [
            TelemetryRecord(seq=first + index, pipeline="main", window=index, t_s=0.0) for index in range(count)
        ],
        now,
    )


def add_report(spool: Spool, now: float = 0.0) -> None:
    body = AssignmentRefused(code="x")
    spool.add(
        lambda epoch, seq, oldest, after: Report(epoch=epoch, seq=seq, oldest=oldest, after=after, at=now, body=body),
        now,
    )


def numbers(message: Message) -> list[int]:
    return [each.seq for each in message.records] if isinstance(message, Telemetry) else [message.seq]


class Fleet:
    """Knows what came, what never comes, and so how far the spool's numbers are complete."""

    def __init__(self) -> None:
        self.has: set[int] = set()
        self.gone: set[int] = set()

    def take(self, message: Message) -> None:
        found = numbers(message)
        self.has.update(found)
        self.gone.update(set(range(1, message.oldest)) - self.has)
        if message.after is not None:
            self.gone.update(set(range(message.after + 1, found[0])) - self.has)

    @property
    def ack(self) -> Ack:
        seq = 0
        while seq + 1 in self.has | self.gone:
            seq += 1
        return Ack(epoch=EPOCH, seq=seq)


@given(
    st.lists(st.sampled_from(["telemetry", "report", "send", "send and lose", "ack", "wait", "reconnect"]), max_size=60)
)
def test_whatever_happens_every_record_arrives_or_is_said_to_be_dropped(steps: list[str]) -> None:
    spool, fleet, now = Spool(EPOCH, capacity=12, resend_seconds=5.0, window_messages=3), Fleet(), 0.0
    for step in [*steps, *(["wait", "send", "ack"] * 60)]:
        match step:
            case "telemetry":
                add_records(spool, 4, now)
            case "report":
                add_report(spool, now)
            case "send" | "send and lose":
                sent = spool.due(now)
                assert len(sent) <= 3
                for _, message in sent if step == "send" else []:
                    fleet.take(message)
            case "ack":
                spool.on_ack(fleet.ack, now)
            case "wait":
                now += 61.0
            case "reconnect":
                spool.rewind(now)
        assert spool.held <= 12 + sum(step == "report" for step in steps)
    assert spool.held == 0
    assert fleet.ack.seq == spool.seq == spool.acked
    assert len(fleet.has) >= spool.seq - spool.dropped


def test_what_is_not_acknowledged_is_sent_again_after_a_time_that_doubles() -> None:
    spool = Spool(EPOCH, resend_seconds=5.0)
    add_records(spool, 2)
    assert [kind for kind, _ in spool.due(0.0)] == [Up.TELEMETRY]
    assert spool.due(4.9) == []
    assert spool.next_at() == 5.0
    assert len(spool.due(5.0)) == 1
    assert spool.due(14.9) == []
    assert len(spool.due(15.0)) == 1
    assert spool.on_ack(Ack(epoch=EPOCH, seq=2), 16.0) == [16.0]
    assert spool.next_at() is None


def test_an_ack_within_a_message_leaves_the_rest_of_it() -> None:
    spool = Spool(EPOCH, resend_seconds=5.0)
    add_records(spool, 5)
    spool.due(0.0)
    spool.on_ack(Ack(epoch=EPOCH, seq=2), 1.0)
    ((_, message),) = spool.due(6.0)
    assert numbers(message) == [3, 4, 5]
    assert (message.oldest, spool.held) == (3, 3)


def test_acks_of_another_epoch_or_beyond_the_newest_record_change_nothing() -> None:
    spool = Spool(EPOCH)
    add_records(spool, 2)
    assert spool.on_ack(Ack(epoch="00000000000000bb", seq=2), 0.0) == []
    assert spool.on_ack(Ack(epoch=EPOCH, seq=3), 0.0) == []
    assert spool.held == 2
