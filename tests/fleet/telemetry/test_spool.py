"""Which records of a spool are stored: the high-water mark with its gaps, against a set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wheeltapper_fleet.telemetry import spool as spool_module
from wheeltapper_fleet.telemetry.spool import SpoolChange, SpoolPosition, rising, runs
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord

EPOCH = "00112233445566aa"


def telemetry(*seqs: int, oldest: int = 1, after: int | None = None) -> Telemetry:
    records = [TelemetryRecord(seq=seq, pipeline="main", window=seq, t_s=0.0, score=0.5) for seq in seqs]
    return Telemetry(epoch=EPOCH, oldest=oldest, records=records, after=after)


def test_the_oldest_held_is_gathered_in_any_order() -> None:
    change = SpoolChange()
    for message, first in ((telemetry(7, 8, oldest=5), 7), (telemetry(3, 4, oldest=2), 3)):
        change.add(message, first)
    assert (change.oldest, change.holes) == (5, {})


def test_a_hole_is_kept_only_where_records_are_missing_and_the_widest_counts() -> None:
    change = SpoolChange()
    change.add(telemetry(20, oldest=11, after=19), 20)
    assert change.holes == {}
    for after in (12, 15):
        change.add(telemetry(20, oldest=11, after=after), 20)
    assert change.holes == {20: 12}


class RecordByRecord:
    """The model: every stored number in a set, as if each record had a row; the rules are those of docs/protocol.md."""

    def __init__(self) -> None:
        self.stored: set[int] = set()
        self.contiguous = self.dropped = 0

    def batch(self, said: list[tuple[list[int], int, int | None]]) -> list[int]:
        came = {number for numbers, _, _ in said for number in numbers}
        new = came - self.stored
        self.dropped -= sum(number <= self.contiguous for number in new)
        self.stored |= new
        oldest = max(1, *(min(oldest, min(numbers)) for numbers, oldest, _ in said))
        holes = [(0, oldest)]
        for numbers, _, after in said:
            if after is not None and after < min(numbers) - 1:
                holes.append((after, min(numbers)))
        widest: dict[int, int] = {}
        for low, high in holes[1:]:
            widest[high] = min(low, widest.get(high, high))
        for low, high in sorted([holes[0], *((low, high) for high, low in widest.items())]):
            self.climb()
            if low <= self.contiguous < high - 1:
                self.dropped += sum(n not in self.stored for n in range(self.contiguous + 1, high))
                self.contiguous = high - 1
        self.climb()
        return sorted(new)

    def climb(self) -> None:
        while self.contiguous + 1 in self.stored:
            self.contiguous += 1


MESSAGE = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(0, 40)),
)


@settings(max_examples=400)
@given(st.lists(st.lists(MESSAGE, min_size=1, max_size=4), max_size=12), st.booleans())
def test_any_messages_give_what_a_row_a_record_gives(
    batches: list[list[tuple[list[int], int, int | None]]], loaded_anew: bool
) -> None:
    model, position = RecordByRecord(), SpoolPosition()
    for batch in batches:
        change = SpoolChange()
        new: list[int] = []
        for numbers, oldest, after in batch:
            message = telemetry(*numbers, oldest=oldest, after=after)
            change.add(message, min(numbers))
            new += position.take(rising(numbers))
        position.hear(change)
        assert sorted(new) == model.batch(batch)
        assert (position.contiguous, position.dropped) == (model.contiguous, model.dropped)
        assert position.stored == len(model.stored)
        gone = {number for first, last in position.gaps for number in range(first, last + 1)}
        assert gone == set(range(1, position.highest + 1)) - model.stored
        assert position.stored + position.dropped + position.missing == position.highest
        if loaded_anew:
            position.gaps = sorted(position.gaps)


@given(st.lists(st.integers(1, 60), min_size=1))
def test_runs_are_the_numbers(numbers: list[int]) -> None:
    found = rising(numbers)
    assert found == sorted(set(numbers))
    assert [number for first, last in runs(found) for number in range(first, last + 1)] == found
    assert all(before[1] + 1 < after[0] for before, after in zip(runs(found), runs(found)[1:], strict=False))


def test_a_scattered_spool_takes_only_what_closes_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_GAPS", 3)
    position = SpoolPosition()
    for number in (2, 4, 6):
        assert not position.scattered([number])
        position.take([number])
    assert position.scattered([8])
    assert position.scattered([8, 10, 12])
    assert not position.scattered([7])
    assert not position.scattered([1])
    position.take([1])
    assert (position.contiguous, position.scattered([8])) == (2, False)
