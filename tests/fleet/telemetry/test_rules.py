"""What a message says about its spool."""

from __future__ import annotations

from wheeltapper_fleet.telemetry.rules import SpoolChange
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord

EPOCH = "00112233445566aa"


def telemetry(*seqs: int, oldest: int = 1, after: int | None = None) -> Telemetry:
    records = [TelemetryRecord(seq=seq, pipeline="main", window=seq, t_s=0.0, score=0.5) for seq in seqs]
    return Telemetry(epoch=EPOCH, oldest=oldest, records=records, after=after)


def test_records_and_the_oldest_held_are_gathered_in_any_order() -> None:
    change = SpoolChange()
    for message in (telemetry(7, 8, oldest=5), telemetry(3, 4, oldest=2)):
        change.add(message)
    assert (change.seqs, change.oldest, change.gaps) == ({3, 4, 7, 8}, 5, {})


def test_a_gap_is_kept_only_where_records_are_missing_and_the_widest_counts() -> None:
    change = SpoolChange()
    change.add(telemetry(20, oldest=11, after=19))
    assert change.gaps == {}
    for after in (12, 15):
        change.add(telemetry(20, oldest=11, after=after))
    assert change.gaps == {20: 12}
