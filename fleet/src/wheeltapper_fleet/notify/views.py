"""Reads targets and notifications for the API, without secrets."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Engine, Row, select, text

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.notify.rules import target_etag
from wheeltapper_fleet.notify.schemas import NotificationView, TargetView
from wheeltapper_fleet.notify.tables import notifications, notify_targets

__all__ = ["get_target", "list_notifications", "list_targets"]

_STATES: Final = {name: text(f"state = '{name}'") for name in ("waiting", "sent", "dead")}
"""Written out, so that the database sees that an index of one state has them all."""


def list_targets(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[TargetView]:
    """Targets, by name.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    with reading(engine) as connection:
        query = select(notify_targets)
        rows, following = page_of(connection, query, (notify_targets.c.id,), limit=limit, after=after)
    return Page([_target(row) for row in rows], following)


def get_target(engine: Engine, target: str) -> TargetView:
    """One target.

    Raises:
        FleetError: ``notify.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(notify_targets).where(notify_targets.c.id == target)).first()
    if row is None:
        raise FleetError("notify.not_found", f"there is no target {target[:63]!r}", 404)
    return _target(row)


def list_notifications(
    engine: Engine,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    target: str | None = None,
    state: str | None = None,
) -> Page[NotificationView]:
    """Notifications, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(notifications)
    if target is not None:
        query = query.where(notifications.c.target == target)
    if state is not None:
        query = query.where(_STATES[state])
    key = (notifications.c.id,)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True)
    names = NotificationView.model_fields
    return Page([NotificationView(**{name: row._mapping[name] for name in names}) for row in rows], following)


def _target(row: Row[Any]) -> TargetView:
    values: dict[str, Any] = {name: row._mapping[name] for name in TargetView.model_fields if name != "etag"}
    values["etag"] = target_etag(row._mapping)
    if row.kind == "webhook":
        parts = urlsplit(row.address)
        values["address"] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
    for name in ("events", "sites", "models"):
        values[name] = values[name] if isinstance(values[name], list) else []
    return TargetView(**values)
