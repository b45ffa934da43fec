"""Whether an execution that has failed is asked again, by the specification of its campaign. In the caller's
transaction.

Invariants:
    * Only campaigns that go on (RUNNING, PAUSED) ask again; what waits when its campaign ends is cancelled.
    * Devices are asked again only within the windows of the campaign.

Cost: a failure reads the row of its campaign, a success reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import (
    RETRYING,
    Cancel,
    Deadline,
    Execution,
    Retry,
    move,
    retried,
)
from wheeltapper_fleet.campaigns.rules.spec import RETRIED_STATES, CampaignSpec, read_spec
from wheeltapper_fleet.campaigns.tables import campaigns
from wheeltapper_fleet.campaigns.windows import closed_until
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["overdue_moves", "with_retries"]

Move = tuple[Execution, Execution]
_GOES_ON: Final = ("RUNNING", "PAUSED")
_UNREADABLE_SECONDS: Final = 60.0
"""After this it is tried again to read a campaign that could not be read."""


@dataclass(frozen=True)
class _Campaign:
    goes_on: bool
    spec: CampaignSpec | None
    """None: this version cannot read it."""


def with_retries(connection: Connection, moves: Sequence[Move], now: float) -> list[Move]:
    """``moves`` with those to a failure that is asked again ending in RETRYING instead."""
    failed = {
        after.campaign
        for before, after in moves
        if after.campaign is not None and after.state in RETRIED_STATES and before.state != after.state
    }
    known = _read(connection, failed)
    found = []
    for before, after in moves:
        of = known.get(after.campaign or "")
        if of is not None and of.goes_on and of.spec is not None and before.state != after.state:
            after = retried(after, of.spec.retry, now)
        found.append((before, after))
    return found


def overdue_moves(connection: Connection, overdue: Sequence[Execution], ids: Iterable[str], now: float) -> list[Move]:
    """What becomes of executions whose ``deadline_at`` is over: one that waits is asked again, the others fail.

    ``ids`` are new ids, as many as are needed.
    """
    known = _read(connection, {each.campaign for each in overdue if each.state == RETRYING and each.campaign})
    fresh = iter(ids)
    moves = []
    for each in overdue:
        if each.state != RETRYING:
            moves.append((each, move(each, Deadline())))
            continue
        of = known.get(each.campaign or "")
        if of is None or not of.goes_on:
            moves.append((each, move(each, Cancel())))
        elif of.spec is None:
            moves.append((each, replace(each, deadline_at=now + _UNREADABLE_SECONDS)))
        elif (opens_at := closed_until(of.spec, now)) > now:
            moves.append((each, replace(each, deadline_at=opens_at)))
        else:
            moves.append((each, move(each, Retry(next(fresh), now + of.spec.execution_deadline_seconds))))
    return moves


def _read(connection: Connection, names: set[str]) -> dict[str, _Campaign]:
    query = select(campaigns.c.id, campaigns.c.state, campaigns.c.spec).where(campaigns.c.id.in_(names))
    return {
        row.id: _Campaign(row.state in _GOES_ON, _read_spec(row.spec))
        for row in (connection.execute(query).all() if names else ())
    }


def _read_spec(stored: object) -> CampaignSpec | None:
    try:
        return read_spec(stored) if isinstance(stored, dict) else None
    except FleetError:
        return None
