"""Commands to devices: kept until they are answered or expire, repeated meanwhile."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import commands, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command

__all__ = ["create_cancel", "create_capture", "get_command", "list_commands", "pending_payloads"]

DEFAULT_EXPIRY_SECONDS = 3600.0


def create_capture(
    engine: Engine,
    *,
    device: str,
    pipeline: str,
    snapshots: int,
    now: float,
    expires_seconds: float = DEFAULT_EXPIRY_SECONDS,
) -> str:
    """Ask ``device`` for a recording of its next ``snapshots`` windows; returns the command's id.

    Raises:
        FleetError: ``device.not_found``, ``command.invalid``.
    """
    try:
        body = msgspec.convert({"type": "capture", "pipeline": pipeline, "snapshots": snapshots}, CaptureCommand)
    except msgspec.ValidationError as error:
        raise FleetError("command.invalid", f"the capture is refused: {error}", 422) from error
    with engine.begin() as connection:
        return _create(connection, device, body, now, expires_seconds)


def create_cancel(
    connection: Connection, *, device: str, execution: str, now: float, expires_seconds: float = DEFAULT_EXPIRY_SECONDS
) -> str:
    """Ask ``device`` to end ``execution``, within the caller's transaction; returns the command's id."""
    return _create(connection, device, CancelCommand(execution=execution), now, expires_seconds)


def get_command(engine: Engine, command: str) -> dict[str, Any]:
    """One command with its answer.

    Raises:
        FleetError: ``command.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(commands).where(commands.c.id == command)).mappings().one_or_none()
    if row is None:
        raise FleetError("command.not_found", f"there is no command {command[:64]!r}", 404)
    return dict(row)


def list_commands(engine: Engine, device: str | None = None) -> list[dict[str, Any]]:
    """Commands, newest first."""
    query = select(commands).order_by(commands.c.created_at.desc()).limit(500)
    if device is not None:
        query = query.where(commands.c.device == device)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def pending_payloads(connection: Connection, now: float) -> list[tuple[str, str, bytes]]:
    """``(id, device, payload)`` of every command that is neither answered nor expired."""
    query = select(commands.c.id, commands.c.device, commands.c.body, commands.c.expires_at).where(
        commands.c.answered_at.is_(None), commands.c.expires_at > now
    )
    return [
        (row.id, row.device, encode(Command(id=row.id, expires_at=row.expires_at, body=_body(row.body))))
        for row in connection.execute(query)
    ]


def _body(raw: dict[str, Any]) -> CaptureCommand | CancelCommand:
    body: CaptureCommand | CancelCommand = msgspec.convert(raw, CaptureCommand | CancelCommand)
    return body


def _create(
    connection: Connection, device: str, body: CaptureCommand | CancelCommand, now: float, expires_seconds: float
) -> str:
    known = connection.execute(select(devices.c.id).where(devices.c.id == device, devices.c.revoked.is_(False)))
    if known.scalar_one_or_none() is None:
        raise FleetError("device.not_found", f"there is no device {device[:63]!r}")
    command = f"cmd-{secrets.token_hex(8)}"
    connection.execute(
        commands.insert().values(
            id=command, device=device, body=msgspec.to_builtins(body), created_at=now, expires_at=now + expires_seconds
        )
    )
    return command
