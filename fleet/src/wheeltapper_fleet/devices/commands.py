"""Commands to devices: each is stored with a deadline, and published again until the device answers it or it is over.

Invariants:
    * The first answer of the device that was asked counts; an answer to another one's command changes nothing.
    * Commands are published to devices that are online; one that comes back later is asked then, if there is time left.
    * Work per tick is bounded: :data:`_MOST_AT_ONCE` commands are looked at, in turns.
"""

from __future__ import annotations

import logging
import math
import secrets
import zlib
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, Row, select, tuple_

from wheeltapper_fleet.db.engine import insert_ignore, reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.rules import CONNECTING, DeviceState
from wheeltapper_fleet.devices.schemas import CommandDetail
from wheeltapper_fleet.devices.scope import in_scope, within_scope
from wheeltapper_fleet.devices.tables import command_bundles, commands, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.commands import (
    CancelCommand,
    CaptureCommand,
    Command,
    CommandReport,
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
)
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = [
    "DEFAULT_EXPIRY_SECONDS",
    "CommandRepeater",
    "answer_command",
    "apply_command_report",
    "ask_captures",
    "create_capture",
    "create_command",
    "get_command",
    "list_commands",
    "read_bundle",
]

DEFAULT_EXPIRY_SECONDS: Final = 3600.0
MAX_EXPIRY_SECONDS: Final = 30 * 86_400.0
_MAX_BUNDLE_TEXT: Final = 4 * 1024 * 1024
_MOST_AT_ONCE: Final = 200
_LOG: Final = logging.getLogger(__name__)
_Asked: TypeAlias = CaptureCommand | DiagnosticsCommand | ResetBaselineCommand | RestartPipelineCommand
_Body: TypeAlias = _Asked | CancelCommand


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
    body = {"type": "capture", "pipeline": pipeline, "snapshots": snapshots}
    return create_command(engine, device, body, now=now, expires_seconds=expires_seconds)


def create_command(
    engine: Engine,
    device: str,
    body: dict[str, Any],
    *,
    now: float,
    expires_seconds: float = DEFAULT_EXPIRY_SECONDS,
    who: str = "",
) -> str:
    """Ask ``device`` to do what ``body`` says; returns the command's id.

    Args:
        engine: the fleet's database.
        device: its id.
        body: with ``type``: ``capture``, ``diagnostics``, ``restart-pipeline`` or ``reset-baseline``, and its fields.
        now: Unix seconds.
        expires_seconds: it is over after so long, a second to 30 days.
        who: the person.

    Raises:
        FleetError: ``device.not_found``, ``device.revoked``, ``command.invalid``.
    """
    asked = read_command(body, expires_seconds)
    with engine.begin() as connection:
        state = connection.execute(select(devices.c.state).where(devices.c.id == device)).scalar_one_or_none()
        if state in (DeviceState.REVOKED, DeviceState.RETIRED):
            message = f"{device} is {state}; enrol it again before you ask it for anything"
            raise FleetError("device.revoked", message, 409)
        if state not in CONNECTING:
            raise FleetError("device.not_found", f"there is no device {device[:63]!r}, or it has not come yet")
        command = f"cmd-{secrets.token_hex(8)}"
        row = {"id": command, "device": device, "body": asked, "who": who[:128]}
        connection.execute(commands.insert().values(**row, created_at=now, expires_at=now + expires_seconds))
    return command


def read_command(body: dict[str, Any], expires_seconds: float) -> Any:
    """The body of a command as it is stored, checked.

    Raises:
        FleetError: ``command.invalid``.
    """
    try:
        parsed: _Asked = msgspec.convert(body, _Asked)
    except msgspec.ValidationError as error:
        raise FleetError("command.invalid", f"the {body.get('type', 'command')} is refused: {error}", 422) from error
    if not 1.0 <= expires_seconds <= MAX_EXPIRY_SECONDS:
        raise FleetError("command.invalid", f"a command cannot be good for {expires_seconds} s; 1 s to 30 days", 422)
    return msgspec.to_builtins(parsed)


def ask_captures(
    connection: Connection,
    asked: Mapping[str, str],
    *,
    pipeline: str,
    snapshots: int,
    now: float,
    expires_seconds: float,
    who: str,
) -> None:
    """Ask devices for recordings, in the caller's transaction. A command that is there already is not made again, and
    a device that may not connect is not asked.

    Args:
        connection: of the transaction.
        asked: the device of each command, by the command's id.
        pipeline: records its next windows,
        snapshots: so many.
        now: Unix seconds.
        expires_seconds: it is over after so long.
        who: asks.
    """
    body = msgspec.to_builtins(CaptureCommand(pipeline=pipeline, snapshots=snapshots))
    active = select(devices.c.id).where(devices.c.id.in_(asked.values()), devices.c.state.in_(sorted(CONNECTING)))
    there = set(connection.execute(active).scalars())
    row = {"body": body, "who": who[:128], "created_at": now, "expires_at": now + expires_seconds}
    rows = [{"id": command, "device": device, **row} for command, device in asked.items() if device in there]
    insert_ignore(connection, commands, rows)


def answer_command(connection: Connection, device: str, command: str, answer: dict[str, Any], now: float) -> bool:
    """Keep the answer of ``device`` to its command, in the caller's transaction. The first answer counts.

    An answer to another device's command, or to one that does not exist, changes nothing. Returns whether it counts.
    """
    unanswered = (commands.c.id == command, commands.c.device == device, commands.c.answered_at.is_(None))
    return connection.execute(commands.update().where(*unanswered).values(answered_at=now, answer=answer)).rowcount == 1


