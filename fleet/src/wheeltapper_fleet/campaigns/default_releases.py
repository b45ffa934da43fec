"""Default releases: set and cleared by people, or by a campaign that has completed; every change is kept.

Invariants:
    * Of one model there is at most one default release for a pipeline and an audience: a new one clears the old one.
    * Who set it, when and why, and who cleared it, is never deleted.
    * Setting one looks at the devices in slices (:func:`mark_next_devices`), never at all of them at once.

Example::

    set_default(engine, "bearing", 4, pipeline="main", tags={"line": "a"}, who="ann", why="", now=time.time())
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.campaigns.claims import releases_shown
from wheeltapper_fleet.campaigns.due import mark_devices, mark_told
from wheeltapper_fleet.campaigns.rules.default_release import MOST_ATTEMPTS, DefaultRelease
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.spec import Audience
from wheeltapper_fleet.campaigns.schemas import DefaultReleaseView
from wheeltapper_fleet.campaigns.tables import default_releases, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.messages import Name

__all__ = [
    "any_to_look_at",
    "clear_default",
    "get_default",
    "list_defaults",
    "mark_next_devices",
    "set_default",
    "set_default_releases",
    "set_default_within",
]

_WHY_CHARACTERS: Final = 500
_FAILED: Final = ("FAILED", "REJECTED", "ROLLED_BACK")


def set_default(
    engine: Engine, model: str, release: int, *, pipeline: str, tags: Mapping[str, str], who: str, why: str, now: float
) -> str:
    """Make ``release`` what ``pipeline`` of every device with ``tags`` runs; returns the new entry's id.

    Raises:
        FleetError: ``release.not_found``, ``default.invalid``.
    """
    with engine.begin() as connection:
        audience = _audience([], tags)
        return set_default_within(
            connection, model, release, pipeline=pipeline, audience=audience, who=who, why=why, now=now
        )


def set_default_within(
    connection: Connection,
    model: str,
    release: int,
    *,
    pipeline: str,
    audience: Audience,
    who: str,
    why: str,
    now: float,
) -> str:
    """As :func:`set_default`, for an audience that may name devices, in the caller's transaction."""
    try:
        msgspec.convert(pipeline, Name)
    except msgspec.ValidationError as error:
        raise FleetError("default.invalid", f"the pipeline is refused: {error}", 422) from error
    published_release(connection, model, release, releases.c.release)
    made = f"d-{secrets.token_hex(6)}"
    for row in _set(connection, model, pipeline, audience):
        _clear(connection, row.id, who, f"replaced by {made}", now)
    connection.execute(
        default_releases.insert().values(
            id=made,
            model=model,
            release=release,
            pipeline=pipeline,
            audience=msgspec.to_builtins(audience),
            set_at=now,
            set_by=who[:128],
            why=why[:_WHY_CHARACTERS],
            cursor="",
        )
    )
    return made


def clear_default(
    engine: Engine, model: str, *, pipeline: str | None, tags: Mapping[str, str] | None, who: str, why: str, now: float
) -> list[str]:
    """Clear the default releases of ``model``; returns their ids.

    Devices keep what they run. An execution that is under way is withdrawn.

    Args:
        engine: the fleet's database.
        model: the model's name.
        pipeline: only of this pipeline; None: of any.
        tags: only of exactly this audience; None: of any.
        who: the person.
        why: the reason, for the record.
        now: Unix seconds.

    Raises:
        FleetError: ``default.not_found``.
    """
    with engine.begin() as connection:
        audience = None if tags is None else _audience([], tags)
        rows = _set(connection, model, pipeline, audience)
        if not rows:
            raise FleetError("default.not_found", f"no such default release of {model[:63]!r} is set", 404)
        for row in rows:
            _clear(connection, row.id, who, why[:_WHY_CHARACTERS], now)
        return [row.id for row in rows]


