"""The limits of triage that people may set: stored, in force at the next turn, within bounds.

Invariants:
    * A value out of its bounds, or of a limit that there is not, is refused and changes nothing.
    * What is not set is as :class:`~wheeltapper_fleet.alerts.case.Policy` says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, delete, select

from wheeltapper_fleet.alerts.case import Policy
from wheeltapper_fleet.alerts.schemas import LimitView
from wheeltapper_fleet.alerts.tables import triage_limits
from wheeltapper_fleet.db.engine import reading, upsert_statement
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["change_policy", "list_limits", "read_policy"]

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0


@dataclass(frozen=True)
class _Bounds:
    low: float
    high: float
    whole: bool = False


_BOUNDS: Final = {
    "settle_seconds": _Bounds(0.0, _DAY),
    "quiet_seconds": _Bounds(0.0, 30 * _DAY),
    "reopen_seconds": _Bounds(_HOUR, 3650 * _DAY),
    "burst_seconds": _Bounds(60.0, 30 * _DAY),
    "burst_points": _Bounds(2, 10_000, whole=True),
    "burst_share": _Bounds(0.01, 1.0),
    "release_young_seconds": _Bounds(0.0, 3650 * _DAY),
}
_NAMES: Final = tuple(each.name for each in dataclasses.fields(Policy))


def read_policy(connection: Connection) -> Policy:
    """The limits in force. What another version stored and this one does not take is left at its default."""
    found: dict[str, float] = {}
    for row in connection.execute(select(triage_limits.c.name, triage_limits.c.value)):
        if row.name in _BOUNDS and _fits(row.name, row.value):
            found[row.name] = int(row.value) if _BOUNDS[row.name].whole else row.value
    return dataclasses.replace(Policy(), **found)  # type: ignore[arg-type]  # each has its own type


def list_limits(engine: Engine) -> list[LimitView]:
    """Every limit: what is in force, its default, its bounds, who set it when."""
    with reading(engine) as connection:
        policy = read_policy(connection)
        rows = {row.name: row for row in connection.execute(select(triage_limits))}
    found = []
    for name in _NAMES:
        row = rows.get(name)
        found.append(
            LimitView(
                name=name,
                value=getattr(policy, name),
                default=getattr(Policy(), name),
                low=_BOUNDS[name].low,
                high=_BOUNDS[name].high,
                set_at=row.set_at if row is not None else None,
                set_by=row.set_by if row is not None else None,
            )
        )
    return found


def change_policy(engine: Engine, changes: Mapping[str, float | None], who: str, now: float) -> None:
    """Set limits; None: back to the default. Those that are not named stay.

    Raises:
        FleetError: ``triage.limit``.
    """
    for name, value in changes.items():
        if name not in _BOUNDS:
            raise FleetError("triage.limit", f"there is no limit {name[:40]!r}; there are {', '.join(_NAMES)}", 422)
        if value is not None and not _fits(name, value):
            bounds = _BOUNDS[name]
            kind = "a whole number" if bounds.whole else "a number"
            raise FleetError("triage.limit", f"{name} must be {kind} from {bounds.low:g} to {bounds.high:g}", 422)
    with engine.begin() as connection:
        statement = upsert_statement(connection, triage_limits)
        for name, value in changes.items():
            if value is None:
                connection.execute(delete(triage_limits).where(triage_limits.c.name == name))
                continue
            row = {"value": float(value), "set_at": now, "set_by": who[:128]}
            changed = statement.values(name=name, **row).on_conflict_do_update(index_elements=["name"], set_=row)
            connection.execute(changed)


def _fits(name: str, value: float) -> bool:
    bounds = _BOUNDS[name]
    return math.isfinite(value) and bounds.low <= value <= bounds.high and (not bounds.whole or value == int(value))
