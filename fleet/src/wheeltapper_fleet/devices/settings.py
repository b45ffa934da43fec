"""The twin of a device: which settings the fleet wants, field by field, and which the device says are in force.

Invariants:
    * Each change has a version higher than any before it, also than the device's own. A device keeps the highest.
    * A device that reports another version is told again in answer to its status, so one that was offline, or that lost
      its file, has the newest settings with its next status.
    * A field that is not desired is as the device's own configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, select, update

from wheeltapper_fleet.db.engine import reading, upsert_statement
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.schemas import CaptureShareView, DesiredSetting, SettingsView
from wheeltapper_fleet.devices.tables import device_settings, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import check_etag
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.commands import Command, Settings, SettingsCommand
from wheeltapper_protocols.wire.messages import CaptureShare
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["SETTINGS", "change_settings", "get_settings", "settings_for"]

SETTINGS: Final = Settings.__struct_fields__
"""The fields that can be set."""
_TERM_SECONDS: Final = 3600.0
"""How long a message with settings is good for; the next status brings another one."""


def change_settings(
    engine: Engine,
    device: str,
    change: Mapping[str, Any],
    *,
    who: str,
    why: str,
    now: float,
    if_match: str | None = None,
) -> SettingsView:
    """Want other values of some settings of ``device``; None: what its configuration says. The others stay.

    Raises:
        FleetError: ``device.not_found``, ``setting.invalid``; ``setting.conflict``: they are not at the version that
            ``if_match`` says any more (:mod:`wheeltapper_fleet.ground.etag`).
    """
    if unknown := sorted(set(change) - set(SETTINGS)):
        message = f"there is no setting {unknown[0][:40]!r}; there are {', '.join(SETTINGS)}"
        raise FleetError("setting.invalid", message, 422)
    try:
        msgspec.convert({name: value for name, value in change.items() if value is not None}, Settings)
    except msgspec.ValidationError as error:
        raise FleetError("setting.invalid", f"the setting is refused: {error}", 422) from error
    with engine.begin() as connection:
        found = select(devices.c.state, devices.c.status).where(devices.c.id == device).with_for_update()
        known = connection.execute(found).first()
        if known is None:
            raise FleetError("device.not_found", f"there is no device {device[:80]!r}")
        row = connection.execute(select(device_settings).where(device_settings.c.device == device)).first()
        check_etag(if_match, str(row.version if row is not None else 0), "setting.conflict", f"{device}'s settings")
        version = 1 + max(row.version if row is not None else 0, _reported_version(known.status))
        desired = dict(row.desired) if row is not None and isinstance(row.desired, dict) else {}
        for name, value in change.items():
            desired[name] = {"value": value, "at": now, "version": version}
        values = {"device": device, "version": version, "desired": desired, "changed_at": now}
        statement = upsert_statement(connection, device_settings).values(values)
        connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))
        detail = " ".join(f"-{name}" if value is None else f"{name}={value}" for name, value in change.items())
        write_log(connection, [Entry(device, "settings", known.state, detail, why)], who, now)
    return get_settings(engine, device)


def get_settings(engine: Engine, device: str) -> SettingsView:
    """What is wanted of a device, what it says is in force, and what differs.

    Raises:
        FleetError: ``device.not_found``.
    """
    with reading(engine) as connection:
        known = connection.execute(select(devices.c.status).where(devices.c.id == device)).first()
        row = connection.execute(select(device_settings).where(device_settings.c.device == device)).first()
    if known is None:
        raise FleetError("device.not_found", f"there is no device {device[:80]!r}")
    status: dict[str, Any] = known.status if isinstance(known.status, dict) else {}
    wanted: dict[str, Any] = row.desired if row is not None and isinstance(row.desired, dict) else {}
    reported: dict[str, Any] = status.get("settings") or {}
    in_force = {name: reported.get(name) for name in SETTINGS}
    desired = {name: DesiredSetting(**each) for name, each in wanted.items() if name in SETTINGS}
    version, reported_version = (row.version if row is not None else 0), _reported_version(status)
    return SettingsView(
        version=version,
        reported_version=reported_version,
        reported_at=row.reported_at if row is not None else None,
        desired=desired,
        reported=in_force,
        delta=[name for name, each in desired.items() if each.value != in_force[name]],
        captures=_captures(status),
    )


def _captures(status: Mapping[str, Any]) -> CaptureShareView | None:
    """The day's share of recordings in a stored status; None where it says none that can be read."""
    said = status.get("captures")
    try:
        found = msgspec.convert(said, CaptureShare) if said is not None else None
    except msgspec.ValidationError:
        return None
    if found is None:
        return None
    at = status.get("at")
    return CaptureShareView(
        sent_bytes=found.sent_bytes,
        limit_bytes=found.limit_bytes,
        waiting=found.waiting,
        at=float(at) if isinstance(at, int | float) else 0.0,
    )


def settings_for(connection: Connection, versions: Mapping[str, int], now: float) -> list[Publication]:
    """What devices are told in answer to their status: the settings that they lack. In the caller's transaction.

    Cost: one look at an index, for all of them.

    Args:
        connection: within the caller's transaction.
        versions: by device, the version of the settings that it says it has.
        now: Unix seconds.
    """
    found = []
    query = select(device_settings).where(device_settings.c.device.in_(versions)).order_by(device_settings.c.device)
    for row in connection.execute(query).all():
        reported = versions[row.device]
        if reported < row.version:
            body = SettingsCommand(version=row.version, settings=_wanted(row))
            command = Command(id=f"settings-{row.version}", expires_at=now + _TERM_SECONDS, body=body)
            found.append(Publication(down_topic(row.device, Down.COMMAND), encode(command)))
        elif row.reported_version != reported:
            this = device_settings.c.device == row.device
            connection.execute(update(device_settings).where(this).values(reported_version=reported, reported_at=now))
    return found


def _wanted(row: Row[Any]) -> Settings:
    """The desired settings of a row; a field that this version cannot read is left out."""
    desired: dict[str, Any] = row.desired if isinstance(row.desired, dict) else {}
    found = Settings()
    for name, each in desired.items():
        value = each.get("value") if isinstance(each, dict) else None
        try:
            given = msgspec.convert({name: value} if name in SETTINGS and value is not None else {}, Settings)
        except msgspec.ValidationError:
            continue
        if name in SETTINGS:
            found = msgspec.structs.replace(found, **{name: getattr(given, name)})
    return found


def _reported_version(status: Any) -> int:
    version = status.get("settings_version") if isinstance(status, dict) else None
    return version if isinstance(version, int) else 0
