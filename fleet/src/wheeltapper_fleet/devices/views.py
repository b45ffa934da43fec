"""Reads devices for the API and the page. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.notices import all_notices, notices_of
from wheeltapper_fleet.devices.schemas import DeviceView, NoticeView, PipelineView
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.schemas import ScorePoint
from wheeltapper_fleet.telemetry.views import newest_scores

__all__ = ["get_device", "list_devices", "online_by_device"]

_SCORES_SHOWN: Final = 120


def list_devices(engine: Engine) -> list[DeviceView]:
    """All devices, by id."""
    with reading(engine) as connection:
        rows = connection.execute(select(devices).order_by(devices.c.id)).all()
        notices = all_notices(connection)
        return [_view(connection, row, notices.get(row.id, ())) for row in rows]


def get_device(engine: Engine, device: str) -> DeviceView:
    """One device.

    Raises:
        FleetError: ``device.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(devices).where(devices.c.id == device)).first()
        if row is None:
            raise FleetError("device.not_found", f"there is no device {device[:80]!r}", 404)
        return _view(connection, row, notices_of(connection, row.id))


def online_by_device(connection: Connection) -> dict[str, bool]:
    """Every enrolled device, and whether it is online now."""
    return {row.id: bool(row.online) for row in connection.execute(select(devices.c.id, devices.c.online))}


def _view(connection: Connection, row: Row[Any], notices: Sequence[Row[Any]]) -> DeviceView:
    status: dict[str, Any] = row.status if isinstance(row.status, dict) else {}
    newest = newest_scores(connection, row.id, _SCORES_SHOWN)
    return DeviceView(
        id=row.id,
        tags=row.tags if isinstance(row.tags, dict) else {},
        online=row.online,
        revoked=row.revoked,
        enrolled_at=row.enrolled_at,
        certificate_expires_at=row.certificate_expires_at,
        last_seen_at=row.last_seen_at,
        counter=row.counter,
        execution=status.get("execution"),
        execution_state=status.get("execution_state"),
        pipelines=[_pipeline(name, value) for name, value in sorted((status.get("pipelines") or {}).items())],
        severity=newest[0].severity if newest else None,
        score=newest[0].score if newest else None,
        notices=[NoticeView.model_validate(each, from_attributes=True) for each in notices],
        scores=[ScorePoint(t_s=each.t_s or 0.0, score=each.score) for each in reversed(newest)],
    )


def _pipeline(name: str, value: dict[str, Any]) -> PipelineView:
    return PipelineView(
        name=name,
        model=value.get("model"),
        release=value.get("release"),
        windows=value.get("windows", 0),
        source=value.get("source", "running"),
    )
