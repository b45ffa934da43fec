"""One line a device, for lists and the live view: what changes while somebody looks at a screen.

Whatever the size of the fleet, reading the lines of a screen costs three statements over the devices on it. A device
whole, with its last scores, is :func:`wheeltapper_fleet.devices.views.get_device`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.schemas import DeviceRow
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import device_notices, devices
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.telemetry.present import NewestScore
from wheeltapper_fleet.telemetry.views import alarming, newest_scores

__all__ = ["RANKS", "count_alarms", "count_present", "device_ids", "device_rows", "list_rows"]

RANKS: Final = {"normal": 0, "warning": 1, "critical": 2}
ALARMS_READ: Final = 20_000
_COLUMNS: Final = ("id", "site", "state", "online", "status", "counter", "enrolled_at", "last_seen_at")


def device_ids(connection: Connection, q: str, limit: int, after: str | None, now: float) -> Page[str]:
    """A page of the ids of the devices that a query means, in order.

    Raises:
        FleetError: ``cursor.invalid``, ``query.invalid``.
    """
    parsed = parse(q)
    wanted = select(devices.c.id)
    if not parsed.everything:
        wanted = wanted.where(where(parsed, now))
    rows, following = page_of(connection, wanted, (devices.c.id,), limit=limit, after=after)
    return Page([row.id for row in rows], following)


def device_rows(connection: Connection, names: Sequence[str], now: float) -> dict[str, DeviceRow]:
    """The lines of the devices ``names``; one that is not there has none."""
    if not names:
        return {}
    newest = newest_scores(connection, names)
    counted = select(device_notices.c.device, func.count()).where(device_notices.c.device.in_(names))
    noticed: dict[str, int] = {row[0]: row[1] for row in connection.execute(counted.group_by(device_notices.c.device))}
    found = connection.execute(select(*(devices.c[name] for name in _COLUMNS)).where(devices.c.id.in_(names)))
    return {row.id: _row(row, newest.get(row.id, {}), noticed.get(row.id, 0), now) for row in found}


def list_rows(
    engine: Engine, q: str = "", limit: int = DEFAULT_LIMIT, after: str | None = None, now: float | None = None
) -> Page[DeviceRow]:
    """A page of the lines of the devices that a query means, by id.

    Args:
        engine: the fleet's database.
        q: in the language of :mod:`wheeltapper_fleet.ground.query`; empty: all.
        limit: how many.
        after: the cursor of the page before.
        now: Unix seconds; None: the system's clock.

    Raises:
        FleetError: ``cursor.invalid``, ``query.invalid``.
    """
    moment = time.time() if now is None else now
    with reading(engine) as connection:
        ids = device_ids(connection, q, limit, after, moment)
        rows = device_rows(connection, ids.items, moment)
    return Page([rows[name] for name in ids.items if name in rows], ids.next)


def count_present(connection: Connection) -> tuple[int, int, int]:
    """How many devices there are, how many of them are pending, and how many online; counted in an index."""
    query = select(devices.c.state, devices.c.online, func.count()).group_by(devices.c.state, devices.c.online)
    counted = connection.execute(query).all()
    pending = sum(count for state, _, count in counted if state == DeviceState.PENDING)
    return sum(count for _, _, count in counted), pending, sum(count for _, online, count in counted if online)


def count_alarms(connection: Connection, now: float) -> tuple[int, int]:
    """How many devices have a present score that is a warning, and how many one that is critical.

    Costs one row for each pipeline whose newest score is one or the other, :data:`ALARMS_READ` at most.
    """
    worst: dict[str, int] = {}
    for device, newest in alarming(connection, ALARMS_READ):
        if newest.present(now):
            worst[device] = max(worst.get(device, 0), RANKS.get(newest.severity or "", 0))
    ranks = list(worst.values())
    return ranks.count(RANKS["warning"]), ranks.count(RANKS["critical"])


def _row(row: Row[Any], newest: dict[str, NewestScore], notices: int, now: float) -> DeviceRow:
    told: dict[str, Any] = row.status if isinstance(row.status, dict) else {}
    described: dict[str, Any] = told.get("pipelines") or {}
    worst: NewestScore | None = None
    gone: float | None = None
    runs = []
    for pipeline, value in sorted(described.items()):
        if not value.get("model"):
            continue
        runs.append(f"{pipeline}: {value['model']} r{value.get('release')}")
        each = newest.get(pipeline)
        if each is None or each.at < (row.enrolled_at or 0.0):
            continue
        if not each.present(now):
            gone = each.at if gone is None else min(gone, each.at)
        elif worst is None or _rank(each) > _rank(worst):
            worst = each
    return DeviceRow(
        id=row.id,
        site=row.site,
        state=row.state,
        online=row.online,
        presence=_presence(row.state, row.online),
        runs=", ".join(runs),
        execution_state=told.get("execution_state"),
        severity=worst.severity if worst is not None else None,
        score=worst.score if worst is not None else None,
        no_score_since=gone,
        counter=row.counter,
        notices=notices,
        last_seen_at=row.last_seen_at,
    )


def _rank(newest: NewestScore) -> tuple[int, float]:
    return RANKS.get(newest.severity or "", 0), newest.score or 0.0


def _presence(state: str, online: bool) -> str:
    """Whether a device is here, in a word: its state where that is not the usual one."""
    return ("online" if online else "offline") if state == DeviceState.ACTIVE else state
