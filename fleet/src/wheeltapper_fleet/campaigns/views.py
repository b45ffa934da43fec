"""Reads campaigns for the API and the page. Nothing here changes anything."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.campaigns.schemas import CampaignDetail, CampaignView, ExecutionView, LogEntry
from wheeltapper_fleet.campaigns.store import WARNING, why_unreadable
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["get_campaign", "list_campaigns"]


def list_campaigns(engine: Engine) -> list[CampaignView]:
    """All campaigns, newest first."""
    with reading(engine) as connection:
        rows = connection.execute(select(campaigns).order_by(campaigns.c.created_at.desc())).all()
        counts = _execution_counts(connection)
    return [_view(row, counts[row.id]) for row in rows]


def get_campaign(engine: Engine, campaign: str) -> CampaignDetail:
    """One campaign with its executions (by wave and device) and its log (oldest line first).

    Raises:
        FleetError: ``campaign.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(campaigns).where(campaigns.c.id == campaign)).first()
        if row is None:
            raise FleetError("campaign.not_found", f"there is no campaign {campaign[:80]!r}", 404)
        attempts = connection.execute(
            select(executions).where(executions.c.campaign == campaign).order_by(executions.c.wave, executions.c.device)
        ).all()
        entries = connection.execute(
            select(campaign_log).where(campaign_log.c.campaign == campaign).order_by(campaign_log.c.id)
        ).all()
        view = _view(row, _execution_counts(connection)[campaign])
    return CampaignDetail(
        **view.model_dump(),
        execution_list=[
            ExecutionView(
                **{name: each._mapping[name] for name in ExecutionView.model_fields if name != "wave"},
                wave=each.wave + 1,
            )
            for each in attempts
        ],
        log=[LogEntry(at=each.at, who=each.who, event=each.event, detail=each.detail) for each in entries],
        warnings=[each.detail for each in entries if each.event == WARNING],
    )


def _execution_counts(connection: Connection) -> dict[str, dict[str, dict[str, int]]]:
    """How many executions there are, by campaign, wave (from 1, as text) and state."""
    columns = (executions.c.campaign, executions.c.wave, executions.c.state)
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    of_campaigns = select(*columns, func.count().label("n")).where(executions.c.campaign.is_not(None))
    for row in connection.execute(of_campaigns.group_by(*columns)):
        counts[row.campaign].setdefault(str(row.wave + 1), {})[row.state] = row.n
    return counts


def _view(row: Row[Any], counts: dict[str, dict[str, int]]) -> CampaignView:
    return CampaignView(
        id=row.id,
        version=row.version,
        state=row.state,
        reason=row.reason,
        spec=row.spec if isinstance(row.spec, dict) else {},
        waves=row.waves if isinstance(row.waves, list) else [],
        executions=counts,
        created_at=row.created_at,
        updated_at=row.updated_at,
        unreadable=why_unreadable(row),
    )
