"""Devices that are expected: their rows before they come, and how a row becomes that of an active device.

In the caller's transaction. What this module does not do: tokens and certificates (:mod:`enrolment`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, insert, select, update

from wheeltapper_fleet.devices.issued import record_issued
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.notices import clear_notices
from wheeltapper_fleet.devices.reported import clear_reported
from wheeltapper_fleet.devices.rules import Action, DeviceState, may_enrol
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.devices.tags import changed_tags, check_tags, write_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import DeviceCertificate
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["ExpectedDevice", "admit_device", "expect_devices", "expected_states", "wrong_rows"]

_SLICE: Final = 1_000


@dataclass(frozen=True)
class ExpectedDevice:
    """A device that is to come.

    Args:
        device: its id.
        tags: what it will be tagged with.
        row: where it stands in a file, for messages; 0: nowhere.
    """

    device: str
    tags: Mapping[str, str] = field(default_factory=dict)
    row: int = 0


def expected_states(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """The states of those of ``names`` that are known."""
    found: dict[str, str] = {}
    for begin in range(0, len(names), _SLICE):
        query = select(devices.c.id, devices.c.state).where(devices.c.id.in_(names[begin : begin + _SLICE]))
        found |= {row.id: row.state for row in connection.execute(query.with_for_update())}
    return found


def wrong_rows(expected: Sequence[ExpectedDevice], known: Mapping[str, str]) -> list[str]:
    """What is wrong with rows, one sentence each: an id that is none, twice the same, a tag, a device that is there."""
    return list(_wrong(expected, known))


def _wrong(expected: Sequence[ExpectedDevice], known: Mapping[str, str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, each in enumerate(expected, 1):
        where = f"line {each.row}" if each.row else f"device {number}"
        try:
            device_id(each.device)
            check_tags(each.tags)
            changed_tags({}, each.tags, each.device)
        except (WireError, FleetError) as error:
            yield f"{where}: {error.message}"
            continue
        if each.device in seen:
            yield f"{where}: {each.device} is there twice, first as {seen[each.device]}"
        elif not may_enrol(known.get(each.device, DeviceState.PENDING)):
            yield f"{where}: {each.device} is {known[each.device]} already"
        seen.setdefault(each.device, each.row or number)


def expect_devices(
    connection: Connection,
    tags_of: Mapping[str, Mapping[str, str] | None],
    known: Mapping[str, str],
    *,
    who: str,
    now: float,
) -> None:
    """Make devices pending; those that are not ``known`` yet get a row.

    A device whose tags are None keeps those that it has.
    """
    names = list(tags_of)
    for begin in range(0, len(names), _SLICE):
        some = names[begin : begin + _SLICE]
        new = [
            {"id": device, "tags": {}, "state": DeviceState.PENDING.value, "online": False, "counter": 0}
            for device in some
            if device not in known
        ]
        if new:
            connection.execute(insert(devices), new)
        back = [device for device in some if known.get(device, DeviceState.PENDING) != DeviceState.PENDING]
        if back:
            connection.execute(
                update(devices).where(devices.c.id.in_(back)).values(state=DeviceState.PENDING.value, online=False)
            )
        given = {device: tags for device in some if (tags := tags_of[device]) is not None}
        write_tags(connection, given)
        entries = [Entry(device, Action.EXPECT.value, DeviceState.PENDING.value) for device in some]
        write_log(connection, entries, who, now)


def admit_device(
    connection: Connection, device: str, tags: Mapping[str, str], certificate: DeviceCertificate, now: float
) -> None:
    """Make ``device`` active with ``certificate``. A pending one keeps the tags that it has meanwhile; one without a
    row (forgotten since the token was made) gets those of its token.

    Raises:
        IntegrityError: it is active already.
    """
    values = {
        "state": DeviceState.ACTIVE.value,
        "enrolled_at": now,
        "certificate_sha256": certificate.sha256,
        "certificate_expires_at": certificate.expires_at,
        "next_certificate_sha256": None,
        "next_certificate_expires_at": None,
        "online": False,
        "last_seen_at": None,
        "status": None,
        "counter": 0,
        "instances": None,
    }
    pending = (devices.c.id == device, devices.c.state == DeviceState.PENDING.value)
    if connection.execute(update(devices).where(*pending).values(values)).rowcount == 1:
        clear_reported(connection, device)
        clear_notices(connection, device)
    else:
        connection.execute(insert(devices).values(id=device, tags={}, **values))
        write_tags(connection, {device: tags})
    record_issued(connection, device, certificate, now)
    write_log(connection, [Entry(device, Action.ENROL.value, DeviceState.ACTIVE.value)], device, now)
