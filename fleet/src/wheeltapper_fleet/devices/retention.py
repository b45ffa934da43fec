"""Ends what has been kept long enough of devices: their log, and commands that are over, with their bundles.

Invariants:
    * A turn is one short transaction of at most :data:`_SLICE` rows of each, by an index.
    * A command that may still be answered stays, however old it is; recordings that answered one stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, delete, select

from wheeltapper_fleet.db.bulk import delete_keys
from wheeltapper_fleet.devices.tables import command_bundles, commands, device_log

__all__ = ["devices_turn"]

_SLICE: Final = 1000
_DAY_SECONDS: Final = 86_400.0


def devices_turn(engine: Engine, log_days: int, commands_days: int) -> Callable[[float], bool]:
    """The duty: one turn at a Unix time; returns whether there is more to do at once."""

    def turn(now: float) -> bool:
        with engine.begin() as connection:
            more = _end_log(connection, now - log_days * _DAY_SECONDS)
            return _end_commands(connection, now - commands_days * _DAY_SECONDS, now) or more

    return turn


def _end_log(connection: Connection, before: float) -> bool:
    """End the oldest entries of the log of devices; those with the lowest ids came first."""
    oldest = select(device_log.c.id, device_log.c.at).order_by(device_log.c.id).limit(_SLICE)
    rows = [row for row in connection.execute(oldest) if row.at < before]
    if rows:
        connection.execute(delete(device_log).where(device_log.c.id <= rows[-1].id, device_log.c.at < before))
    return len(rows) == _SLICE


def _end_commands(connection: Connection, before: float, now: float) -> bool:
    """End the oldest commands that are over, with the bundles that answered them."""
    key = (commands.c.created_at, commands.c.id)
    query = select(commands.c.id).where(commands.c.created_at < before, commands.c.expires_at < now)
    names = [(name,) for name in connection.execute(query.order_by(*key).limit(_SLICE)).scalars()]
    delete_keys(connection, command_bundles, ("command",), names)
    delete_keys(connection, commands, ("id",), names)
    return len(names) == _SLICE
