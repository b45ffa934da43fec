"""Devices that enter the audience of a continuous campaign later join it. In the caller's transaction.

Who enters is found from what happens: the log of devices (:mod:`wheeltapper_fleet.devices.log`) has a line for each
enrolment, each change of tags and of state. The engine follows it in slices, from where a cursor stands.

Invariants:
    * A device is in a campaign once. One that leaves the audience stays in the campaign.
    * Nothing joins a campaign that has ended or was closed meanwhile.
    * Where nothing happened to devices nothing is evaluated; where something did, the devices concerned are.

A line is followed :data:`LAG_SECONDS` after its time, since on PostgreSQL a row with a lower id may be committed later
than one with a higher id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.moves import new_execution_id
from wheeltapper_fleet.campaigns.rules.execution import Execution
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.store import BEING_CREATED
from wheeltapper_fleet.campaigns.tables import campaign_cursors, campaigns, executions
from wheeltapper_fleet.campaigns.tallies import add_moves
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.devices.audience import in_audience
from wheeltapper_fleet.devices.tables import device_log
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["LAG_SECONDS", "join", "next_changes", "who_joins"]

LAG_SECONDS: Final = 5.0
_NAME: Final = "device_log"
_TAKES: Final = ("DRAFT", "AWAITING_APPROVAL", "SCHEDULED", "RUNNING", "PAUSED")


def next_changes(connection: Connection, now: float, most: int) -> tuple[list[str], int]:
    """The devices of the next ``most`` lines of their log, and the last line; 0 if there is none, or if devices wait
    until a continuous campaign has been written whole.
    """
    being_created = campaigns.c.version == BEING_CREATED, campaigns.c.continuous.is_(True)
    if connection.execute(select(campaigns.c.id).where(*being_created).limit(1)).first() is not None:
        return [], 0
    after = connection.execute(
        select(campaign_cursors.c.after).where(campaign_cursors.c.name == _NAME)
    ).scalar_one_or_none()
    lines = connection.execute(
        select(device_log.c.id, device_log.c.device, device_log.c.at)
        .where(device_log.c.id > (after or 0))
        .order_by(device_log.c.id)
        .limit(most)
    ).all()
    ripe = [line for line in lines if line.at <= now - LAG_SECONDS]
    return list(dict.fromkeys(line.device for line in ripe)), max((line.id for line in ripe), default=0)


def who_joins(connection: Connection, devices: Sequence[str], now: float) -> list[Execution]:
    """New executions of ``devices`` in the continuous campaigns whose audience they are in.

    Cost: a query for each device and continuous campaign.
    """
    query = select(campaigns.c.id, campaigns.c.spec, campaigns.c.waves)
    open_ones = query.where(campaigns.c.continuous.is_(True), campaigns.c.state.in_(_TAKES))
    found = []
    for row in connection.execute(open_ones.order_by(campaigns.c.created_at)).all() if devices else ():
        try:
            audience = read_spec(row.spec).audience
        except (FleetError, TypeError, ValueError):
            continue  # the engine names a campaign that cannot be read
        wave = max(len(row.waves) - 1, 0)
        found += [
            Execution(new_execution_id(), device, wave, campaign=row.id)
            for device in devices
            if in_audience(connection, device, audience.devices, audience.tags, audience.query, now)
        ]
    return found


def join(connection: Connection, joining: Sequence[Execution], last_line: int, now: float) -> None:
    """Store executions of devices that are not in their campaign yet, and that the log was followed so far."""
    names = _still_open(connection, {each.campaign for each in joining})
    joining = [each for each in joining if each.campaign in names]
    devices = {each.device for each in joining}
    query = select(executions.c.campaign, executions.c.device).where(
        executions.c.campaign.in_(names), executions.c.device.in_(devices)
    )
    there = {(row.campaign, row.device) for row in connection.execute(query)} if joining else set()
    fresh = [each for each in joining if (each.campaign, each.device) not in there]
    if fresh:
        connection.execute(executions.insert(), [{**asdict(each), "updated_at": now} for each in fresh])
        add_moves(connection, [(None, each) for each in fresh])
    statement = upsert_statement(connection, campaign_cursors).values(name=_NAME, after=last_line)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"after": last_line}))


def _still_open(connection: Connection, names: Collection[str | None]) -> set[str]:
    """Those of the campaigns that devices may join now; none of them ends before this transaction does."""
    if not names:
        return set()
    query = select(campaigns.c.id).where(
        campaigns.c.id.in_(names), campaigns.c.continuous.is_(True), campaigns.c.state.in_(_TAKES)
    )
    return set(connection.execute(query.with_for_update()).scalars())
