"""Loads and stores campaigns for the pure rules. Everything here runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, func, or_, select

from wheeltapper_fleet.campaigns.due import mark_devices, mark_told
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState, Effect, Log
from wheeltapper_fleet.campaigns.rules.execution import PENDING
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave, WaveState
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "TERMINAL_STATES",
    "WARNING",
    "abort_unreadable",
    "active_campaigns",
    "campaign_version",
    "end_overdue",
    "insert_campaign",
    "load_campaign",
    "log_campaign",
    "record_effects",
    "save_campaign",
    "why_unreadable",
]

WARNING: Final = "warning"
"""The event of a line in a campaign's log that warns of what was seen when it was created."""
TERMINAL_STATES: Final = tuple(state.value for state in ExecutionState if state.terminal)
_KNOWN_STATES: Final = frozenset({PENDING, *(state.value for state in ExecutionState)})
_LATER_SECONDS: Final = 1e-5
_UNREADABLE: Final = (FleetError, ValueError, TypeError, KeyError, RecursionError)
_STILL_STATES: Final = tuple(
    state.value
    for state in CampaignState
    if state not in (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.PAUSED)
)
"""In these a tick moves nothing on but the deadlines of what was aborted. An unknown state is not one of them."""


def active_campaigns(connection: Connection) -> list[str]:
    """Ids of the campaigns that a tick may move on, oldest first.

    Those are the campaigns under way, and aborted ones that still have unfinished executions.
    """
    return list(connection.execute(_active()).scalars())


def insert_campaign(connection: Connection, campaign: Campaign, now: float) -> None:
    """Store a new campaign with its executions, at version 1.

    It is created after every other one, also where the clock was set back: the newer campaign decides where two meet.
    """
    newest = connection.execute(select(func.max(campaigns.c.created_at))).scalar_one()
    created_at = now if newest is None else max(now, newest + _LATER_SECONDS)
    row = {"id": campaign.id, "version": 1, "created_at": created_at, **_columns(campaign, now)}
    connection.execute(campaigns.insert().values(row))
    connection.execute(
        executions.insert(),
        [{**asdict(each), "campaign": campaign.id, "updated_at": now} for each in campaign.executions],
    )


def load_campaign(connection: Connection, campaign: str) -> tuple[Campaign, int]:
    """The campaign and its version.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.unreadable``.
    """
    row = connection.execute(select(campaigns).where(campaigns.c.id == campaign)).one_or_none()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
    columns = [executions.c[name] for name in Execution.__dataclass_fields__]
    query = select(*columns).where(executions.c.campaign == campaign).order_by(executions.c.wave, executions.c.device)
    attempts = tuple(Execution(**each) for each in connection.execute(query).mappings())
    unknown = sorted({each.state for each in attempts} - _KNOWN_STATES)
    try:
        if unknown:
            raise ValueError(f"executions in unknown states {unknown}")
        loaded = _read(row, attempts)
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
        _read(row, ())
    except _UNREADABLE as error:
        return str(error) or type(error).__name__
    return ""


def campaign_version(connection: Connection, campaign: str) -> tuple[str, int]:
    """The state and the version of a campaign, whether or not it can be read.

    Raises:
        FleetError: ``campaign.not_found``.
    """
    query = select(campaigns.c.state, campaigns.c.version).where(campaigns.c.id == campaign)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
    return row.state, row.version


def abort_unreadable(connection: Connection, campaign: str, reason: str, who: str, now: float) -> None:
    """Abort a campaign that this version cannot read.

    What a row can be told without its specification is done: nothing more of it is handed out, what was not begun is
    cancelled.
    """
    values = {"state": CampaignState.ABORTED.value, "reason": reason, "version": campaigns.c.version + 1}
    connection.execute(campaigns.update().where(campaigns.c.id == campaign).values(**values, updated_at=now))
    connection.execute(
        executions.update()
        .where(executions.c.campaign == campaign, executions.c.state == PENDING)
        .values(state=ExecutionState.CANCELLED.value, code="execution.cancelled", updated_at=now)
    )
    log_campaign(connection, campaign, who, "aborted", reason, now)
    mark_told(connection, campaign, now)


def end_overdue(connection: Connection, campaign: str, now: float) -> None:
    """End the executions of a campaign whose deadline is over, without reading the campaign."""
    overdue = (
        executions.c.campaign == campaign,
        executions.c.state.not_in(TERMINAL_STATES),
        executions.c.deadline_at <= now,
    )
    mark_devices(connection, connection.execute(select(executions.c.device).where(*overdue)).scalars(), now)
    connection.execute(
        executions.update()
        .where(*overdue)
        .values(state=ExecutionState.FAILED.value, code="execution.deadline", updated_at=now)
    )


def save_campaign(connection: Connection, before: Campaign, after: Campaign, version: int, now: float) -> None:
    """Store what changed between ``before`` (at ``version``) and ``after``.

    The version rises by one when state, waves or reason changed. The devices that are to be told something else are
    marked (:mod:`wheeltapper_fleet.campaigns.due`).
    """
    told = []
    for old, new in zip(before.executions, after.executions, strict=True):
        if old != new:
            values = {**asdict(new), "updated_at": now}
            connection.execute(executions.update().where(executions.c.id == new.id).values(values))
            if new.assigned_at is not None and old.state != new.state:
                told.append(new.device)
    mark_devices(connection, told, now)
    if before.state != after.state:
        mark_told(connection, after.id, now)
    if (before.state, before.waves, before.reason) == (after.state, after.waves, after.reason):
        return
    connection.execute(
        campaigns.update().where(campaigns.c.id == after.id).values(version=version + 1, **_columns(after, now))
    )


def log_campaign(connection: Connection, campaign: str, who: str, event: str, detail: str, now: float) -> None:
    """Add a line to the campaign's log."""
    connection.execute(
        campaign_log.insert().values(campaign=campaign, at=now, who=who[:128], event=event, detail=detail)
    )


def record_effects(connection: Connection, campaign: str, effects: tuple[Effect, ...], who: str, now: float) -> None:
    """Store the effects that are log lines."""
    for effect in effects:
        if isinstance(effect, Log):
            log_campaign(connection, campaign, who, effect.event, effect.detail, now)


def _read(row: Row[Any], attempts: tuple[Execution, ...]) -> Campaign:
    return Campaign(
        id=row.id,
        spec=read_spec(row.spec),
        waves=tuple(_read_wave(number, each) for number, each in enumerate(row.waves, 1)),
        executions=attempts,
        state=CampaignState(row.state),
        reason=row.reason,
    )


def _read_wave(number: int, stored: Mapping[str, Any]) -> Wave:
    missing = [repr(name) for name in ("state", "since") if name not in stored]
    if missing:
        raise ValueError(f"wave {number} has no {' and no '.join(missing)}")
    return Wave(WaveState(stored["state"]), float(stored["since"]))


def _active() -> Select[str]:
    unfinished = select(executions.c.campaign).where(executions.c.state.not_in(TERMINAL_STATES))
    aborted = (campaigns.c.state == CampaignState.ABORTED.value) & campaigns.c.id.in_(unfinished)
    return (
        select(campaigns.c.id)
        .where(or_(campaigns.c.state.not_in(_STILL_STATES), aborted))
        .order_by(campaigns.c.created_at, campaigns.c.id)
    )


def _columns(campaign: Campaign, now: float) -> dict[str, Any]:
    return {
        "state": campaign.state.value,
        "spec": msgspec.to_builtins(campaign.spec),
        "waves": [{"state": wave.state.value, "since": wave.since} for wave in campaign.waves],
        "reason": campaign.reason,
        "updated_at": now,
    }
