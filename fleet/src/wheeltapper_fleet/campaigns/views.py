"""Reads campaigns for the API and the page. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.campaigns.approvals import approved_by
from wheeltapper_fleet.campaigns.gate_tables import campaign_gates
from wheeltapper_fleet.campaigns.rules.waves import Tallies
from wheeltapper_fleet.campaigns.schemas import (
    CampaignDetail,
    CampaignView,
    DeviceExecution,
    ExecutionView,
    GateView,
    LogEntry,
)
from wheeltapper_fleet.campaigns.store import BEING_CREATED, WARNING, why_unreadable
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.campaigns.tallies import read_tallies, tallies_of
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = [
    "CampaignEvent",
    "count_campaigns",
    "events_since",
    "get_campaign",
    "list_campaigns",
    "list_device_executions",
    "list_executions",
    "list_log",
    "list_under_way",
    "newest_log",
]

_THERE: Final = campaigns.c.version > BEING_CREATED
"""Not of one whose executions are still being written."""
_UNDER_WAY: Final = ("RUNNING", "PAUSED", "AWAITING_APPROVAL", "SCHEDULED")
_TOLD: Final = ("started", "approved", "paused", "resumed", "aborted", "rolled_back", "completed", "passed")
"""Events that somebody who was away wants to know of."""
_LINES_READ: Final = 200


@dataclass(frozen=True)
class CampaignEvent:
    """Something that happened to a campaign. ``at`` is Unix seconds."""

    campaign: str
    at: float
    who: str
    event: str
    detail: str


def list_campaigns(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[CampaignView]:
    """A page of the campaigns, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    key = (campaigns.c.created_at, campaigns.c.id)
    with reading(engine) as connection:
        rows, following = page_of(
            connection, select(campaigns).where(_THERE), key, limit=limit, after=after, descending=True
        )
        counts = read_tallies(connection, [row.id for row in rows])
        gates = _gates(connection, [row.id for row in rows])
    return Page([_view(row, counts[row.id], gates.get(row.id, [])) for row in rows], following)


def list_under_way(engine: Engine, limit: int) -> list[CampaignView]:
    """The newest campaigns that run, are paused, or wait for somebody or their time; at most ``limit``."""
    query = select(campaigns).where(_THERE, campaigns.c.state.in_(_UNDER_WAY))
    newest = query.order_by(campaigns.c.created_at.desc(), campaigns.c.id.desc()).limit(limit)
    with reading(engine) as connection:
        rows = connection.execute(newest).all()
        counts = read_tallies(connection, [row.id for row in rows])
        gates = _gates(connection, [row.id for row in rows])
    return [_view(row, counts[row.id], gates.get(row.id, [])) for row in rows]


def events_since(engine: Engine, since: float, limit: int) -> list[CampaignEvent]:
    """What happened to campaigns since ``since`` (Unix seconds), newest first, at most ``limit`` of it.

    Reads the newest lines of the log of all campaigns, :data:`_LINES_READ` at most.
    """
    newest = select(campaign_log).order_by(campaign_log.c.id.desc()).limit(_LINES_READ)
    with reading(engine) as connection:
        rows = connection.execute(newest).all()
    told = [row for row in rows if row.at >= since and row.event in _TOLD]
    return [CampaignEvent(row.campaign, row.at, row.who, row.event, row.detail) for row in told[:limit]]


def get_campaign(engine: Engine, campaign: str) -> CampaignDetail:
    """One campaign, with the warnings of its creation.

    Raises:
        FleetError: ``campaign.not_found``.
    """
    warned = select(campaign_log.c.detail).where(campaign_log.c.campaign == campaign, campaign_log.c.event == WARNING)
    with reading(engine) as connection:
        row = _row(connection, campaign)
        warnings = connection.execute(warned.order_by(campaign_log.c.id)).scalars().all()
        view = _view(row, tallies_of(connection, campaign), _gates(connection, [campaign]).get(campaign, []))
        approvers = approved_by(connection, campaign)
    return CampaignDetail(**view.model_dump(), warnings=list(warnings), approved_by=approvers)


