"""Reads devices for the API and the page. Nothing here changes anything."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.notices import notices_by_device, notices_of
from wheeltapper_fleet.devices.rules import DeviceState, device_etag
from wheeltapper_fleet.devices.schemas import (
    BaselineView,
    DeviceCounts,
    DeviceView,
    NoticeView,
    PipelineView,
    ReleaseCount,
)
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import SEEN, device_pipelines, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.telemetry.present import NewestScore
from wheeltapper_fleet.telemetry.schemas import ScorePoint
from wheeltapper_fleet.telemetry.views import last_scores, newest_scores

__all__ = ["SORTS", "count_devices", "get_device", "list_devices", "online_by_device"]

SORTS: Final = ("id", "last_seen")
"""What lists of devices can be sorted by."""
_SCORES_SHOWN: Final = 120
_COUNTED_AT_MOST: Final = 200
"""Sites and releases that are named in counts."""
_RANKS: Final = {"normal": 0, "warning": 1, "critical": 2}


def list_devices(
    engine: Engine,
    now: float | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    q: str = "",
    sort: str = "id",
    *,
    curves: bool = False,
) -> Page[DeviceView]:
    """A page of the devices that a query means.

    Costs the same number of statements however long the page is, except with ``curves``.

    Args:
        engine: the fleet's database.
        now: Unix seconds; None: the system's clock.
        limit: how many.
        after: the cursor of the page before.
        q: in the language of :mod:`wheeltapper_fleet.ground.query`; empty: all.
        sort: one of :data:`SORTS`; a minus in front of it: from the highest to the lowest.
        curves: whether to read the last scores of each, for a curve; one statement a device.

    Raises:
        FleetError: ``cursor.invalid``, ``query.invalid``, ``query.sort``.
    """
    moment = time.time() if now is None else now
    key = _sort_key(sort.removeprefix("-"))
    wanted = select(devices, *key[:-1]).where(where(parse(q), moment))
    with reading(engine) as connection:
        rows, following = page_of(connection, wanted, key, limit=limit, after=after, descending=sort.startswith("-"))
        names = [row.id for row in rows]
        notices, scores = notices_by_device(connection, names), newest_scores(connection, names)
        found = [
            _view(
                row,
                notices.get(row.id, ()),
                scores.get(row.id, {}),
                _curve(connection, row) if curves else [],
                moment,
            )
            for row in rows
        ]
    return Page(found, following)


def _sort_key(sort: str) -> tuple[ColumnElement[Any], ...]:
    """What a list is ordered by; each is an index of ``devices``. A device that never came was last seen at 0."""
    match sort:
        case "id":
            return (devices.c.id,)
        case "last_seen":
            return (SEEN.label("seen"), devices.c.id)
    raise FleetError("query.sort", f"devices cannot be sorted by {sort[:40]!r}; use {', '.join(SORTS)}", 422)


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
        scores = newest_scores(connection, [device]).get(device, {})
        moment = time.time() if now is None else now
        return _view(row, notices_of(connection, device), scores, _curve(connection, row), moment)


def online_by_device(connection: Connection) -> dict[str, bool]:
    """Every device that has enrolled, and whether it is online now."""
    enrolled = select(devices.c.id, devices.c.online).where(devices.c.enrolled_at.is_not(None))
    return {row.id: bool(row.online) for row in connection.execute(enrolled)}


def count_devices(engine: Engine, q: str = "", now: float | None = None) -> DeviceCounts:
    """The devices that a query means, in numbers; each number is counted in an index.

    Args:
        engine: the fleet's database.
        q: in the language of :mod:`wheeltapper_fleet.ground.query`; empty: all.
        now: Unix seconds; None: the system's clock.

    Raises:
        FleetError: ``query.invalid``.
    """
    parsed = parse(q)
    meant = () if parsed.everything else (where(parsed, time.time() if now is None else now),)
    number = func.count()
    runs = (device_pipelines.c.pipeline, device_pipelines.c.model, device_pipelines.c.release)
    of_these = () if parsed.everything else (device_pipelines.c.device.in_(select(devices.c.id).where(*meant)),)
    with reading(engine) as connection:
        states = connection.execute(
            select(devices.c.state, devices.c.online, number).where(*meant).group_by(devices.c.state, devices.c.online)
        ).all()
        sites = connection.execute(
            select(devices.c.site, number)
            .where(*meant)
            .group_by(devices.c.site)
            .order_by(number.desc(), devices.c.site)
            .limit(_COUNTED_AT_MOST)
        ).all()
        releases = connection.execute(
            select(*runs, number)
            .where(*of_these)
            .group_by(*runs)
            .order_by(number.desc(), *runs)
            .limit(_COUNTED_AT_MOST)
        ).all()
    by_state: dict[str, int] = {}
    for state, _, count in states:
        by_state[state] = by_state.get(state, 0) + count
    return DeviceCounts(
        devices=sum(by_state.values()),
        online=sum(count for _, online, count in states if online),
        states=by_state,
        sites={site or "": count for site, count in sites},
        releases=[
            ReleaseCount(pipeline=pipeline, model=model, release=release, devices=count)
            for pipeline, model, release, count in releases
        ],
    )


def _described(row: Row[Any]) -> dict[str, dict[str, Any]]:
    """What the last status message says of each pipeline, by name."""
    status: dict[str, Any] = row.status if isinstance(row.status, dict) else {}
    return dict(sorted((status.get("pipelines") or {}).items()))


def _curve(connection: Connection, row: Row[Any]) -> list[ScorePoint]:
    """The last scores of a device that runs a model, oldest first."""
    if not any(value.get("model") for value in _described(row).values()):
        return []
    return last_scores(connection, row.id, row.enrolled_at or 0.0, _SCORES_SHOWN)


def _view(
    row: Row[Any],
    notices: Sequence[Row[Any]],
    scores: Mapping[str, NewestScore],
    curve: list[ScorePoint],
    now: float,
) -> DeviceView:
    status: dict[str, Any] = row.status if isinstance(row.status, dict) else {}
    newest = {name: each for name, each in scores.items() if each.at >= (row.enrolled_at or 0.0)}
    pipelines = [_pipeline(name, value, newest.get(name), now) for name, value in _described(row).items()]
    present = [each for each in pipelines if each.score is not None]
    worst = max(present, key=lambda each: (_RANKS.get(each.severity or "", 0), each.score or 0.0), default=None)
    return DeviceView(
        id=row.id,
        etag=device_etag(row.state, row.tags),
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
        scores=curve,
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
        partly_scored=value.get("partly_scored", 0),
        unknown_conditions=value.get("unknown_conditions", 0),
        baseline=BaselineView.model_validate(value["baseline"]) if value.get("baseline") else None,
    )
