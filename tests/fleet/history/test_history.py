"""Raw history beyond the database: every record once, whatever dies, on a folder and on a real S3 server."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from sqlalchemy import Engine, delete, select

from tests.fleet.export.test_export import AT, alert, telemetry
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.history.place import HistoryPlace
from wheeltapper_fleet.history.reading import export_records, read_history
from wheeltapper_fleet.history.segments import COLUMNS, Segments, days, verify_segments, written_up_to
from wheeltapper_fleet.history.settings import HistorySettings, read_settings
from wheeltapper_fleet.history.tables import segments
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.telemetry.retention import Keep, Retention
from wheeltapper_fleet.telemetry.tables import messages

DAY = 86_400.0
HOUR = 3600.0
MIDNIGHT = AT - AT % DAY


def store(engine: Engine, device: str, first: int, count: int, at: float) -> None:
    with engine.begin() as connection:
        apply_batch(connection, [DeviceMessage(device, telemetry(first, count))], [], at)


def three_days(engine: Engine) -> None:
    """30 records of two devices a day for three days, and an alert."""
    for day in range(3):
        for device in ("press-1", "press-2"):
            for part in range(3):
                store(engine, device, 1 + 15 * day + 5 * part, 5, MIDNIGHT + day * DAY + part * HOUR)
    with engine.begin() as connection:
        apply_batch(connection, [DeviceMessage("press-1", alert(46))], [], MIDNIGHT + 2 * DAY + 4 * HOUR)


def written(engine: Engine) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(segments).order_by(segments.c.first_message)).all())


def move_all(moved: Segments, now: float) -> int:
    turns = 0
    while moved.turn(now):
        turns += 1
        assert turns < 100
    return turns


def test_days_that_are_over_move_and_all_is_read(engine: Engine, url: str) -> None:
    three_days(engine)
    place = HistoryPlace(url)
    moved = Segments(engine, place, HOUR)
    assert move_all(moved, MIDNIGHT + 2 * DAY + 2 * HOUR) == 2, "the day that is not over stays"
    rows = written(engine)
    assert [(row.records, row.unreadable) for row in rows] == [(30, 0), (30, 0)]
    assert [row.day for row in rows] == ["2023-11-14", "2023-11-15"]
    assert verify_segments(engine, place, lambda path: None) == []
    with engine.begin() as connection:  # retention
        connection.execute(delete(messages).where(messages.c.id <= written_up_to(connection)))
    with read_history(engine, place) as records:
        [counted] = records.aggregate("count(*), count(DISTINCT (device, epoch, seq)), sum(score)").fetchall()
        said = records.filter("kind = 'alert'").project("device, seq, body").fetchall()
    total = 2 * sum(seq / 8 for seq in range(1, 46)) + 3.5
    assert counted == (91, 91, pytest.approx(total))
    assert [(device, seq) for device, seq, _ in said] == [("press-1", 46)]
    assert "inner race" in said[0][2]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({"devices": ["press-2"]}, 45),
        ({"since": MIDNIGHT + DAY}, 61),
        ({"until": MIDNIGHT + DAY}, 30),
        ({"since": MIDNIGHT + DAY, "until": MIDNIGHT + DAY + HOUR}, 10),
        ({"devices": ["press-1", "x'; DROP TABLE y"], "since": MIDNIGHT + 2 * DAY}, 16),
    ],
)
def test_a_choice_of_records(engine: Engine, tmp_path: Path, chosen: dict[str, Any], count: int) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    move_all(Segments(engine, place, HOUR), MIDNIGHT + 2 * DAY + 2 * HOUR)
    with read_history(engine, place, **chosen) as records:
        assert records.aggregate("count(*)").fetchall() == [(count,)]


def test_a_segment_ends_where_it_is_large_enough(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    assert move_all(Segments(engine, place, HOUR, max_records=12), MIDNIGHT + 9 * DAY) == 7
    rows = written(engine)
    assert [row.records for row in rows] == [15, 15, 15, 15, 15, 15, 1]
    assert all(before.last_message < after.first_message for before, after in itertools.pairwise(rows))


def test_what_died_between_file_and_row_is_written_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    moved = Segments(engine, place, HOUR)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "begin", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            moved.turn(MIDNIGHT + 9 * DAY)
    assert len(list((tmp_path / "history").rglob("*.parquet"))) == 1
    assert written(engine) == []
    move_all(moved, MIDNIGHT + 9 * DAY)
    assert len(list((tmp_path / "history").rglob("*.parquet"))) == 3
    with read_history(engine, place) as records:
        assert records.aggregate("count(*), count(DISTINCT (device, epoch, seq))").fetchall() == [(91, 91)]


def test_a_place_that_is_away_loses_nothing(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    moved = Segments(engine, place, HOUR)
    with monkeypatch.context() as patched:

        def full(path: Path, content: bytes, mode: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("wheeltapper_fleet.ground.place.files.write_atomic", full)
        with pytest.raises(FleetError) as refused:
            moved.turn(MIDNIGHT + 9 * DAY)
    assert refused.value.code == "history.unreachable"
    assert written(engine) == []
    assert move_all(moved, MIDNIGHT + 9 * DAY) == 3


def test_what_cannot_be_read_is_counted(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    with engine.begin() as connection:
        connection.execute(messages.update().where(messages.c.first_seq == 1).values(body=b"\xc1"))
    place = HistoryPlace(str(tmp_path / "history"))
    move_all(Segments(engine, place, HOUR), MIDNIGHT + 9 * DAY)
    assert [(row.records, row.unreadable) for row in written(engine)] == [(20, 2), (30, 0), (31, 0)]


def test_a_changed_or_missing_file_is_named(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    move_all(Segments(engine, place, HOUR), MIDNIGHT + 9 * DAY)
    first, second, _ = sorted((tmp_path / "history").rglob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    names = [str(path.relative_to(tmp_path / "history")) for path in (first, second)]
    assert verify_segments(engine, place, lambda path: None) == names
    with pytest.raises(FleetError) as refused, read_history(engine, place) as records:
        records.fetchall()
    assert refused.value.code == "history.unreachable"


def test_retention_waits_for_the_history(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    late = MIDNIGHT + 400 * DAY
    retention = Retention(engine, Keep(messages_days=10), written_up_to)

    def left() -> int:
        for _ in range(20):
            if not retention.run(late):
                break
        retention._partitions_at = -late
        with reading(engine) as connection:
            return len(connection.execute(select(messages.c.id)).all())

    assert left() == 19
    moved = Segments(engine, HistoryPlace(str(tmp_path / "history")), HOUR)
    assert moved.turn(late)
    if engine.dialect.name == "sqlite":  # PostgreSQL drops whole months
        assert left() == 13
    move_all(moved, late)
    assert left() == 0
    with read_history(engine, HistoryPlace(str(tmp_path / "history"))) as records:
        assert records.aggregate("count(*)").fetchall() == [(91,)]


def test_an_export_of_history_and_database_together(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    move_all(Segments(engine, place, HOUR), MIDNIGHT + 2 * DAY + 2 * HOUR)
    out = tmp_path / "records.parquet"
    assert export_records(engine, place, out) == 91
    table = parquet.read_table(out)
    assert table.num_rows == 91
    assert table.column_names == list(COLUMNS)
    assert export_records(engine, place, tmp_path / "one.csv", devices=["press-2"]) == 45
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 46
    with pytest.raises(FleetError) as refused:
        export_records(engine, place, out)
    assert refused.value.code == "export.exists"
    with pytest.raises(FleetError) as refused:
        export_records(engine, place, tmp_path / "records.xlsx")
    assert refused.value.code == "export.format"
    assert days(engine)[0] == {"day": "2023-11-14", "segments": 1, "records": 30, "unreadable": 0} | {
        "bytes": written(engine)[0].bytes
    }


@pytest.mark.parametrize(
    "value",
    [{"url": 1}, {"after_days": 0.0}, {"after_days": 1e9}, {"after_days": "1"}, {"after_days": True}, {"uri": "x"}, 3],
)
def test_settings_that_make_no_sense_are_refused(value: object) -> None:
    with pytest.raises(FleetError) as refused:
        read_settings(value)
    assert refused.value.code == "config.invalid"
    assert read_settings({"url": "x", "after_days": 2}) == HistorySettings(url="x", after_days=2.0)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "s3://", "s3://key:hush@bucket/x", "s3://bucket/x?secret_key=hush", "s3://bucket?scheme=carrier"],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(FleetError) as refused:
        HistoryPlace(url)
    assert refused.value.code == "history.url"
    assert "hush" not in refused.value.message
