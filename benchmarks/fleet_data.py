"""A large fleet's database, made at once: what a service would have after its devices sent so many records.

The rows are those that the service itself would write, with these simplifications: the payloads of a hundred different
messages are used for all; every device has sent the same number of records, one each ten seconds, up to now; and
nothing was lost. Only the first device has a long past, of 90 days. Four devices measure four points of one machine.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, event, insert

from wheeltapper_fleet.alerts.tables import alerts
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.devices.tables import device_attributes, device_pipelines, device_tags, devices
from wheeltapper_fleet.ground.query import natural, spelled_number
from wheeltapper_fleet.telemetry.tables import latest, messages, rollups, spools
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord

__all__ = ["LargeFleet", "device_name", "fill", "machine_name"]

_CHUNK: Final = 20_000
_EPOCH: Final = "00000000000000aa"
_PACE_SECONDS: Final = 10.0
_IN_A_MESSAGE: Final = 500
_LONG_DAYS: Final = 90
_POINTS_EACH: Final = 4
_SITES: Final = ("north", "south", "east", "west", "harbour")


@dataclass(frozen=True)
class LargeFleet:
    """How much there shall be.

    Args:
        devices: how many.
        records_each: telemetry records of each device.
        alerts: how many.
        model: of the release that all run.
    """

    devices: int = 100_000
    records_each: int = 1_000
    alerts: int = 50_000
    model: str = "bearing-anomaly"


def device_name(number: int) -> str:
    """The id of device ``number``, from 1."""
    return f"sim-{number:06d}"


def machine_name(number: int) -> str:
    """The id of machine ``number``, from 0."""
    return f"machine-{number:06d}"


def fill(url: str, size: LargeFleet) -> None:
    """Write a large fleet into the database at ``url``, which has its tables and no devices."""
    engine = open_database(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _hurry(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")

        engine.dispose()
    now = time.time()
    parts = (_devices, _tags, _attributes, _pipelines, _latest, _spools, _rollups, _messages, _alerts, _assets)
    for part in parts:
        began = time.monotonic()
        for table, rows in part(size, now):
            _insert(engine.begin, table, rows)
        print(f"  {part.__name__.strip('_')} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


_Part = Iterator[tuple[Table, Iterable[dict[str, Any]]]]


def _insert(begin: Any, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    waiting = iter(rows)
    while chunk := list(itertools.islice(waiting, _CHUNK)):
        connection: Connection
        with begin() as connection:
            if table not in (rollups, messages) or connection.dialect.name != "sqlite":
                connection.execute(insert(table), chunk)
                continue
            # Millions of rows without JSON: SQLAlchemy would take longer for each than SQLite.
            columns, values = ", ".join(chunk[0]), ", ".join("?" * len(chunk[0]))
            statement = f"INSERT INTO {table.name} ({columns}) VALUES ({values})"
            connection.exec_driver_sql(statement, [tuple(each.values()) for each in chunk])


def _numbers(size: LargeFleet) -> range:
    return range(1, size.devices + 1)


def _tags_of(number: int) -> dict[str, str]:
    return {"line": str(number % 40), "machine": f"m-{number // 4}", "class": "ABC"[number % 3]}


def _devices(size: LargeFleet, now: float) -> _Part:
    def row(number: int) -> dict[str, Any]:
        pipeline = {"model": size.model, "release": 1, "windows": size.records_each, "source": "running"}
        return {
            "id": device_name(number),
            "tags": _tags_of(number),
            "state": "retired" if number % 500 == 0 else "active",
            "site": _SITES[number % len(_SITES)],
            "enrolled_at": now - 90 * 86_400 + number,
            "certificate_sha256": f"{number:064x}",
            "certificate_expires_at": now + 200 * 86_400,
            "online": number % 20 != 0,
            "last_seen_at": now - number % 30,
            "counter": 1,
            "status": {"online": True, "execution": f"e-{number}", "execution_state": "COMMITTED"}
            | {"pipelines": {"main": pipeline}},
        }

    yield devices, (row(number) for number in _numbers(size))


def _named(device: str, name: str, value: str) -> dict[str, Any]:
    return {
        "device": device,
        "name": name,
        "value": value,
        "number": spelled_number(value),
        "sort_key": natural(value),
    }


def _tags(size: LargeFleet, now: float) -> _Part:
    pairs = ((number, tag) for number in _numbers(size) for tag in _tags_of(number).items())
    yield device_tags, (_named(device_name(number), *tag) for number, tag in pairs)


def _attributes(size: LargeFleet, now: float) -> _Part:
    def rows() -> Iterator[dict[str, Any]]:
        for number in _numbers(size):
            reported = {
                "agent_version": f"1.{number % 7}.{number % 13}",
                "profile": ("x86-64-gateway", "raspberry-pi-4", "imx8")[number % 3],
                "runtime": "onnxruntime/CPUExecutionProvider",
            }
            for each in reported.items():
                yield _named(device_name(number), *each) | {"at": now}

    yield device_attributes, rows()


def _pipelines(size: LargeFleet, now: float) -> _Part:
    same = {"pipeline": "main", "model": size.model, "release": 1}
    yield device_pipelines, ({"device": device_name(number), **same} for number in _numbers(size))


def _severity(number: int) -> str:
    return "critical" if number % 900 == 0 else "warning" if number % 150 == 0 else "normal"


def _latest(size: LargeFleet, now: float) -> _Part:
    def row(number: int) -> dict[str, Any]:
        at = now - number % 10
        return {
            "device": device_name(number),
            "pipeline": "main",
            "epoch": _EPOCH,
            "seq": size.records_each,
            "received_at": at,
            "last_t_s": at,
            "windows": size.records_each,
            "paced": 100,
            "arrival_pace_s": _PACE_SECONDS,
            "machine_pace_s": _PACE_SECONDS,
            "at": at,
            "t_s": at,
            "model": size.model,
            "release": 1,
            "score": {"critical": 2.4, "warning": 1.3}.get(_severity(number), 0.3),
            "severity": _severity(number),
        }

    yield latest, (row(number) for number in _numbers(size))


def _spools(size: LargeFleet, now: float) -> _Part:
    count = size.records_each
    same = {"epoch": _EPOCH, "contiguous": count, "highest": count, "stored": count, "dropped": 0}
    begin = now - count * _PACE_SECONDS
    yield spools, ({"device": device_name(number), "first_seen_at": begin, **same} for number in _numbers(size))


def _bucket(size: LargeFleet, device: str, span: int, bucket: int) -> dict[str, Any]:
    windows = int(span / _PACE_SECONDS)
    return {
        "device": device,
        "pipeline": "main",
        "span": span,
        "bucket": bucket,
        "model": size.model,
        "release": 1,
        "windows": windows,
        "scored": windows,
        "missing": 0,
        "score_sum": 0.3 * windows,
        "score_sq_sum": 0.1 * windows,
        "score_min": 0.1,
        "score_max": 0.6,
        "latency_sum_ms": 4.0 * windows,
        "latency_max_ms": 9.0,
        "latency_count": windows,
        "warnings": 0,
        "criticals": 0,
        "alerts": 0,
    }


def _rollups(size: LargeFleet, now: float) -> _Part:
    def rows() -> Iterator[dict[str, Any]]:
        for number in _numbers(size):
            seconds = _LONG_DAYS * 86_400.0 if number == 1 else size.records_each * _PACE_SECONDS
            for span in (300, 3600, 86_400):
                first = int((now - seconds) // span)
                for index in range(first, int(now // span) + 1):
                    yield _bucket(size, device_name(number), span, index * span)

    yield rollups, rows()


def _messages(size: LargeFleet, now: float) -> _Part:
    drawn = random.Random(1)
    bodies = [_body(size, drawn) for _ in range(100)]

    def rows() -> Iterator[dict[str, Any]]:
        for number in _numbers(size):
            for first in range(1, size.records_each + 1, _IN_A_MESSAGE):
                end = now - (size.records_each - first - _IN_A_MESSAGE) * _PACE_SECONDS
                yield {
                    "device": device_name(number),
                    "epoch": _EPOCH,
                    "kind": "telemetry",
                    "first_seq": first,
                    "last_seq": first + _IN_A_MESSAGE - 1,
                    "records": _IN_A_MESSAGE,
                    "received_at": min(now, end),
                    "from_t_s": end - _IN_A_MESSAGE * _PACE_SECONDS,
                    "to_t_s": end,
                    "pipeline": "main",
                    "body": bodies[(number + first) % len(bodies)],
                }

    yield messages, rows()


def _body(size: LargeFleet, drawn: random.Random) -> bytes:
    records = [
        TelemetryRecord(
            seq=seq,
            pipeline="main",
            window=seq,
            t_s=seq * _PACE_SECONDS,
            model=size.model,
            release=1,
            score=round(drawn.gauss(0.3, 0.08), 4),
            latency_ms=round(drawn.gauss(4.0, 0.5), 3),
        )
        for seq in range(1, _IN_A_MESSAGE + 1)
    ]
    return encode(Telemetry(epoch=_EPOCH, oldest=1, records=records))


def _alerts(size: LargeFleet, now: float) -> _Part:
    reasons = [{"feature": "horizontal.rms", "value": 2.1, "usual": 0.7, "share": 0.8}]

    def row(index: int) -> dict[str, Any]:
        number = index * 37 % size.devices + 1
        at = now - (size.alerts - index) * 60.0
        return {
            "device": device_name(number),
            "epoch": _EPOCH,
            "seq": size.records_each + 1 + index,
            "pipeline": "main",
            "window": index,
            "t_s": at,
            "at": at,
            "model": size.model,
            "release": 1,
            "score": 1.3,
            "severity": "warning",
            "raised": True,
            "reasons": reasons,
            "triaged": index < size.alerts - 500,
        }

    yield alerts, (row(index) for index in range(size.alerts))


def _assets(size: LargeFleet, now: float) -> _Part:
    same = {"attributes": {}, "version": 1, "created_at": now, "updated_at": now, "retired_at": None}
    same |= {"criticality": "medium", "component": None}

    def rows() -> Iterator[dict[str, Any]]:
        for site in _SITES:
            yield {"id": site, "kind": "site", "parent": None, "site": site, "machine": None, "name": site} | same
        for number in range(size.devices // _POINTS_EACH):
            machine, site = machine_name(number), _SITES[number % len(_SITES)]
            of = {"site": site, "machine": machine}
            yield {"id": machine, "kind": "machine", "parent": site, "name": machine} | of | same
            for point in range(_POINTS_EACH):
                yield {"id": f"{machine}-{point}", "kind": "point", "parent": machine, "name": "end"} | of | same

    yield assets, rows()
    mapped = range(size.devices // _POINTS_EACH * _POINTS_EACH)
    row = {"pipeline": "main", "channel": "", "from_at": now - _LONG_DAYS * 86_400.0, "to_at": None}
    yield (
        point_mappings,
        (
            {"point": f"{machine_name(n // _POINTS_EACH)}-{n % _POINTS_EACH}", "device": device_name(n + 1)} | row
            for n in mapped
        ),
    )
