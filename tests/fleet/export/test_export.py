"""The portable export: every table or a reason, records instead of messages, no secret, the same from both."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from wheeltapper_fleet.db.engine import insert_ignore
from wheeltapper_fleet.export.export import Choice, export_fleet, exported_columns
from wheeltapper_fleet.export.schema import LEFT_OUT, SECRET_WORDS
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.tables import api_tokens, campaign_log, campaigns, devices, metadata
from wheeltapper_fleet.telemetry.tables import messages
from wheeltapper_protocols.wire.messages import Alert, Reason, Severity, Telemetry, TelemetryRecord

AT = 1_700_000_000.0
EPOCH = "00112233445566aa"
DAY = 86_400.0


def device_row(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "tags": {"site": "Süd"},
        "enrolled_at": AT,
        "certificate_sha256": "0" * 64,
        "certificate_expires_at": AT + 1e8,
    }


def telemetry(first: int, count: int) -> Telemetry:
    records = [
        TelemetryRecord(
            seq=seq, pipeline="main", window=seq, t_s=AT + seq, model="m", release=1, score=seq / 8, zone="A"
        )
        for seq in range(first, first + count)
    ]
    return Telemetry(epoch=EPOCH, oldest=1, records=records)


def alert(seq: int) -> Alert:
    return Alert(
        epoch=EPOCH,
        oldest=1,
        seq=seq,
        pipeline="main",
        window=7,
        t_s=AT,
        at=AT,
        model="m",
        release=1,
        score=3.5,
        severity=Severity.CRITICAL,
        label="inner race",
        reasons=[Reason(feature="kurtosis of x", value=9.0, usual=3.0, share=0.8)],
    )


def fill(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(devices.insert(), [device_row(f"press-{number}") for number in (1, 2)])
        row = {"id": "c-1", "version": 1, "state": "DRAFT", "spec": {"model": "m"}, "waves": [], "reason": ""}
        connection.execute(campaigns.insert().values(row | {"created_at": AT, "updated_at": AT}))
        connection.execute(campaign_log.insert().values(campaign="c-1", at=AT, who="ann", event="created"))
        insert_ignore(connection, api_tokens, [{"secret_sha256": "f" * 64, "name": "token-of-ann", "created_at": AT}])
        apply_batch(connection, [DeviceMessage("press-1", telemetry(1, 10))], [], AT)
        apply_batch(connection, [DeviceMessage("press-1", alert(11))], [], AT + DAY)
        apply_batch(connection, [DeviceMessage("press-2", telemetry(1, 5))], [], AT + 2 * DAY)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with opened(path) as connection:
        return connection.execute(query).fetchall()


def test_every_table_is_exported_or_left_out_with_a_reason() -> None:
    assert set(LEFT_OUT) <= {table.name for table in metadata.sorted_tables}, "the reason of a table that is gone"
    for table in metadata.sorted_tables:
        names = exported_columns(table)
        assert bool(names) != (table.name in LEFT_OUT)
        assert not [name for name in names if any(word in name for word in SECRET_WORDS)]


def test_the_export_reads_like_the_fleet(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    done = export_fleet(engine, tmp_path / "fleet.sqlite", AT)
    assert done.problems == ()
    assert (done.rows["devices"], done.rows["records"], done.rows["alerts"]) == (2, 16, 1)
    path = done.path
    assert path.stat().st_mode & 0o777 == 0o600
    assert rows(path, "SELECT device, seq, score, severity FROM records WHERE seq = 3 AND device = 'press-2'") == [
        ("press-2", 3, 0.375, "normal")
    ]
    assert rows(path, "SELECT json_extract(tags, '$.site') FROM devices LIMIT 1") == [("Süd",)]
    assert rows(path, "SELECT event FROM campaign_log") == [("created",)]
    with opened(path) as connection:
        links = {(row[3], row[2]) for row in connection.execute("PRAGMA foreign_key_list(records)")}
        assert ("device", "devices") in links
        found = connection.execute("SELECT rowid FROM alerts_fts WHERE alerts_fts MATCH 'inner kurtosis'").fetchall()
        assert len(found) == 1
        assert connection.execute("SELECT alerts FROM alerts_by_day").fetchall() == [(1,)]
        plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM records WHERE device = 'x' AND epoch = 'y'")
        assert "USING" in plan.fetchone()[3]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_no_secret_is_in_the_file(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    path = export_fleet(engine, tmp_path / "fleet.sqlite", AT).path
    raw = path.read_bytes()
    assert b"f" * 64 not in raw
    assert b"token-of-ann" not in raw


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (Choice(), 16),
        (Choice(since=AT + 1.0), 6),
        (Choice(until=AT + 1.0), 10),
        (Choice(devices=("press-1",)), 11),
        (Choice(since=AT + 1.0, devices=("press-1",)), 1),
        (Choice(devices=("nobody",)), 0),
    ],
)
def test_a_choice_of_records(engine: Engine, tmp_path: Path, choice: Choice, count: int) -> None:
    fill(engine)
    done = export_fleet(engine, tmp_path / "fleet.sqlite", AT, choice)
    assert done.rows["records"] == count
    assert done.rows["devices"] == 2


def test_without_records(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    done = export_fleet(engine, tmp_path / "fleet.sqlite", AT, Choice(records=False))
    assert "records" not in done.rows


def test_a_message_that_cannot_be_read_is_counted(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    with engine.begin() as connection:
        first = connection.execute(select(messages.c.id).order_by(messages.c.id)).scalars().first()
        connection.execute(messages.update().where(messages.c.id == first).values(body=b"\xc1"))
    done = export_fleet(engine, tmp_path / "fleet.sqlite", AT)
    assert done.rows["records"] == 6
    assert len(done.problems) == 1
    assert rows(done.path, "SELECT count(*) FROM problems") == [(1,)]


def test_a_file_is_replaced_only_if_asked(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "fleet.sqlite"
    out.write_text("mine")
    with pytest.raises(FleetError) as refused:
        export_fleet(engine, out, AT)
    assert refused.value.code == "export.exists"
    assert out.read_text() == "mine"
    export_fleet(engine, out, AT, replace=True)
    assert rows(out, "SELECT format FROM export") == [(1,)]
    with pytest.raises(FleetError) as refused:
        export_fleet(engine, tmp_path / "missing" / "fleet.sqlite", AT)
    assert refused.value.code == "export.failed"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []
