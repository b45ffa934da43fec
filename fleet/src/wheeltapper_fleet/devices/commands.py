"""Commands to devices: each is stored, and published again until the device answers it or it expires."""

from __future__ import annotations

import secrets
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.devices.tables import commands, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = [
    "DEFAULT_EXPIRY_SECONDS",
    "CommandRepeater",
    "answer_cancels",
    "answer_command",
    "create_cancel",
    "create_capture",
]

DEFAULT_EXPIRY_SECONDS: Final = 3600.0


def create_capture(
    engine: Engine,
    *,
    device: str,
    pipeline: str,
    snapshots: int,
    now: float,
    expires_seconds: float = DEFAULT_EXPIRY_SECONDS,
) -> str:
    """Ask ``device`` to record its next ``snapshots`` windows; returns the command's id.

    Raises:
        FleetError: ``device.not_found``, ``device.revoked``, ``command.invalid``.
    """
    try:
        body = msgspec.convert({"type": "capture", "pipeline": pipeline, "snapshots": snapshots}, CaptureCommand)
    except msgspec.ValidationError as error:
        raise FleetError("command.invalid", f"the capture is refused: {error}", 422) from error
    with engine.begin() as connection:
        revoked = select(devices.c.revoked).where(devices.c.id == device)
        if connection.execute(revoked).scalar_one_or_none():
            raise FleetError("device.revoked", f"{device} is revoked; enrol it again before you ask it to record", 409)
        return _create(connection, device, body, now, expires_seconds)


def create_cancel(
    connection: Connection, *, device: str, execution: str, now: float, expires_seconds: float = DEFAULT_EXPIRY_SECONDS
) -> str:
    """Ask ``device`` to end ``execution``, in the caller's transaction; returns the command's id.

    Raises:
        FleetError: ``device.not_found``.
    """
    return _create(connection, device, CancelCommand(execution=execution), now, expires_seconds)


def answer_command(connection: Connection, device: str, command: str, answer: dict[str, Any], now: float) -> None:
    """Keep the answer of ``device`` to its command, in the caller's transaction. The first answer counts.

    An answer to another device's command, or to one that does not exist, changes nothing.
    """
    unanswered = (commands.c.id == command, commands.c.device == device, commands.c.answered_at.is_(None))
    connection.execute(commands.update().where(*unanswered).values(answered_at=now, answer=answer))


def answer_cancels(connection: Connection, device: str, execution: str, answer: dict[str, Any], now: float) -> None:
    """Answer every command that asks ``device`` to end ``execution``, in the caller's transaction."""
    query = select(commands.c.id, commands.c.body).where(commands.c.device == device, commands.c.answered_at.is_(None))
    for row in connection.execute(query).all():
        if row.body.get("type") == "cancel" and row.body.get("execution") == execution:
            connection.execute(commands.update().where(commands.c.id == row.id).values(answered_at=now, answer=answer))


class CommandRepeater:
    """Publishes unanswered commands, each again after ``repeat_seconds``."""

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._published_at: dict[str, float] = {}

    def due(self, connection: Connection, now: float) -> list[Publication]:
        """The commands to publish at ``now`` (Unix seconds)."""
        pending = _pending_payloads(connection, now)
        waiting = {command for command, _, _ in pending}
        self._published_at = {command: at for command, at in self._published_at.items() if command in waiting}
        publications = []
        for command, device, payload in pending:
            if now - self._published_at.get(command, float("-inf")) >= self._repeat_seconds:
                self._published_at[command] = now
                publications.append(Publication(down_topic(device, Down.COMMAND), payload))
        return publications


def _pending_payloads(connection: Connection, now: float) -> list[tuple[str, str, bytes]]:
    """``(id, device, payload)`` of every command that is neither answered nor expired at ``now`` (Unix seconds)."""
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
        raise FleetError("device.not_found", f"there is no device {device[:63]!r}, or it is revoked")
    command = f"cmd-{secrets.token_hex(8)}"
    connection.execute(
        commands.insert().values(
            id=command, device=device, body=msgspec.to_builtins(body), created_at=now, expires_at=now + expires_seconds
        )
    )
    return command
