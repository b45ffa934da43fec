"""What a token that is limited to some devices may see and change: the one place where its reads are narrowed.

A scope is a query (:mod:`wheeltapper_fleet.ground.query`); empty: no limit. Devices are narrowed by the query itself
(:func:`narrowed`), what belongs to devices by :func:`in_scope`, a single one by :func:`check_scope`.

Invariants:
    * A device outside is answered as one that is not there.
    * A device stays within: a change of tags that would take it out, or an enrolment outside, is refused, so that
      nobody gives away what is not theirs, or takes what is.

Cost: a lookup by key for each row that is looked at; a list looks at a bounded number of them
(:mod:`wheeltapper_fleet.db.paging`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import ColumnElement, Connection, exists, func, select

from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse

__all__ = ["check_kept", "check_scope", "in_scope", "narrowed", "within_scope"]


def narrowed(q: str, scope: str) -> str:
    """The query for what both ``q`` and ``scope`` mean.

    Raises:
        FleetError: ``query.invalid``: of ``q``, with the column in it.
    """
    if not scope:
        return q
    return scope if parse(q).everything else f"({scope}) and ({q})"


def in_scope(scope: str, device: ColumnElement[str], now: float) -> ColumnElement[bool] | None:
    """The condition that the device which a column names is in ``scope`` at ``now`` (Unix seconds); None: no limit."""
    if not scope:
        return None
    return exists().where(devices.c.id == device, where(parse(scope), now))


def within_scope(connection: Connection, names: Iterable[str], scope: str, now: float) -> set[str]:
    """Those of the devices ``names`` that are in ``scope``; some thousands at most."""
    wanted = sorted(set(names))
    if not scope:
        return set(wanted)
    query = select(devices.c.id).where(devices.c.id.in_(wanted), where(parse(scope), now))
    return set(connection.execute(query).scalars())


def check_scope(connection: Connection, device: str | None, scope: str, now: float) -> None:
    """Refuse a device outside of ``scope`` as one that is not there; so is None, where a limit is.

    Raises:
        FleetError: ``device.not_found``.
    """
    if scope and (device is None or not within_scope(connection, [device], scope, now)):
        raise FleetError("device.not_found", f"there is no device {(device or '')[:80]!r} among yours", 404)


def check_kept(connection: Connection, names: Collection[str], scope: str, now: float) -> None:
    """Refuse what would take one of the devices ``names`` out of ``scope``; called when it is written, before the
    commit. Some thousands at most.

    Raises:
        FleetError: ``api.out_of_scope``.
    """
    if not scope or not names:
        return
    query = select(func.count()).select_from(devices).where(devices.c.id.in_(names), where(parse(scope), now))
    if connection.execute(query).scalar_one() != len(set(names)):
        message = "a device would not be one of yours: your token is limited to some, and its tags must say so"
        raise FleetError("api.out_of_scope", message, 403)
