"""Loads and stores campaigns for the pure rules. Everything here runs in the caller's transaction.

A campaign is one row; its executions are read by whoever moves them (:mod:`wheeltapper_fleet.campaigns.moves`), its
counts are kept (:mod:`wheeltapper_fleet.campaigns.tallies`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, func, select

from wheeltapper_fleet.campaigns.due import mark_told
from wheeltapper_fleet.campaigns.moves import new_execution_id
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState, Log
from wheeltapper_fleet.campaigns.rules.execution import PENDING, is_known
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.rules.waves import Tallies, Wave, WaveState
from wheeltapper_fleet.campaigns.tables import campaign_log, campaign_releases, campaigns, executions
from wheeltapper_fleet.campaigns.tallies import add_new, changed_campaigns
from wheeltapper_fleet.db.bulk import insert_rows
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "BEING_CREATED",
    "TERMINAL_STATES",
    "WARNING",
    "abort_unreadable",
    "campaign_version",
    "campaigns_to_step",
    "insert_campaign",
    "insert_executions",
    "load_campaign",
    "log_campaign",
    "look_at",
    "record_logs",
    "save_campaign",
    "why_unreadable",
]

BEING_CREATED: Final = 0
"""The version of a campaign whose executions are still being written: there is no such campaign for anybody yet."""
WARNING: Final = "warning"
"""The event of a line in a campaign's log that warns of what was seen when it was created."""
TERMINAL_STATES: Final = tuple(state.value for state in ExecutionState if state.terminal)
_CHANGES_ORDERS: Final = frozenset({CampaignState.PAUSED, CampaignState.ABORTED, CampaignState.ROLLED_BACK})
"""Who comes to one of these states, or leaves it, asks something else of devices that were told already."""
_NEW_EXECUTION: Final = ("id", "campaign", "device", "wave", "state", "code", "detail", "updated_at")
_LATER_SECONDS: Final = 1e-5
_UNREADABLE: Final = (FleetError, ValueError, TypeError, KeyError, RecursionError)


def campaigns_to_step(connection: Connection, now: float) -> list[str]:
    """Ids of the campaigns to which something has happened, or which time may move on; oldest first.

    Cost: what has changed, and what is due. The fleet's other campaigns are not read.
    """
    changed = changed_campaigns(connection)
    due = connection.execute(select(campaigns.c.id).where(campaigns.c.due_at <= now)).scalars()
    names = {*changed, *due}
    query = select(campaigns.c.id).where(campaigns.c.id.in_(names)).order_by(campaigns.c.created_at, campaigns.c.id)
    return list(connection.execute(query).scalars()) if names else []


def look_at(connection: Connection, campaign: str, at: float | None) -> None:
    """Have a tick look at ``campaign`` from ``at`` on (Unix seconds), though nothing happens to it; None: never."""
    connection.execute(campaigns.update().where(campaigns.c.id == campaign).values(due_at=at))


def insert_campaign(connection: Connection, campaign: Campaign, now: float, version: int = 1) -> None:
    """Store a new campaign, which has no executions yet (:func:`insert_executions`).

    It is created after every other one, also where the clock was set back: the newer campaign decides where two meet.
    """
    newest = connection.execute(select(func.max(campaigns.c.created_at))).scalar_one()
    created_at = now if newest is None else max(now, newest + _LATER_SECONDS)
    row = {"id": campaign.id, "version": version, "created_at": created_at, **_columns(campaign, now)}
    connection.execute(campaigns.insert().values(row))
    taken = {"model": campaign.spec.model, "release": campaign.spec.release, "campaign": campaign.id}
    connection.execute(campaign_releases.insert().values(taken))


def insert_executions(connection: Connection, campaign: str, places: Sequence[tuple[int, str]], now: float) -> None:
    """Add a pending execution to a campaign for each of ``places``, a wave (from 0) and a device, with their counts.

    Cost: some 10 ms for 1,000 of them.
    """
    rows = [(new_execution_id(), campaign, device, wave, PENDING, "", "", now) for wave, device in places]
    insert_rows(connection, executions, _NEW_EXECUTION, rows)
    add_new(connection, campaign, Counter(wave for wave, _ in places))


def load_campaign(connection: Connection, campaign: str, tallies: Tallies) -> tuple[Campaign, int]:
    """The campaign and its version; ``tallies`` are its counts.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.unreadable``.
    """
    row = connection.execute(select(campaigns).where(campaigns.c.id == campaign)).one_or_none()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
    unknown = sorted({state for _, state in tallies.cells if not is_known(state)})
    try:
        if unknown:
            raise ValueError(f"executions in unknown states {unknown}")
        loaded = _read(row)
    except _UNREADABLE as error:
        raise FleetError(
            "campaign.unreadable",
            f"this version cannot read campaign {campaign[:64]} ({error}): use the version that made it, or abort it",
            409,
        ) from error
    return loaded, int(row.version)


