"""Commands to devices: each is stored, and published again until the device answers it or it expires."""

from __future__ import annotations

import logging
import math
import secrets
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, select

from wheeltapper_fleet.devices.rules import CONNECTING, DeviceState
from wheeltapper_fleet.devices.tables import commands, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = [
    "DEFAULT_EXPIRY_SECONDS",
    "CommandRepeater",
    "answer_command",
    "create_capture",
]

DEFAULT_EXPIRY_SECONDS: Final = 3600.0
_LOG: Final = logging.getLogger(__name__)


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
        state = select(devices.c.state).where(devices.c.id == device)
        if connection.execute(state).scalar_one_or_none() == DeviceState.REVOKED:
            raise FleetError("device.revoked", f"{device} is revoked; enrol it again before you ask it to record", 409)
        return _create(connection, device, body, now, expires_seconds)


def answer_command(connection: Connection, device: str, command: str, answer: dict[str, Any], now: float) -> None:
    """Keep the answer of ``device`` to its command, in the caller's transaction. The first answer counts.

    An answer to another device's command, or to one that does not exist, changes nothing.
    """
    unanswered = (commands.c.id == command, commands.c.device == device, commands.c.answered_at.is_(None))
    connection.execute(commands.update().where(*unanswered).values(answered_at=now, answer=answer))


class CommandRepeater:
    """Publishes unanswered commands, each again after ``repeat_seconds``.

    A command that cannot be read (another version stored it) is named in the log once and stops no other.
    """

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._published_at: dict[str, float] = {}
        self._unreadable: set[str] = set()

    def due(self, connection: Connection, now: float) -> list[Publication]:
        """The commands to publish at ``now`` (Unix seconds)."""
        query = select(commands).where(commands.c.answered_at.is_(None), commands.c.expires_at > now)
        pending = connection.execute(query).all()
        waiting = {row.id for row in pending}
        self._unreadable &= waiting
        self._published_at = {command: at for command, at in self._published_at.items() if command in waiting}
        publications = []
        for row in pending:
            if row.id in self._unreadable or now - self._published_at.get(row.id, -math.inf) < self._repeat_seconds:
                continue
            try:
                publications.append(Publication(down_topic(row.device, Down.COMMAND), _payload(row)))
                self._published_at[row.id] = now
            except (msgspec.MsgspecError, ProtocolError) as error:
                self._unreadable.add(row.id)
                _LOG.error("command %s for %s cannot be read and is not sent: %s", row.id, row.device, error)
        return publications


def _payload(row: Row[Any]) -> bytes:
    """The message of a row of ``commands``.

    Raises:
        ValidationError: the row holds no command that this version knows.
    """
    body: CaptureCommand | CancelCommand = msgspec.convert(row.body, CaptureCommand | CancelCommand)
    return encode(Command(id=row.id, expires_at=row.expires_at, body=body))


def _create(
    connection: Connection, device: str, body: CaptureCommand | CancelCommand, now: float, expires_seconds: float
) -> str:
    known = connection.execute(select(devices.c.id).where(devices.c.id == device, devices.c.state.in_(CONNECTING)))
    if known.scalar_one_or_none() is None:
        raise FleetError("device.not_found", f"there is no device {device[:63]!r}, or it is revoked")
    command = f"cmd-{secrets.token_hex(8)}"
    connection.execute(
        commands.insert().values(
            id=command, device=device, body=msgspec.to_builtins(body), created_at=now, expires_at=now + expires_seconds
        )
    )
    return command
