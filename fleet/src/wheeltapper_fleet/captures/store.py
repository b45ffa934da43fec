"""Rows of captures, and the commands that ask for them."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from wheeltapper_fleet.captures.rules import Capture
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.devices.tables import commands

__all__ = ["auto_bytes_since", "find_capture", "find_command", "insert_capture"]


def find_capture(connection: Connection, name: str) -> Capture | None:
    """The recording that was stored under ``name``, if there is one."""
    row = connection.execute(select(captures).where(captures.c.command == name)).mappings().first()
    return None if row is None else Capture(**row)


def insert_capture(connection: Connection, capture: Capture) -> None:
    """Add a recording.

    Raises:
        IntegrityError: one of this name is there already.
    """
    connection.execute(insert(captures).values(dataclasses.asdict(capture)))


def auto_bytes_since(connection: Connection, device: str, since: float) -> int:
    """How many bytes rules of ``device`` have sent since ``since`` (Unix seconds)."""
    query = select(func.coalesce(func.sum(captures.c.length), 0)).where(
        captures.c.device == device, captures.c.command.like("auto-%"), captures.c.received_at > since
    )
    return int(connection.execute(query).scalar_one())


def find_command(connection: Connection, command: str) -> Row[Any] | None:
    """The row of a command."""
    return connection.execute(select(commands).where(commands.c.id == command)).first()
