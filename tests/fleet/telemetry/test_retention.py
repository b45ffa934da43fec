"""What has been kept long enough ends, in bounded turns; the rest stays."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text

from tests.fleet.records import stored_records
from tests.fleet.telemetry.test_history import deliver
from tests.fleet.telemetry.test_store import EPOCHS, window
from wheeltapper_fleet import tables
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry import partitions, retention
from wheeltapper_fleet.telemetry.partitions import make_partitions
from wheeltapper_fleet.telemetry.retention import Keep, Retention
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.wire.messages import DriftReport, Report

DAY = 86_400.0
NOW = 1_790_000_000.0 // DAY * DAY


def ends(engine: Engine, now: float) -> int:
    """Run until there is nothing more to do; gives how many turns that took."""
    duty, turns = Retention(engine, Keep(messages_days=10, rollups_days=20, hours_days=40)), 1
    while duty.run(now):
        turns += 1
        assert turns < 1000
    return turns


def rolled(engine: Engine, span: int) -> int:
    with reading(engine) as connection:
        query = select(func.coalesce(func.sum(tables.rollups.c.windows), 0)).where(tables.rollups.c.span == span)
        return int(connection.execute(query).scalar_one())


def drift_report(engine: Engine, seq: int, now: float) -> None:
    sketch = encode_sketches(Bins([[0.0, 1.0]]).empty())
    place: dict[str, Any] = {"first_window": 0, "last_window": 0, "first_t_s": 0.0, "last_t_s": 0.0, "windows": 0}
    body = DriftReport(pipeline="main", model="m", release=1, why="period", **place, sketches=sketch, score=sketch)
    with engine.begin() as connection:
        report = Report(epoch=EPOCHS[1], oldest=1, seq=seq, at=now, body=body)
        store_messages(connection, [("dev-1", report, b"")], now)


def test_each_kind_is_kept_for_its_term(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_MESSAGES", 3)
    monkeypatch.setattr(retention, "_PIPELINES", 2)
    for age in range(60, 0, -1):
        at = NOW - age * DAY
        for device in ("dev-1", "dev-2", "dev-3"):
            deliver(engine, at, [window(61 - age, t_s=at)], device)
        if age in (50, 5):
            drift_report(engine, 1 if age == 50 else 2, at)
    assert ends(engine, NOW) > 10
    kept = {record.seq for record in stored_records(engine) if record.kind == "telemetry"}
    last = set(range(51, 61))
    if engine.dialect.name == "sqlite":
        assert kept == last
    else:  # where the default partition holds the month it ends by the day, else with its month
        assert last <= kept
    assert (rolled(engine, 300), rolled(engine, 3600), rolled(engine, 86_400)) == (3 * 20, 3 * 40, 3 * 60)
    with reading(engine) as connection:
        assert connection.execute(select(tables.drift_reports.c.seq)).scalars().all() == [2]
        assert connection.execute(select(func.sum(tables.latest.c.windows))).scalar_one() == 180
    assert ends(engine, NOW) == 2  # three pipelines, two in a turn


def test_months_are_made_ahead_take_over_what_came_before_and_are_dropped_whole(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no partitions")
    old = NOW - 3000 * DAY  # no other test has a partition there
    for number in range(3):
        deliver(engine, old + number * 31 * DAY, [window(number + 1)])

    def held(table: str) -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one())

    assert held("messages_default") == 3
    monkeypatch.setattr(partitions, "_MOST_MOVED", 0)
    with engine.begin() as connection:
        assert make_partitions(connection, old) == []  # too many to be moved: they stay where they are
    monkeypatch.setattr(partitions, "_MOST_MOVED", 10)
    with engine.begin() as connection:
        made = make_partitions(connection, old)
        assert (len(made), make_partitions(connection, old)) == (3, [])
    assert held("messages_default") == 0
    assert [record.seq for record in stored_records(engine)] == [1, 2, 3]
    deliver(engine, old, [window(4)])
    assert (held(made[0]), held("messages_default")) == (2, 0)
    ends(engine, old + 70 * DAY)
    assert [record.seq for record in stored_records(engine)] == [3]
    with engine.connect() as connection:
        gone = connection.execute(text("SELECT to_regclass(:name)"), {"name": made[0]}).scalar_one()
    assert gone is None


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_terms_have_bounds(days: int) -> None:
    with pytest.raises(FleetError, match="keep_messages_days"):
        FleetConfig(keep_messages_days=days)
