"""Records and curves of a device, from both databases and over HTTP."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.fleet.api.harness import AdminServer
from tests.fleet.telemetry.test_store import EPOCHS, NOW, said, window
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.telemetry import history as history_module
from wheeltapper_fleet.telemetry.history import HistoryPoint, history, iter_records, read_records
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord


def deliver(engine: Engine, now: float, records: Sequence[TelemetryRecord], device: str = "dev-1") -> None:
    message = Telemetry(epoch=EPOCHS[0], oldest=1, records=list(records))
    with engine.begin() as connection:
        store_messages(connection, [(device, message, b"")], now)


def fill(engine: Engine) -> None:
    """Records 1 to 60 of all kinds in messages of up to ten, and those of another device."""
    with engine.begin() as connection:
        for first in range(1, 60, 10):
            batch = [each for _, each in said(EPOCHS[0], list(range(first, first + 10)), 1, None)]
            store_messages(connection, batch, NOW + first)
    deliver(engine, NOW, [window(1)], "dev-2")


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 60, 100])
def test_pages_hold_every_record_once_and_in_order(engine: Engine, limit: int, newest_first: bool) -> None:
    fill(engine)
    with reading(engine) as connection:
        whole = [each.seq for each in iter_records(connection, "dev-1")]
        assert sorted(whole) == list(range(1, 61))
        found: list[int] = []
        after = None
        for _ in range(61):
            page = read_records(connection, "dev-1", after, limit, newest_first=newest_first)
            assert len(page.items) <= limit
            found += [each.seq for each in page.items]
            after = page.next
            if after is None:
                break
    assert found == (whole[::-1] if newest_first else whole)


def test_a_page_of_large_reports_is_cut(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine)
    monkeypatch.setattr(history_module, "_PAGE_BYTES", 2000)
    with reading(engine) as connection:
        page = read_records(connection, "dev-1", None, 60)
        assert 1 <= len(page.items) <= 6
        assert page.next is not None


def curve(engine: Engine, from_at: float, to_at: float, points: int) -> list[HistoryPoint]:
    with reading(engine) as connection:
        return history(connection, "dev-1", "main", from_at, to_at, points)


def test_a_curve_of_records_and_one_of_rollups_say_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = NOW // 3600 * 3600
    scores = [0.1 * number for number in range(60)]
    windows = [window(n + 1, t_s=begin + 60 * n, score=None if n % 10 == 3 else s) for n, s in enumerate(scores)]
    deliver(engine, begin + 3600, windows)
    fine = curve(engine, begin, begin + 3600, 60)
    assert [(point.at, point.seconds, point.windows) for point in fine] == [(begin + 60 * n, 60, 1) for n in range(60)]
    assert fine[3].mean is None
    assert fine[4].mean == pytest.approx(0.4)
    by_record = curve(engine, begin, begin + 3600, 13)
    assert len(by_record) == 13
    monkeypatch.setattr(history_module, "_MOST_RECORDS", 10)
    rolled = curve(engine, begin, begin + 3600, 60)
    assert [(point.at, point.seconds, point.windows) for point in rolled] == [
        (begin + 300 * n, 300, 5) for n in range(12)
    ]
    whole = (curve(engine, begin, begin + 3600, 1), by_record)
    for points in (rolled, *whole):
        assert sum(point.windows for point in points) == 60
        assert sum(point.missing for point in points) == 6
        assert min(point.min for point in points if point.min is not None) == 0.0
        assert max(point.max for point in points if point.max is not None) == pytest.approx(5.9)
        total = sum((point.mean or 0.0) * point.scored for point in points)
        assert total == pytest.approx(sum(record.score or 0.0 for record in windows))
        assert {release for point in points for release in point.releases} == {"m/1"}
    (one,) = whole[0]
    assert one.deviation == pytest.approx(
        statistics.pstdev(s for s in (record.score for record in windows) if s is not None)
    )
    assert (one.latency_mean_ms, one.latency_max_ms) == (1.5, 1.5)


def test_a_long_curve_is_read_from_coarse_rollups_and_where_fine_ones_have_ended(engine: Engine) -> None:
    for day in range(20):
        at = NOW + 86_400 * day
        deliver(engine, at, [window(day + 1, t_s=at)])
    end = NOW + 86_400 * 20
    points = curve(engine, NOW - 86_400, end, 10)
    assert all(point.seconds % 86_400 == 0 for point in points)
    assert (len(points) <= 10, sum(point.windows for point in points)) == (True, 20)
    statement = "DELETE FROM rollups WHERE span = 300 AND bucket < :end"
    with engine.begin() as connection:
        connection.execute(text(statement), {"end": NOW + 86_400 * 15})
    points = curve(engine, NOW, end, 2000)
    assert sum(point.windows for point in points) == 20


def test_a_page_and_a_curve_use_the_index(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("the plans of PostgreSQL depend on what it has counted")
    fill(engine)
    plans: list[str] = []

    def explain(statement: str, *values: Any) -> str:
        with engine.connect() as connection:
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())

    order = "ORDER BY received_at, id LIMIT 10"
    plans.append(explain(f"SELECT * FROM messages WHERE device = ? AND (received_at, id) >= (?, ?) {order}", "d", 1, 1))
    plans.append(explain("SELECT min(bucket) FROM rollups WHERE device = ? AND pipeline = ? AND span = ?", "d", "p", 1))
    assert all("SEARCH" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan for plan in plans), plans


def test_over_http(server: AdminServer) -> None:
    server.add_device("dev-1")
    fill(server.engine)
    with server.http() as http:
        page = http.get("/api/v1/devices/dev-1/records?limit=5").json()
        assert [each["seq"] for each in page["items"]][:2] == [1, 2]
        second = http.get(f"/api/v1/devices/dev-1/records?limit=5&after={page['next']}").json()
        assert not {each["seq"] for each in page["items"]} & {each["seq"] for each in second["items"]}
        alerts = http.get("/api/v1/devices/dev-1/records?kind=alert&order=newest").json()["items"]
        assert [each["body"]["seq"] for each in alerts] == [55, 44, 33, 22, 11]
        path = f"/api/v1/devices/dev-1/history?from={NOW - 3600}&to={NOW + 3600}"
        points = http.get(f"{path}&pipeline=main").json()["points"]
        stored = {each["seq"] for each in http.get("/api/v1/devices/dev-1/records?kind=telemetry").json()["items"]}
        assert sum(point["windows"] for point in points) == sum(seq % 2 for seq in stored)
        assert http.get(f"{path}&pipeline=none").json()["points"] == []
        for query, status, code in (
            ("records?limit=0", 422, "api.invalid"),
            ("records?after=x", 400, "cursor.invalid"),
            ("history?pipeline=main&points=2001", 422, "api.invalid"),
            ("history?pipeline=main&from=5&to=5", 400, "history.range"),
            ("history", 422, "api.invalid"),
        ):
            answer = http.get(f"/api/v1/devices/dev-1/{query}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), query
