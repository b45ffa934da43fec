"""Reads captures for the API: recordings that were asked for or received."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, Row, select

from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import commands
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["capture_sha256", "list_captures"]

_MAX_SHOWN: Final = 1000


def list_captures(engine: Engine, device: str | None = None) -> list[CaptureView]:
    """Recordings of all devices or of ``device``, asked for or received, newest first; at most 1000."""
    asked = select(commands, captures.c.sha256, captures.c.length, captures.c.received_at).select_from(
        commands.outerjoin(captures, captures.c.command == commands.c.id)
    )
    asked = asked.order_by(commands.c.created_at.desc()).limit(_MAX_SHOWN)
    by_rule = select(captures).where(captures.c.command.not_in(select(commands.c.id)))
    by_rule = by_rule.order_by(captures.c.received_at.desc()).limit(_MAX_SHOWN)
    if device is not None:
        asked = asked.where(commands.c.device == device)
        by_rule = by_rule.where(captures.c.device == device)
    with reading(engine) as connection:
        views = [_asked(row) for row in connection.execute(asked) if _body(row).get("type") == "capture"]
        views += [_by_rule(row) for row in connection.execute(by_rule)]
    return sorted(views, key=lambda view: view.created_at or 0.0, reverse=True)[:_MAX_SHOWN]


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