def why_unreadable(row: Row[Any]) -> str:
    """Why a row of ``campaigns`` cannot be read by this version; empty if it can."""
    try:
        _read(row)
    except _UNREADABLE as error:
        return str(error) or type(error).__name__
    return ""


def campaign_version(connection: Connection, campaign: str, *, lock: bool = False) -> tuple[str, int]:
    """The state and the version of a campaign, whether or not it can be read; ``lock``: no other transaction changes it
    before this one ends.

    Raises:
        FleetError: ``campaign.not_found``.
    """
    query = select(campaigns.c.state, campaigns.c.version).where(campaigns.c.id == campaign)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None or row.version == BEING_CREATED:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
    return row.state, row.version


def abort_unreadable(connection: Connection, campaign: str, reason: str, who: str, now: float) -> None:
    """Abort a campaign that this version cannot read.

    What a row can be told without its specification is done: nothing more of it is handed out, and what was not begun
    is cancelled (:func:`~wheeltapper_fleet.campaigns.effects.wind_down`).
    """
    values = {"state": CampaignState.ABORTED.value, "reason": reason, "version": campaigns.c.version + 1}
    connection.execute(
        campaigns.update().where(campaigns.c.id == campaign).values(**values, updated_at=now, due_at=now)
    )
    log_campaign(connection, campaign, who, "aborted", reason, now)
    mark_told(connection, campaign, of_campaign=True)


def save_campaign(
    connection: Connection, before: Campaign, after: Campaign, version: int, due_at: float | None, now: float
) -> None:
    """Store what changed between ``before`` (at ``version``) and ``after``, and when a tick looks at it again.

    The version rises by one when state, waves or reason changed. Where it pauses, goes on or is called off, all devices
    that were told of it are told anew (:mod:`wheeltapper_fleet.campaigns.due`).
    """
    values: dict[str, Any] = {"due_at": due_at}
    if before != after:
        values |= {"version": version + (_seen(before) != _seen(after)), **_columns(after, now)}
    connection.execute(campaigns.update().where(campaigns.c.id == after.id).values(values))
    if before.state != after.state and {before.state, after.state} & _CHANGES_ORDERS:
        mark_told(connection, after.id, of_campaign=True)


def log_campaign(connection: Connection, campaign: str, who: str, event: str, detail: str, now: float) -> None:
    """Add a line to the campaign's log."""
    connection.execute(
        campaign_log.insert().values(campaign=campaign, at=now, who=who[:128], event=event, detail=detail)
    )


def record_logs(connection: Connection, campaign: str, lines: Sequence[Log], who: str, now: float) -> None:
    """Add lines that a step wants to the campaign's log."""
    for line in lines:
        log_campaign(connection, campaign, who, line.event, line.detail, now)


def _read(row: Row[Any]) -> Campaign:
    spec = read_spec(row.spec)
    return Campaign(
        id=row.id,
        spec=spec,
        waves=tuple(_read_wave(number, each) for number, each in enumerate(row.waves, 1)),
        state=CampaignState(row.state),
        reason=row.reason,
        taken_back=row.taken_back,
        closed=spec.audience.continuous and not row.continuous,
    )


def _read_wave(number: int, stored: Mapping[str, Any]) -> Wave:
    missing = [repr(name) for name in ("state", "since") if name not in stored]
    if missing:
        raise ValueError(f"wave {number} has no {' and no '.join(missing)}")
    return Wave(WaveState(stored["state"]), float(stored["since"]), float(stored.get("handed_at", 0.0)))


def _seen(campaign: Campaign) -> tuple[Any, ...]:
    """What a person decides on: with each change of it the version rises."""
    return campaign.state, campaign.reason, campaign.closed, [(wave.state, wave.since) for wave in campaign.waves]


def _columns(campaign: Campaign, now: float) -> dict[str, Any]:
    return {
        "state": campaign.state.value,
        "spec": msgspec.to_builtins(campaign.spec),
        "waves": [
            {"state": wave.state.value, "since": wave.since} | ({"handed_at": wave.handed_at} if wave.handed_at else {})
            for wave in campaign.waves
        ],
        "reason": campaign.reason,
        "taken_back": campaign.taken_back,
        "continuous": campaign.joinable,
        "updated_at": now,
    }
