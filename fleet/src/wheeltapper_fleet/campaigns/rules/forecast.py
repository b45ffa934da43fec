"""What a campaign would do if it began now: for each device what would come of it and why, for each wave when. Pure.

Invariants:
    * A device is judged by the rule by which its assignment would be composed
      (:func:`wheeltapper_fleet.campaigns.rules.meeting.decide`), with a campaign that is newer than all others.
    * Each device has exactly one outcome: the first of :class:`Outcome` that applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wheeltapper_fleet.campaigns.rules.default_release import Shown
from wheeltapper_fleet.campaigns.rules.meeting import Claim, Standing, decide
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec, Rate

__all__ = ["Known", "Outcome", "Prospect", "WaveTimes", "foretell", "timetable"]


class Outcome(StrEnum):
    """What would come of a device. The first three get nothing, the next two only later."""

    PIPELINE_MISSING = "pipeline_missing"
    """It has said which pipelines it has, and lacks one that is asked for: it would fail."""
    HELD = "held"
    """Another campaign keeps it."""
    RUNS_ALREADY = "runs_already"
    """It runs the release on every pipeline that is asked for: nothing would change on it."""
    SILENT = "silent"
    """It has not said yet which pipelines it has, and is told when it does."""
    OFFLINE = "offline"
    """It is told when it comes back, before its deadline."""
    GETS = "gets"
    """It is online and would be told at once when its wave opens."""


@dataclass(frozen=True)
class Known:
    """A device as it is known: ``shown`` is what each pipeline runs; None where it has sent no status message.

    ``names`` are those of the campaigns by the ids of ``claims``' origins: what a sentence calls them.
    """

    shown: Mapping[str, Shown] | None
    online: bool
    seen_at: float | None
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Prospect:
    """What would come of one device: the outcome, a sentence, and the campaigns that it would be taken from.

    ``offline_since`` is Unix seconds; None where it is online or has never been.
    """

    outcome: Outcome
    sentence: str
    takes_from: tuple[str, ...] = ()
    offline_since: float | None = None


@dataclass(frozen=True)
class WaveTimes:
    """When a wave opens and is over, at the earliest and the latest (Unix seconds).

    The latest counts on nobody's pausing the campaign.
    """

    opens_earliest: float
    opens_latest: float
    ends_earliest: float
    ends_latest: float


def foretell(spec: CampaignSpec, device: Known, now: float) -> Prospect:
    """What would come of ``device`` in a campaign of ``spec`` that is made at ``now`` (Unix seconds)."""
    wanted = tuple(device.shown or ()) if spec.pipelines == (ALL_PIPELINES,) else spec.pipelines
    if device.shown is not None:
        lacking = [name for name in wanted if name not in device.shown]
        if not wanted or lacking:
            what = f"pipeline {lacking[0]!r}" if lacking else "pipeline at all"
            return Prospect(Outcome.PIPELINE_MISSING, f"it has no {what}: it would fail")
    newest = max((claim.since for claim in device.claims), default=0.0)
    mine = Claim("", "", wanted, Standing.ORDERED, priority=spec.priority, since=max(now, newest + 1.0))
    decision = decide([*device.claims, mine])
    if (winner := decision.superseded.get("")) is not None:
        return Prospect(Outcome.HELD, f"campaign {winner} keeps it: its priority is higher than {spec.priority}")
    before = decide(device.claims).superseded
    by_id = {claim.execution: claim for claim in device.claims}
    lost = {by_id[execution].origin for execution in decision.superseded if execution not in before}
    takes_from = tuple(sorted(lost))
    release = (spec.model, spec.release)
    if device.shown is not None and all(device.shown[name] == release for name in wanted):
        return Prospect(Outcome.RUNS_ALREADY, f"it runs {spec.model} release {spec.release} already", takes_from)
    beaten = f", and is taken from {', '.join(takes_from)}" if takes_from else ""
    if device.shown is None:
        sentence = f"it has not said yet which pipelines it has{beaten}"
        return Prospect(Outcome.SILENT, sentence, takes_from, device.seen_at)
    if not device.online:
        return Prospect(Outcome.OFFLINE, f"it is told when it comes back{beaten}", takes_from, device.seen_at)
    return Prospect(Outcome.GETS, f"it is told when its wave opens{beaten}", takes_from)


def timetable(
    spec: CampaignSpec, sizes: Sequence[int], start: float, told_from: Callable[[float], float] = lambda at: at
) -> list[WaveTimes]:
    """When each wave opens and is over, if the campaign runs from ``start`` (Unix seconds) on.

    At the earliest every device commits at once, so that a growing rate grows, and only the soak time passes. At the
    latest the devices of each wave are told at the rate that it begins with and take all the time until their deadline,
    and its gates all the time that they may wait for data. A window that closes while a wave is told is not counted.

    Args:
        spec: a spec that was read.
        sizes: devices of each wave.
        start: Unix seconds.
        told_from: the first time from a given one on at which devices may be told (both Unix seconds).
    """
    opens_earliest = opens_latest = max(start, spec.start_at)
    waits = spec.gate_wait_seconds if spec.gates else 0.0
    times = []
    for wave, size in zip(spec.waves, sizes, strict=True):
        told_earliest = told_from(opens_earliest) + _telling_seconds(wave.rate, size, grows=True)
        told_latest = told_from(opens_latest) + _telling_seconds(wave.rate, size, grows=False)
        ends_earliest = told_earliest + spec.soak_seconds
        ends_latest = told_latest + spec.execution_deadline_seconds + spec.soak_seconds + waits
        times.append(WaveTimes(opens_earliest, opens_latest, ends_earliest, ends_latest))
        opens_earliest, opens_latest = ends_earliest, ends_latest
    return times


def _telling_seconds(rate: Rate | None, size: int, *, grows: bool) -> float:
    """How long it takes to tell ``size`` devices, the first one at once."""
    if rate is None:
        return 0.0
    left, told, seconds = max(size - 1, 0), 0, 0.0
    while left:
        now = rate.at(told if grows else 0)
        fastest = not grows or rate.every_successes is None or now >= (rate.maximum_per_minute or 0.0)
        count = left if fastest or rate.every_successes is None else min(left, rate.every_successes)
        seconds += 60.0 * count / now
        left, told = left - count, told + count
    return seconds