def list_executions(
    engine: Engine,
    campaign: str,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    state: str | None = None,
    code: str | None = None,
) -> Page[ExecutionView]:
    """A page of the executions of a campaign, by wave and device; with ``state`` only those in that state.

    ``code`` narrows the rows of a page to those that ended for that reason; the page may then be shorter.

    Raises:
        FleetError: ``campaign.not_found``, ``cursor.invalid``.
    """
    query = select(executions).where(executions.c.campaign == campaign)
    if state is not None:
        query = query.where(executions.c.state == state)
    key = (executions.c.wave, executions.c.device)
    fields = [name for name in ExecutionView.model_fields if name != "wave"]
    with reading(engine) as connection:
        _row(connection, campaign)
        within = None if code is None else executions.c.code == code
        rows, following = page_of(connection, query, key, limit=limit, after=after, within=within)
    return Page(
        [ExecutionView(**{name: row._mapping[name] for name in fields}, wave=row.wave + 1) for row in rows], following
    )


def list_device_executions(
    engine: Engine, device: str, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[DeviceExecution]:
    """A page of the executions of a device, the newest first. Costs the executions of this device.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(executions).where(executions.c.device == device)
    key = (executions.c.updated_at, executions.c.id)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True)
    names = [name for name in DeviceExecution.model_fields if name != "pipelines"]
    return Page(
        [
            DeviceExecution(
                **{name: row._mapping[name] for name in names},
                pipelines=row.pipelines if isinstance(row.pipelines, list) else [],
            )
            for row in rows
        ],
        following,
    )


def list_log(engine: Engine, campaign: str, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[LogEntry]:
    """A page of the log of a campaign, oldest line first.

    Raises:
        FleetError: ``campaign.not_found``, ``cursor.invalid``.
    """
    query = select(campaign_log).where(campaign_log.c.campaign == campaign)
    with reading(engine) as connection:
        _row(connection, campaign)
        rows, following = page_of(connection, query, (campaign_log.c.id,), limit=limit, after=after)
    return Page([LogEntry(at=row.at, who=row.who, event=row.event, detail=row.detail) for row in rows], following)


def newest_log(engine: Engine, campaign: str, count: int) -> list[LogEntry]:
    """The newest ``count`` lines of the log of a campaign, newest first."""
    query = select(campaign_log).where(campaign_log.c.campaign == campaign).order_by(campaign_log.c.id.desc())
    with reading(engine) as connection:
        rows = connection.execute(query.limit(count)).all()
    return [LogEntry(at=row.at, who=row.who, event=row.event, detail=row.detail) for row in rows]


def count_campaigns(connection: Connection) -> dict[str, int]:
    """How many campaigns there are in each state."""
    counted = select(campaigns.c.state, func.count()).where(_THERE).group_by(campaigns.c.state)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _row(connection: Connection, campaign: str) -> Row[Any]:
    row = connection.execute(select(campaigns).where(campaigns.c.id == campaign, _THERE)).first()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:80]!r}", 404)
    return row


def _by_wave(tallies: Tallies) -> dict[str, dict[str, int]]:
    """How many executions there are, by wave (from 1, as text) and state."""
    counts: dict[str, dict[str, int]] = {}
    for (wave, state), count in sorted(tallies.cells.items()):
        counts.setdefault(str(wave + 1), {})[state] = count.n
    return counts


def _gates(connection: Connection, names: list[str]) -> dict[str, list[GateView]]:
    """By campaign, what its gates said, in one query."""
    query = select(campaign_gates).where(campaign_gates.c.campaign.in_(names))
    found: dict[str, list[GateView]] = {}
    for row in connection.execute(query.order_by(campaign_gates.c.campaign, campaign_gates.c.gate)):
        fields = {name: row._mapping[name] for name in GateView.model_fields if name != "wave"}
        found.setdefault(row.campaign, []).append(GateView(**fields, wave=row.wave + 1))
    return found


def _view(row: Row[Any], tallies: Tallies, gates: list[GateView]) -> CampaignView:
    return CampaignView(
        id=row.id,
        version=row.version,
        state=row.state,
        reason=row.reason,
        spec=row.spec if isinstance(row.spec, dict) else {},
        waves=row.waves if isinstance(row.waves, list) else [],
        executions=_by_wave(tallies),
        created_at=row.created_at,
        updated_at=row.updated_at,
        unreadable=why_unreadable(row),
        gates=gates,
        continuous=bool(row.continuous),
    )
