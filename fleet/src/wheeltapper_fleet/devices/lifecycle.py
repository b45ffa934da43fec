"""The life of devices moves: what each action changes besides the state. In the caller's transaction.

Invariant: every move is one of :mod:`wheeltapper_fleet.devices.rules` and stands in the device's log, with who and why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine, delete, select, update

from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.notices import clear_notices
from wheeltapper_fleet.devices.reported import clear_reported
from wheeltapper_fleet.devices.rules import Action, DeviceState, after, device_etag
from wheeltapper_fleet.devices.tables import device_settings, devices, enrolment_tokens
from wheeltapper_fleet.devices.tags import write_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import check_etag

__all__ = ["forget_device", "move_device", "move_devices", "state_of"]


def state_of(connection: Connection, device: str, if_match: str | None = None) -> str:
    """The state of ``device``, locked until the transaction ends.

    Args:
        connection: within the caller's transaction.
        device: its id.
        if_match: what a change was decided on (:mod:`wheeltapper_fleet.ground.etag`); None: on nothing.

    Raises:
        FleetError: ``device.not_found``; ``device.conflict``: it is not as ``if_match`` says any more.
    """
    query = select(devices.c.state, devices.c.tags).where(devices.c.id == device).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        raise FleetError("device.not_found", f"there is no device {device[:80]!r}")
    check_etag(if_match, device_etag(row.state, row.tags), "device.conflict", device)
    return str(row.state)


def move_device(
    connection: Connection,
    device: str,
    action: Action,
    *,
    who: str,
    why: str,
    now: float,
    if_match: str | None = None,
) -> DeviceState:
    """Move one device; gives its state afterwards.

    Args:
        connection: within the caller's transaction.
        device: its id.
        action: what is done to it.
        who: the person, for the log.
        why: the reason, for the log.
        now: Unix seconds.
        if_match: what it was decided on.

    Raises:
        FleetError: ``device.not_found``, ``device.conflict``, ``device.transition``.
    """
    found = after(state_of(connection, device, if_match), action, device)
    move_devices(connection, {device: found}, action, who=who, why=why, now=now)
    return found


def move_devices(
    connection: Connection, moves: Mapping[str, DeviceState], action: Action, *, who: str, why: str, now: float
) -> None:
    """Move devices, each to the state that ``action`` leads to; some thousands at most. A few statements for all."""
    to: dict[DeviceState, list[str]] = defaultdict(list)
    for device, state in moves.items():
        to[state].append(device)
    for state, names in to.items():
        connection.execute(update(devices).where(devices.c.id.in_(names)).values(state=state.value))
    if action in (Action.REVOKE, Action.RETIRE):
        _void_tokens(connection, list(moves), now)
    entries = [Entry(device, action.value, state.value, why=why) for device, state in moves.items()]
    write_log(connection, entries, who, now)


def forget_device(engine: Engine, device: str, *, who: str, now: float, if_match: str | None = None) -> None:
    """Remove ``device``, so that its id can be enrolled again (for a board that lost its key).

    Its old certificate stays refused, since the database then knows none or another one. Its records and its log stay.

    Raises:
        FleetError: ``device.not_found``, ``device.conflict``.
    """
    with engine.begin() as connection:
        state_of(connection, device, if_match)
        clear_notices(connection, device)
        clear_reported(connection, device, forget=True)
        write_tags(connection, {device: {}})
        connection.execute(delete(device_settings).where(device_settings.c.device == device))
        connection.execute(delete(devices).where(devices.c.id == device))
        write_log(connection, [Entry(device, "forget")], who, now)


def _void_tokens(connection: Connection, names: Sequence[str], now: float) -> None:
    """Let the unused tokens of devices end now."""
    unused = (enrolment_tokens.c.used_at.is_(None), enrolment_tokens.c.expires_at > now)
    connection.execute(
        update(enrolment_tokens).where(enrolment_tokens.c.device.in_(names), *unused).values(expires_at=now)
    )
