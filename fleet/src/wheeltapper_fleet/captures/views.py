"""Reads captures for the API: recordings that were asked for or received."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Row, Select, exists, select

from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.scope import within_scope
from wheeltapper_fleet.devices.tables import commands
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page, write_cursor

__all__ = ["capture_sha256", "get_capture", "list_captures"]


def list_captures(
    engine: Engine,
    device: str | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    scope: str = "",
    now: float = 0.0,
) -> Page[CaptureView]:
    """A page of the recordings of all devices or of ``device``, asked for or received, newest first.

    Two tables are read, each by its own key (time and id), and merged: a page costs at most two pages. It is shorter
    than ``limit`` where commands of other kinds, or of devices outside of ``scope``, lie between.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    asked, by_rule = _asked_query(), select(captures).where(~exists().where(commands.c.id == captures.c.command))
    if device is not None:
        asked = asked.where(commands.c.device == device)
        by_rule = by_rule.where(captures.c.device == device)
    with reading(engine) as connection:
        of_commands, _ = page_of(
            connection, asked, (commands.c.created_at, commands.c.id), limit=limit + 1, after=after, descending=True
        )
        of_rules, _ = page_of(
            connection,
            by_rule,
            (captures.c.received_at, captures.c.command),
            limit=limit + 1,
            after=after,
            descending=True,
        )
        mine = within_scope(connection, [row.device for row in (*of_commands, *of_rules)], scope, now)
    keyed = [((row.created_at, row.id), _asked(row) if _is_capture(row) else None) for row in of_commands]
    keyed += [((row.received_at, row.command), _by_rule(row)) for row in of_rules]
    keyed.sort(key=lambda each: each[0], reverse=True)
    following = write_cursor(*keyed[limit - 1][0]) if len(keyed) > limit else None
    return Page([view for _, view in keyed[:limit] if view is not None and view.device in mine], following)


def get_capture(engine: Engine, command: str, scope: str = "", now: float = 0.0) -> CaptureView:
    """One recording, asked for or received; of a device in ``scope``.

    Raises:
        FleetError: ``capture.not_found``.
    """
    found = _find_capture(engine, command)
    with reading(engine) as connection:
        if not within_scope(connection, [found.device], scope, now):
            raise _not_asked(command)
    return found


def _find_capture(engine: Engine, command: str) -> CaptureView:
    with reading(engine) as connection:
        row = connection.execute(_asked_query().where(commands.c.id == command)).first()
        if row is not None and _is_capture(row):
            return _asked(row)
        row = connection.execute(select(captures).where(captures.c.command == command)).first()
    if row is None:
        raise _not_asked(command)
    return _by_rule(row)


def _not_asked(command: str) -> FleetError:
    return FleetError("capture.not_found", f"nobody asked for a recording {command[:80]!r}", 404)


def _asked_query() -> Select[Any]:
    """Commands, each with the recording that came for it."""
    columns = (commands, captures.c.sha256, captures.c.length, captures.c.received_at)
    return select(*columns).select_from(commands.outerjoin(captures, captures.c.command == commands.c.id))


def _is_capture(row: Row[Any]) -> bool:
    return bool(_body(row).get("type") == "capture")


def capture_sha256(engine: Engine, command: str) -> str:
    """The SHA-256 of the recording that answers ``command``.

    Raises:
        FleetError: ``capture.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(captures.c.sha256).where(captures.c.command == command)).first()
    if row is None:
        raise FleetError("capture.not_found", f"no recording has come for {command[:80]!r} (yet)", 404)
    return str(row.sha256)


def _body(row: Row[Any]) -> dict[str, Any]:
    """The body of a command, whether the row holds the whole command or only its body."""
    body: dict[str, Any] = row.body if isinstance(row.body, dict) else {}
    inner = body.get("body")
    return inner if isinstance(inner, dict) else body


def _asked(row: Row[Any]) -> CaptureView:
    body, answer = _body(row), row.answer if isinstance(row.answer, dict) else {}
    code = str(answer.get("code", ""))
    state = "received" if row.sha256 else "failed" if code else "answered" if row.answered_at else "waiting"
    return CaptureView(
        command=row.id,
        device=row.device,
        pipeline=str(body.get("pipeline", "")),
        state=state,
        code=code,
        sha256=row.sha256,
        length=row.length,
        snapshots=int(body.get("snapshots", 0)),
        created_at=row.created_at,
        received_at=row.received_at,
    )


def _by_rule(row: Row[Any]) -> CaptureView:
    return CaptureView(
        command=row.command,
        device=row.device,
        pipeline=row.pipeline,
        state="received",
        code="",
        sha256=row.sha256,
        length=row.length,
        snapshots=row.snapshots,
        created_at=row.received_at,
        received_at=row.received_at,
    )
