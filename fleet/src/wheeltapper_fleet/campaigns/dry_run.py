"""A dry run of a campaign: who would get what, when, and who not and why. Nothing is stored.

It refuses what creating the campaign would refuse, with the same codes.

Cost: the audience is read once for the first page, in slices of :data:`SLICE` devices; a page after it reads its own
devices, and with a filter as many as it takes to fill it. 100,000 devices take some 5 s of a processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from wheeltapper_fleet.campaigns.audience import audience_of
from wheeltapper_fleet.campaigns.claims import DeviceFacts, executions_of_devices, facts_of_devices
from wheeltapper_fleet.campaigns.creation import check_releases
from wheeltapper_fleet.campaigns.rules.forecast import Known, Outcome, Prospect, foretell, timetable
from wheeltapper_fleet.campaigns.rules.foresight import foresee
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec, plan_waves, read_spec
from wheeltapper_fleet.campaigns.schemas import CampaignPlan, PlannedDevice, PlannedWave
from wheeltapper_fleet.campaigns.windows import check_time_zone, closed_until
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import device_tags, devices
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, read_cursor, write_cursor
from wheeltapper_fleet.ground.query import parse

__all__ = ["SLICE", "plan_campaign"]

SLICE: Final = 500


def plan_campaign(
    engine: Engine,
    spec: Mapping[str, Any],
    *,
    now: float,
    outcome: Outcome | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
) -> CampaignPlan:
    """What a campaign of ``spec`` would do if it were made and started at ``now`` (Unix seconds).

    Args:
        engine: the fleet's database.
        spec: as for :func:`wheeltapper_fleet.campaigns.creation.create_campaign`.
        now: Unix seconds.
        outcome: list only devices with this outcome; None: all of them.
        limit: devices of the page.
        after: cursor of the page before. Counts and warnings are on the first page only.

    Raises:
        FleetError: as ``create_campaign``; ``cursor.invalid``.
    """
    checked = read_spec(spec)
    check_time_zone(checked)
    begin = 0 if after is None else int(read_cursor(after, int)[0])
    with reading(engine) as connection:
        check_releases(connection, checked)
        waves = plan_waves(checked, audience_of(connection, checked.audience, now))
        places = [(device, number) for number, wave in enumerate(waves, 1) for device in wave]
        items: list[PlannedDevice] = []
        next_: str | None = None
        for index, (place, _, prospect) in enumerate(_prospects(connection, checked, places[max(begin, 0) :], now)):
            if outcome in (None, prospect.outcome):
                if len(items) == limit:
                    next_ = write_cursor(max(begin, 0) + index)
                    break
                items.append(_planned(place, prospect))
        times = timetable(checked, [len(wave) for wave in waves], now, lambda at: max(at, closed_until(checked, at)))
        plan = CampaignPlan(
            model=checked.model,
            release=checked.release,
            devices=len(places),
            waves=[
                PlannedWave(number=number, devices=len(wave), **vars(times))
                for number, (wave, times) in enumerate(zip(waves, times, strict=True), 1)
            ],
            needs_approval=checked.needs_approval,
            items=items,
            next=next_,
        )
        return plan if after is not None else _with_counts(connection, plan, checked, waves, places, now)


def _with_counts(
    connection: Connection,
    plan: CampaignPlan,
    spec: CampaignSpec,
    waves: Sequence[Sequence[str]],
    places: Sequence[tuple[str, int]],
    now: float,
) -> CampaignPlan:
    """The plan with the whole audience counted."""
    counts: Counter[str] = Counter()
    takes_from: Counter[str] = Counter()
    shown = {}
    for (device, _), known, prospect in _prospects(connection, spec, places, now):
        counts[prospect.outcome.value] += 1
        takes_from.update(prospect.takes_from)
        shown[device] = known.shown
    changed = {
        "outcomes": dict(counts),
        "takes_from": dict(takes_from),
        "outside": _outside(connection, spec, now),
        "warnings": foresee(spec, waves, shown),
    }
    return plan.model_copy(update=changed)


def _prospects(
    connection: Connection, spec: CampaignSpec, places: Sequence[tuple[str, int]], now: float
) -> Iterator[tuple[tuple[str, int], Known, Prospect]]:
    """What would come of the devices at ``places`` (device, wave), in this order, read a slice at a time."""
    for begin in range(0, len(places), SLICE):
        part = places[begin : begin + SLICE]
        facts = facts_of_devices(connection, [device for device, _ in part])
        claims = executions_of_devices(connection, facts)
        for device, wave in part:
            known = _known(facts[device], [each.claim for each in claims[device]])
            yield (device, wave), known, foretell(spec, known, now)


def _known(facts: DeviceFacts, claims: list[Any]) -> Known:
    silent = not facts.shown and not facts.shown_at
    return Known(None if silent else facts.shown, facts.online, facts.shown_at or None, claims)


def _planned(place: tuple[str, int], prospect: Prospect) -> PlannedDevice:
    device, wave = place
    return PlannedDevice(
        device=device,
        wave=wave,
        outcome=prospect.outcome.value,
        sentence=prospect.sentence,
        takes_from=list(prospect.takes_from),
        offline_since=prospect.offline_since,
    )


def _outside(connection: Connection, spec: CampaignSpec, now: float) -> dict[str, int]:
    """By state, how many devices match the audience and are not in it, because they are not active."""
    names, tags = spec.audience.devices, spec.audience.tags
    if names or spec.audience.committed_in:
        return {}  # one that is named and not active was refused
    has = [
        devices.c.id.in_(select(device_tags.c.device).where(device_tags.c.name == name, device_tags.c.value == value))
        for name, value in sorted(tags.items())
    ]
    asked = where(parse(spec.audience.query), now)
    counted = select(devices.c.state, func.count()).where(devices.c.state != DeviceState.ACTIVE.value, asked, *has)
    return {state: int(n) for state, n in connection.execute(counted.group_by(devices.c.state))}
