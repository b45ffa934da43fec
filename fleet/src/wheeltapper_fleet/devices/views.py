"""Reads devices for the API and the page. Nothing here changes anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.notices import all_notices, notices_of
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.schemas import DeviceView, NoticeView, PipelineView
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.telemetry.present import NewestScore
from wheeltapper_fleet.telemetry.views import last_scores, newest_scores

__all__ = ["get_device", "list_devices", "online_by_device"]

_SCORES_SHOWN: Final = 120
_RANKS: Final = {"normal": 0, "warning": 1, "critical": 2}


def list_devices(
    engine: Engine, now: float | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[DeviceView]:
    """A page of the devices, by id.

    Args:
        engine: the fleet's database.
        now: Unix seconds; None: the system's clock.
        limit: how many.
        after: the cursor of the page before.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    with reading(engine) as connection:
        rows, following = page_of(connection, select(devices), (devices.c.id,), limit=limit, after=after)
        notices = all_notices(connection)
        return Page([_view(connection, row, notices.get(row.id, ()), now) for row in rows], following)


def get_device(engine: Engine, device: str, now: float | None = None) -> DeviceView:
    """One device.

    Args:
        engine: the fleet's database.
        device: its id.
        now: Unix seconds; None: the system's clock.

    Raises:
        FleetError: ``device.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(devices).where(devices.c.id == device)).first()
        if row is None:
            raise FleetError("device.not_found", f"there is no device {device[:80]!r}", 404)
        return _view(connection, row, notices_of(connection, row.id), now)


def online_by_device(connection: Connection) -> dict[str, bool]:
    """Every enrolled device, and whether it is online now."""
    return {row.id: bool(row.online) for row in connection.execute(select(devices.c.id, devices.c.online))}


def _view(connection: Connection, row: Row[Any], notices: Sequence[Row[Any]], now: float | None) -> DeviceView:
    status: dict[str, Any] = row.status if isinstance(row.status, dict) else {}
    described: dict[str, dict[str, Any]] = dict(sorted((status.get("pipelines") or {}).items()))
    running = any(value.get("model") for value in described.values())
    found = newest_scores(connection, [row.id]).get(row.id, {})
    newest = {name: each for name, each in found.items() if each.at >= row.enrolled_at}
    scores = last_scores(connection, row.id, row.enrolled_at, _SCORES_SHOWN) if running else []
    moment = time.time() if now is None else now
    pipelines = [_pipeline(name, value, newest.get(name), moment) for name, value in described.items()]
    present = [each for each in pipelines if each.score is not None]
    worst = max(present, key=lambda each: (_RANKS.get(each.severity or "", 0), each.score or 0.0), default=None)
    return DeviceView(
        id=row.id,
        tags=row.tags if isinstance(row.tags, dict) else {},
        online=row.online,
        state=row.state,
        site=row.site,
        revoked=row.state == DeviceState.REVOKED,
        enrolled_at=row.enrolled_at,
        certificate_expires_at=row.certificate_expires_at,
        last_seen_at=row.last_seen_at,
        counter=row.counter,
        execution=status.get("execution"),
        execution_state=status.get("execution_state"),
        pipelines=pipelines,
        severity=worst.severity if worst is not None else None,
        score=worst.score if worst is not None else None,
        no_score_since=min(
            (each.no_score_since for each in pipelines if each.no_score_since is not None), default=None
        ),
        notices=[NoticeView.model_validate(each, from_attributes=True) for each in notices],
        scores=scores,
    )


def _pipeline(name: str, value: dict[str, Any], newest: NewestScore | None, now: float) -> PipelineView:
    """One pipeline as its device described it, with the present score of the model that runs."""
    if not value.get("model"):
        newest = None
    present = newest if newest is not None and newest.present(now) else None
    scored_at = newest.at if newest is not None else None
    return PipelineView(
        name=name,
        model=value.get("model"),
        release=value.get("release"),
        windows=value.get("windows", 0),
        source=value.get("source", "running"),
        score=present.score if present is not None else None,
        severity=present.severity if present is not None else None,
        scored_at=scored_at,
        no_score_since=scored_at if present is None else None,
    )
