"""A database of the version before, with a row a record, keeps every record, count and gap as messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, select, text

from tests.fleet.records import stored_records
from wheeltapper_fleet import tables
from wheeltapper_fleet.db import engine as database
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_fleet.telemetry.views import newest_scores, record_totals
from wheeltapper_protocols.wire.messages import Alert, LossReport, Report, Severity, Telemetry, TelemetryRecord

EPOCH = "00112233445566aa"
NOW = 1_790_000_000.0


def old_rows() -> list[dict[str, Any]]:
    """Records 1 to 3, 6 to 1205 and 1210 of one spool; 4 and 5 were dropped, 1206 to 1209 are missing."""
    rows = []
    for seq in (*range(1, 4), *range(6, 1206), 1210):
        row: dict[str, Any] = {"seq": seq, "kind": "telemetry", "received_at": NOW + seq // 700, "window": seq}
        row |= {"pipeline": "main", "t_s": NOW - 86_400 + seq, "model": "m", "release": 1, "score": seq / 1000}
        row |= {"severity": "warning" if seq == 1205 else "normal", "latency_ms": 2.0, "body": None}
        rows.append(row)
    rows[0] |= {"model": None, "release": None, "score": None, "latency_ms": None}
    rows[1] |= {"pipeline": "other", "body": {"label": "a\0b", "value": 41.5, "zone": "C"}}
    same: dict[str, Any] = {"epoch": EPOCH, "oldest": 1}
    alert = Alert(
        **same,
        seq=3,
        pipeline="main",
        window=2,
        t_s=1.0,
        at=NOW - 10,
        model="m",
        release=1,
        score=2.0,
        severity=Severity.WARNING,
    )
    rows[2] |= {"kind": "alert", "t_s": 1.0, "window": 2, "score": 2.0, "body": msgspec.to_builtins(alert)}
    report = Report(**same, seq=6, at=NOW, body=LossReport(why="spool.full", counts={"telemetry": 2}))
    nothing = ("pipeline", "window", "t_s", "model", "release", "score", "severity", "latency_ms")
    rows[3] |= {"kind": "report", "body": msgspec.to_builtins(report)} | dict.fromkeys(nothing)
    return rows


def fill(url: str) -> None:
    before = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with before.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
        for spool in (("dev-1", EPOCH, 1205, 2), ("dev-2", EPOCH, 7, 7)):
            connection.execute(
                text("INSERT INTO spools VALUES (:d, :e, :c, :n, 1.0)"), dict(zip("decn", spool, strict=True))
            )
        rows = [{"device": "dev-1", "epoch": EPOCH, **row, "body": json.dumps(row["body"])} for row in old_rows()]
        rows = [row | {"body": None if row["body"] == "null" else row["body"]} for row in rows]
        names = ", ".join(f'"{name}"' for name in rows[0])
        values = ", ".join(f":{name}" for name in rows[0])
        connection.execute(text(f"INSERT INTO records ({names}) VALUES ({values})"), rows)
        connection.execute(
            text(
                'INSERT INTO alerts (device, epoch, seq, pipeline, "window", t_s, at, model, release, score, severity,'
                " raised, reasons) VALUES ('dev-1', :epoch, 3, 'main', 2, 1.0, :at, 'm', 1, 2.0, 'warning', :yes, '[]')"
            ),
            {"epoch": EPOCH, "at": NOW - 10, "yes": True},
        )
    before.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_keeps_every_record(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    fill(url)
    after = open_database(url)
    found = stored_records(after, "dev-1")
    old = old_rows()
    assert [each.seq for each in found] == [row["seq"] for row in old]
    for each, row in zip(found, old, strict=True):
        assert (each.kind, each.received_at) == (row["kind"], row["received_at"])
        if each.kind == "telemetry":
            names = ("pipeline", "window", "t_s", "model", "release", "score", "severity", "latency_ms")
            assert [getattr(each, name) for name in names] == [row[name] for name in names]
            assert (each.label, each.value, each.zone) == tuple(
                (row["body"] or {}).get(name) for name in ("label", "value", "zone")
            )
        else:
            assert each.body == row["body"]
    with reading(after) as connection:
        gaps = tables.spool_gaps.c
        query = select(gaps.first_seq, gaps.last_seq, gaps.state).order_by(gaps.device, gaps.first_seq)
        assert connection.execute(query).all() == [
            (4, 5, "dropped"),
            (1206, 1209, "missing"),
            (1, 7, "dropped"),
        ]
        totals = record_totals(connection, ["dev-1", "dev-2"])
        assert [(each.stored, each.missing, each.dropped) for each in totals.values()] == [(1204, 4, 2), (0, 0, 7)]
        newest = newest_scores(connection, ["dev-1"])["dev-1"]
        assert (newest["main"].score, newest["main"].at) == (1.21, NOW + 1)
        assert newest["other"].score == 0.002
        day = select(tables.rollups).where(tables.rollups.c.span == 86_400, tables.rollups.c.pipeline == "main")
        days = connection.execute(day).all()
        scores = [row["score"] for row in old if row["kind"] == "telemetry" and row["pipeline"] == "main"]
        assert sum(row.windows for row in days) == len(scores)
        assert sum(row.missing for row in days) == 1
        assert sum(row.score_sum for row in days) == pytest.approx(sum(score or 0 for score in scores))
        assert (sum(row.warnings for row in days), sum(row.alerts for row in days)) == (1, 1)
    goes_on(after)
    with after.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    after.dispose()


def goes_on(engine: Any) -> None:
    """What was stored before comes again and changes nothing; what was missing is stored."""
    records = [TelemetryRecord(seq=seq, pipeline="main", window=seq, t_s=1.0) for seq in range(1200, 1212)]
    message = Telemetry(epoch=EPOCH, oldest=1, records=records)
    with engine.begin() as connection:
        assert store_messages(connection, [("dev-1", message, b"")], NOW).acks == {("dev-1", EPOCH): 1211}
        assert record_totals(connection, ["dev-1"])["dev-1"].stored == 1204 + 5
