"""The fleet in numbers, counted at each ask while it is small; routes are there before the first request."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, event, insert

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.certificates import ending_certificates


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data") as server:
        yield server


def _routes_built() -> int:
    return sum(type(each).__name__ == "_EffectiveRouteContext" for each in gc.get_objects())


def _enrol(engine: Engine, first: int, count: int) -> None:
    rows = [
        {"id": f"dev-{number:04}", "tags": {}, "state": "active", "enrolled_at": 1.0, "online": True, "counter": 0}
        for number in range(first, first + count)
    ]
    with engine.begin() as connection:
        connection.execute(insert(tables.devices), rows)
        spools = [
            {
                "device": row["id"],
                "epoch": "e",
                "contiguous": 5,
                "highest": 5,
                "stored": 4,
                "dropped": 1,
                "first_seen_at": 1.0,
            }
            for row in rows
        ]
        connection.execute(insert(tables.spools), spools)


def test_a_small_fleet_is_counted_at_each_ask_and_a_large_one_is_kept(engine: Engine) -> None:
    now = [50.0]
    numbers = FleetNumbers(engine, kept_from=10, monotonic=lambda: now[0])
    _enrol(engine, 0, 5)
    assert (numbers.totals().devices, numbers.stored()[0].stored) == (5, 20)
    _enrol(engine, 5, 5)
    assert (numbers.totals().devices, numbers.stored()[0].stored) == (10, 40)
    _enrol(engine, 10, 1)
    now[0] += 0.5
    assert (numbers.totals().devices, numbers.stored()[0].stored) == (10, 40)
    now[0] += 2.0
    assert (numbers.totals().devices, numbers.stored()[0].stored) == (11, 44)


def test_whose_certificates_end_is_read_in_an_index(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    said: list[str] = []
    event.listen(
        engine.get_execution_options()["wheeltapper_readers"],
        "before_cursor_execute",
        lambda *arguments: said.append(arguments[2]),
    )
    assert ending_certificates(engine, 0.0) == []
    (query,) = [text for text in said if "certificate_expires_at" in text]
    with reading(engine) as connection:
        marks = ("x",) * query.count("?")
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", marks))
    assert "COVERING INDEX ix_devices_certificate_ends" in plan, plan
    engine.dispose()


def test_the_first_request_does_not_build_the_routes(server: AdminServer) -> None:
    before = _routes_built()
    assert before > 100
    with server.http() as http:
        assert http.get("/api/v1/summary").status_code == httpx.codes.OK
        assert http.get("/sign-in").status_code != httpx.codes.OK
    assert _routes_built() == before
