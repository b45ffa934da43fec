"""What happened to a device, who did it, and why. It outlives the device's identity.

:func:`write_log` works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, insert, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.schemas import DeviceLogEntry
from wheeltapper_fleet.devices.tables import device_log
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["Entry", "list_log", "write_log"]

_DETAIL_CHARACTERS: Final = 500


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    Args:
        device: to which device.
        event: what, in one word: an action of :mod:`wheeltapper_fleet.devices.rules`, ``tags`` or ``forget``.
        state: its state afterwards; empty where there is none.
        detail: what exactly.
        why: the reason that was given.
    """

    device: str
    event: str
    state: str = ""
    detail: str = ""
    why: str = ""


def write_log(connection: Connection, entries: Iterable[Entry], who: str, now: float) -> None:
    """Write down what ``who`` did at ``now`` (Unix seconds). One statement."""
    rows = [
        {
            "device": each.device,
            "at": now,
            "who": who[:128],
            "event": each.event,
            "state": each.state,
            "detail": each.detail[:_DETAIL_CHARACTERS],
            "why": each.why[:_DETAIL_CHARACTERS],
        }
        for each in entries
    ]
    if rows:
        connection.execute(insert(device_log), rows)


def list_log(engine: Engine, device: str, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[DeviceLogEntry]:
    """A page of what happened to ``device``, newest first. A device that never was has an empty one.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    with reading(engine) as connection:
        query = select(device_log).where(device_log.c.device == device)
        rows, following = page_of(connection, query, (device_log.c.id,), limit=limit, after=after, descending=True)
    return Page([DeviceLogEntry.model_validate(row, from_attributes=True) for row in rows], following)