def apply_command_report(connection: Connection, device: str, report: CommandReport, now: float) -> None:
    """Keep a device's report as its command's answer, and the bundle that came with it. In the caller's transaction."""
    answer = {"code": report.code, "detail": report.detail, "bundle_bytes": len(report.bundle)}
    if answer_command(connection, device, report.command, answer, now) and report.bundle:
        connection.execute(command_bundles.insert().values(command=report.command, body=report.bundle))


def list_commands(
    engine: Engine,
    device: str | None,
    now: float,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    scope: str = "",
) -> Page[CommandDetail]:
    """A page of commands, newest first: of one device, or of all in ``scope``.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(commands) if device is None else select(commands).where(commands.c.device == device)
    with reading(engine) as connection:
        key = (commands.c.created_at, commands.c.id)
        mine = in_scope(scope, commands.c.device, now)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=mine)
    return Page([_view(row, now) for row in rows], following)


def get_command(engine: Engine, command: str, now: float, scope: str = "") -> CommandDetail:
    """One command; of a device in ``scope``.

    Raises:
        FleetError: ``command.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(commands).where(commands.c.id == command)).first()
        mine = row is not None and bool(within_scope(connection, [row.device], scope, now))
    if row is None or not mine:
        raise FleetError("command.not_found", f"there is no command {command[:80]!r}", 404)
    return _view(row, now)


def read_bundle(engine: Engine, command: str) -> dict[str, Any]:
    """The diagnostics bundle that answers ``command``.

    Raises:
        FleetError: ``command.no_bundle``, ``command.bundle_unreadable``.
    """
    with reading(engine) as connection:
        query = select(command_bundles.c.body).where(command_bundles.c.command == command)
        body = connection.execute(query).scalar_one_or_none()
    if body is None:
        raise FleetError("command.no_bundle", f"no bundle has come for {command[:80]!r} (yet)", 404)
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(body, _MAX_BUNDLE_TEXT)
        if not unpacker.eof:
            raise ValueError("it is longer than a bundle may be, or broken off")
        return msgspec.json.decode(text, type=dict[str, Any])
    except (zlib.error, ValueError) as error:  # msgspec's errors are ValueErrors
        raise FleetError("command.bundle_unreadable", f"the bundle cannot be read: {error}", 409) from error


class CommandRepeater:
    """Publishes unanswered commands to devices that are online, each again after ``repeat_seconds``.

    A command that cannot be read (another version stored it) is named in the log once and stops no other.
    """

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._published_at: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self._after: tuple[float, str] = (0.0, "")
        """Where the last look ended: expiry and id."""

    def due(self, connection: Connection, now: float) -> list[Publication]:
        """The commands to publish at ``now`` (Unix seconds).

        Cost: up to :data:`_MOST_AT_ONCE` rows of an index that holds unanswered commands only; where more of them wait,
        the next call goes on with the others.
        """
        key = (commands.c.expires_at, commands.c.id)
        after = max(self._after, (now, ""))
        query = (
            select(commands, devices.c.online)
            .join(devices, devices.c.id == commands.c.device)
            .where(commands.c.answered_at.is_(None), tuple_(*key) > tuple_(*after))
            .order_by(*key)
            .limit(_MOST_AT_ONCE)
        )
        rows = connection.execute(query).all()
        self._after = (rows[-1].expires_at, rows[-1].id) if len(rows) == _MOST_AT_ONCE else (0.0, "")
        if self._after == (0.0, ""):
            self._forget_over(now)
        return [each for row in rows if row.online and (each := self._publication(row, now)) is not None]

    def _publication(self, row: Row[Any], now: float) -> Publication | None:
        if row.id in self._unreadable or now - self._published_at.get(row.id, -math.inf) < self._repeat_seconds:
            return None
        try:
            publication = Publication(down_topic(row.device, Down.COMMAND), _payload(row))
        except (msgspec.MsgspecError, ProtocolError) as error:
            self._unreadable.add(row.id)
            _LOG.error("command %s for %s cannot be read and is not sent: %s", row.id, row.device, error)
            return None
        self._published_at[row.id] = now
        return publication

    def _forget_over(self, now: float) -> None:
        """Forget what was published long ago: it was answered, or is over."""
        term = 100 * self._repeat_seconds
        self._published_at = {command: at for command, at in self._published_at.items() if now - at < term}


def _payload(row: Row[Any]) -> bytes:
    """The message of a row of ``commands``.

    Raises:
        ValidationError: the row holds no command that this version knows.
    """
    body: _Body = msgspec.convert(row.body, _Body)
    return encode(Command(id=row.id, expires_at=row.expires_at, body=body))


def _view(row: Row[Any], now: float) -> CommandDetail:
    body: dict[str, Any] = row.body if isinstance(row.body, dict) else {}
    answer: dict[str, Any] = row.answer if isinstance(row.answer, dict) else {}
    code = str(answer.get("code") or "")
    if row.answered_at is not None:
        state = "failed" if code else "done"
    else:
        state = "waiting" if row.expires_at > now else "expired"
    return CommandDetail(
        command=row.id,
        device=row.device,
        type=str(body.get("type", "unknown")),
        body=body,
        who=row.who,
        state=state,
        created_at=row.created_at,
        expires_at=row.expires_at,
        answered_at=row.answered_at,
        code=code,
        detail=str(answer.get("detail") or ""),
        bundle=bool(answer.get("bundle_bytes")),
    )
