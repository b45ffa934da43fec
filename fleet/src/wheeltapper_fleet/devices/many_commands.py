"""Asks every device that a query means for something: all of them in one transaction, or none.

Cost: one count over the devices that match; a row for each device that is asked, :data:`MOST_ASKED` at most. Each is
repeated until it is answered or over, so a larger fleet is asked part by part.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from sqlalchemy import Engine, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.commands import DEFAULT_EXPIRY_SECONDS, read_command
from wheeltapper_fleet.devices.rules import CONNECTING
from wheeltapper_fleet.devices.schemas import BulkView
from wheeltapper_fleet.devices.scope import narrowed
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import commands, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse

__all__ = ["MOST_ASKED", "ask_many"]

MOST_ASKED: Final = 10_000
_SLICE: Final = 1_000


def ask_many(
    engine: Engine,
    query: str,
    body: dict[str, Any],
    *,
    who: str,
    now: float,
    expires_seconds: float = DEFAULT_EXPIRY_SECONDS,
    expected: int | None = None,
    dry: bool = False,
    scope: str = "",
) -> BulkView:
    """Ask every device that ``query`` means to do what ``body`` says; one that may not connect is only counted.

    Args:
        engine: the fleet's database.
        query: in the language of :mod:`wheeltapper_fleet.ground.query`; an empty one is refused.
        body: as for :func:`wheeltapper_fleet.devices.commands.create_command`.
        who: the person.
        now: Unix seconds.
        expires_seconds: each command is over after so long.
        expected: how many devices are meant; another number is refused before anything is asked.
        dry: only count.
        scope: the devices that the caller is limited to; empty: all.

    Raises:
        FleetError: ``query.invalid``, ``query.everything``, ``command.invalid``, ``command.too_many``,
            ``device.bulk_count``.
    """
    asked = read_command(body, expires_seconds)
    if parse(query).everything:
        raise FleetError("query.everything", "an empty query means every device: say which, or 'has id'", 422)
    meant = where(parse(narrowed(query, scope)), now)
    with engine.begin() if not dry else reading(engine) as connection:
        counted = connection.execute(select(devices.c.state, func.count()).where(meant).group_by(devices.c.state)).all()
        matched = sum(count for _, count in counted)
        changed = sum(count for state, count in counted if state in CONNECTING)
        if expected is not None and matched != expected:
            raise FleetError("device.bulk_count", f"{matched} devices match, not {expected}: look at them again", 409)
        if changed > MOST_ASKED:
            message = f"{changed} devices match, and {MOST_ASKED} are asked at once at most: name fewer"
            raise FleetError("command.too_many", message, 422)
        if not dry:
            of_them = select(devices.c.id).where(meant, devices.c.state.in_(sorted(CONNECTING)))
            names = connection.execute(of_them.order_by(devices.c.id)).scalars().all()
            same = {"body": asked, "who": who[:128], "created_at": now, "expires_at": now + expires_seconds}
            for at in range(0, len(names), _SLICE):
                rows = [
                    {"id": f"cmd-{secrets.token_hex(8)}", "device": name, **same} for name in names[at : at + _SLICE]
                ]
                connection.execute(commands.insert(), rows)
            changed = len(names)
    refused = {"command.state": matched - changed} if matched > changed else {}
    return BulkView(matched=matched, changed=changed, refused=refused)