def list_defaults(
    engine: Engine, cleared: bool = False, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[DefaultReleaseView]:
    """A page of the default releases that are set, newest first; with ``cleared`` also of those that were.

    Each with the number of its executions by state, and of the devices that are not tried any more.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query, table = select(default_releases), default_releases.c
    if not cleared:
        query = query.where(table.cleared_at.is_(None))
    with reading(engine) as connection:
        key = (table.set_at, table.id)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True)
        return Page(_views(connection, rows), following)


def get_default(engine: Engine, default: str) -> DefaultReleaseView:
    """One default release, set or cleared.

    Raises:
        FleetError: ``default.not_found``.
    """
    with reading(engine) as connection:
        rows = connection.execute(select(default_releases).where(default_releases.c.id == default)).all()
        if not rows:
            raise FleetError("default.not_found", f"there is no default release {default[:80]!r}", 404)
        return _views(connection, rows)[0]


def _views(connection: Connection, rows: Sequence[Row[Any]]) -> list[DefaultReleaseView]:
    """Default releases as the API gives them out; only the executions of these are counted."""
    names = [row.id for row in rows]
    states: dict[str, dict[str, int]] = {}
    columns = (executions.c.default_release, executions.c.state)
    counted = select(*columns, func.count()).where(executions.c.default_release.in_(names)).group_by(*columns)
    for name, state, count in connection.execute(counted):
        states.setdefault(name, {})[state] = count
    given_up = _given_up(connection, names)
    return [
        DefaultReleaseView(
            id=row.id,
            model=row.model,
            release=row.release,
            pipeline=row.pipeline,
            audience=row.audience if isinstance(row.audience, dict) else {},
            set_at=row.set_at,
            set_by=row.set_by,
            why=row.why,
            cleared_at=row.cleared_at,
            cleared_by=row.cleared_by,
            cleared_why=row.cleared_why,
            executions=states.get(row.id, {}),
            given_up=given_up.get(row.id, 0),
        )
        for row in rows
    ]


def set_default_releases(connection: Connection) -> list[DefaultRelease]:
    """The default releases that are set. One that this version cannot read is left out."""
    rows = connection.execute(select(default_releases).where(default_releases.c.cleared_at.is_(None))).all()
    return [found for row in rows if (found := _read(row)) is not None]


def any_to_look_at(connection: Connection) -> bool:
    """Whether a default release was set of which not all devices were looked at yet."""
    set_anew = select(default_releases.c.id).where(default_releases.c.cursor.is_not(None)).limit(1)
    return connection.execute(set_anew).first() is not None


def mark_next_devices(connection: Connection, most: int, now: float) -> bool:
    """Look at the next ``most`` devices for a default release that was set, and mark those that lack it.

    Devices that are offline are looked at when they come back. Returns whether there was anything to look at.
    """
    row = connection.execute(
        select(default_releases).where(default_releases.c.cursor.is_not(None)).order_by(default_releases.c.id).limit(1)
    ).one_or_none()
    if row is None:
        return False
    default = _read(row)
    query = (
        select(devices.c.id, devices.c.tags, devices.c.status)
        .where(devices.c.id > row.cursor, devices.c.state == DeviceState.ACTIVE, devices.c.online.is_(True))
        .order_by(devices.c.id)
        .limit(most)
    )
    found = connection.execute(query).all()
    if default is not None:
        mark_devices(connection, [id_ for id_, tags, status in found if _lacks(default, id_, tags, status)], now)
    cursor = found[-1].id if default is not None and len(found) == most else None
    connection.execute(default_releases.update().where(default_releases.c.id == row.id).values(cursor=cursor))
    return True


def _audience(names: Sequence[str], tags: Mapping[str, str]) -> Audience:
    try:
        return msgspec.convert({"devices": list(names), "tags": dict(tags)}, Audience)
    except msgspec.ValidationError as error:
        raise FleetError("default.invalid", f"the audience is refused: {error}", 422) from error


def _lacks(default: DefaultRelease, device: str, tags: Any, status: Any) -> bool:
    shown = releases_shown(status)
    lacks = default.pipeline in shown and shown[default.pipeline] != (default.model, default.release)
    return lacks and default.covers(device, tags if isinstance(tags, dict) else {})


def _read(row: Row[Any]) -> DefaultRelease | None:
    try:
        audience = msgspec.convert(row.audience, Audience)
    except msgspec.ValidationError:
        return None
    return DefaultRelease(
        id=row.id,
        model=row.model,
        release=row.release,
        pipeline=row.pipeline,
        devices=frozenset(audience.devices),
        tags=audience.tags,
        set_at=row.set_at,
    )


def _set(connection: Connection, model: str, pipeline: str | None, audience: Audience | None) -> list[Row[Any]]:
    """The default releases of ``model`` that are set; None means any pipeline, any audience."""
    query = select(default_releases).where(default_releases.c.model == model, default_releases.c.cleared_at.is_(None))
    if pipeline is not None:
        query = query.where(default_releases.c.pipeline == pipeline)
    rows = connection.execute(query).all()
    if audience is None:
        return list(rows)
    wanted = (frozenset(audience.devices), audience.tags)
    return [row for row in rows if (each := _read(row)) is not None and (each.devices, each.tags) == wanted]


def _clear(connection: Connection, default: str, who: str, why: str, now: float) -> None:
    values = {"cleared_at": now, "cleared_by": who[:128], "cleared_why": why, "cursor": None}
    connection.execute(default_releases.update().where(default_releases.c.id == default).values(values))
    mark_told(connection, default, of_campaign=False)


def _given_up(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """By default release of ``names``, how many devices have failed so often that they are not tried any more."""
    columns = (executions.c.default_release, executions.c.device)
    failed = executions.c.state.in_(_FAILED)
    worked = select(*columns).where(executions.c.state == SUCCESS, executions.c.default_release.in_(names)).subquery()
    given_up = (
        select(*columns)
        .outerjoin(
            worked,
            (worked.c.default_release == executions.c.default_release) & (worked.c.device == executions.c.device),
        )
        .where(executions.c.default_release.in_(names), failed, worked.c.device.is_(None))
        .group_by(*columns)
        .having(func.count() >= MOST_ATTEMPTS)
        .subquery()
    )
    query = select(given_up.c.default_release, func.count()).group_by(given_up.c.default_release)
    return {row[0]: row[1] for row in connection.execute(query)}
