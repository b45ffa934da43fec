"""The state machine of a campaign: ``step(campaign, tallies, event) -> (campaign, effects)``. Pure.

A campaign decides on counts (:class:`~wheeltapper_fleet.campaigns.rules.waves.Tallies`), never on a list of executions:
a step costs the same for ten devices and for a hundred thousand. What it wants of executions it says as a number of
them ("assign 400 pending ones of wave 2"); each execution is a machine of its own
(:mod:`wheeltapper_fleet.campaigns.rules.execution`).

Effects follow from the state, not from the event alone: until the counts show that an effect was carried out, each
step says it again. Whoever carries out a part of it, and dies, has lost nothing.

Invariants:
    * Only executions of the one wave that is RUNNING or SOAKING, or of waves before it, are ever assigned.
    * A wave passes only with enough successes, after its soak time, while no abort rule is broken and nothing holds
      it (``Tick.held``). A wave that can no longer have enough is FAILED and the campaign pauses. It cannot be resumed:
      that would go past a failed wave.
    * Every execution comes to exactly one terminal state: by report, refusal, deadline, cancellation or a newer
      campaign. Deadlines count in every state of the campaign.
    * An execution whose device went to another campaign changes places with the next pending one of a later wave. The
      wave keeps its size, so that it is judged by as many devices as planned. Where no later wave has one left, the
      wave is judged by the devices that it has; without any it is over, and nothing can be opened after it.

What devices are told follows from the states of all campaigns (:mod:`wheeltapper_fleet.campaigns.rules.meeting`): an
execution of an aborted campaign is withdrawn from its device, and a paused one hands out nothing that was not begun.

A campaign that rolls back is called off as an aborted one is, and the devices on which it committed, then or later, are
taken to another release by a campaign of their own.

Example::

    campaign, effects = step(campaign, tallies, Start())
    campaign, effects = step(campaign, tallies, Tick(now))  # effects: AssignPending(wave=0, count=10, deadline_at=...)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from wheeltapper_fleet.campaigns.rules.spec import AbortAction, CampaignSpec
from wheeltapper_fleet.campaigns.rules.waves import Tallies, Wave, WaveState, broken_rule
from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "Abort",
    "Approve",
    "AssignPending",
    "Campaign",
    "CampaignState",
    "CancelPending",
    "Complete",
    "Effect",
    "Event",
    "FillPlaces",
    "Log",
    "MakeDefault",
    "Pause",
    "Resume",
    "Start",
    "TakeBack",
    "Tick",
    "next_look",
    "step",
]


class CampaignState(StrEnum):
    """The state of a campaign. The last three are terminal."""

    DRAFT = "DRAFT"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"
    ROLLED_BACK = "ROLLED_BACK"


@dataclass(frozen=True)
class Campaign:
    """One campaign: its spec and state, and its waves in order. ``reason`` says why it is paused or called off;
    ``taken_back`` is the number of devices that were taken back. ``closed``: a person has said that no device joins it
    any more, though its audience is continuous."""

    id: str
    spec: CampaignSpec
    waves: tuple[Wave, ...]
    state: CampaignState = CampaignState.DRAFT
    reason: str = ""
    taken_back: int = 0
    closed: bool = False

    @property
    def joinable(self) -> bool:
        """Whether devices that enter its audience join it."""
        return self.spec.audience.continuous and not self.closed


@dataclass(frozen=True)
class Start:
    """A person starts the draft."""


@dataclass(frozen=True)
class Approve:
    """A person approves a campaign that waits for approval."""


@dataclass(frozen=True)
class Pause:
    """A person pauses the campaign: nothing more is assigned for now."""

    reason: str = "paused by a person"


@dataclass(frozen=True)
class Resume:
    """A person resumes a paused campaign."""


@dataclass(frozen=True)
class Complete:
    """A person says that no more devices join a continuous campaign: it completes when those that it has have ended."""


@dataclass(frozen=True)
class Abort:
    """A person ends the campaign: pending executions are cancelled, and those under way are withdrawn."""

    reason: str = "aborted by a person"


@dataclass(frozen=True)
class Tick:
    """Time has passed, or executions have moved.

    Args:
        now: Unix seconds.
        held: why the wave may not pass yet, although its counts and its soak time allow it; empty: nothing holds it.
        broken: what was measured of the wave that no wave may go on with; empty: nothing. It acts as a broken abort
            rule does.
        closed_until: until then no window of the specification is open, and nothing is handed out (Unix seconds); 0:
            one is open.
    """

    now: float
    held: str = ""
    broken: str = ""
    closed_until: float = 0.0


Event = Start | Approve | Pause | Resume | Complete | Abort | Tick


@dataclass(frozen=True)
class AssignPending:
    """Hand out ``count`` of the pending executions of a wave (from 0), in the order of their devices."""

    wave: int
    count: int
    deadline_at: float


@dataclass(frozen=True)
class FillPlaces:
    """``count`` superseded executions of a wave change places with pending ones of later waves, the next ones first."""

    wave: int
    count: int


@dataclass(frozen=True)
class CancelPending:
    """Cancel ``count`` executions that were not handed out: all that there are."""

    count: int


@dataclass(frozen=True)
class TakeBack:
    """Take the next ``count`` devices on which the campaign committed to ``release``; with ``before`` each to the one
    that it ran before."""

    release: int | Literal["before"]
    count: int


@dataclass(frozen=True)
class MakeDefault:
    """Make the campaign's release the default release of its audience."""


@dataclass(frozen=True)
class Log:
    """A line for the campaign's log."""

    event: str
    detail: str = ""


Effect = AssignPending | FillPlaces | CancelPending | MakeDefault | TakeBack | Log
"""What must be done because of a step. Log lines, a default release and what is taken back belong into the transaction
that stores the campaign; the effects on executions may be carried out in parts, in later ones."""
StepResult = tuple[Campaign, tuple[Effect, ...]]
_S: Final = CampaignState  # short, so that the table below stays aligned
_TAKEN_AT_ONCE: Final = 250
"""Devices that one step takes back: as many as one transaction makes executions of."""
_BURST_SECONDS: Final = 5.0
_OPENED: Final = frozenset({WaveState.RUNNING, WaveState.SOAKING, WaveState.PASSED})


def step(campaign: Campaign, tallies: Tallies, event: Event) -> StepResult:
    """The campaign after ``event``, and what must be done about it.

    Args:
        campaign: as it is stored.
        tallies: the counts of its executions.
        event: what has happened.

    Raises:
        FleetError: ``campaign.illegal``: the event is a person's and makes no sense in this state;
            ``campaign.wave_failed``: resuming would go past a failed wave.
    """
    if isinstance(event, Tick):
        return _tick(campaign, tallies, event)
    action = _TABLE.get((campaign.state, type(event)))
    if action is None:
        name = type(event).__name__.lower()
        raise FleetError("campaign.illegal", f"{name} is not possible: the campaign is {campaign.state}", 409)
    return action(campaign, tallies, event)


def next_look(campaign: Campaign, tallies: Tallies, closed_until: float = 0.0) -> float | None:
    """When a tick may move the campaign on though nothing has happened to it (Unix seconds); None: never.

    It is asked after the steps have come to rest. ``closed_until`` is that of the last tick.
    """
    if campaign.state is _S.SCHEDULED:
        return campaign.spec.start_at
    if campaign.state is not _S.RUNNING:
        return None
    looks = [wave.since + campaign.spec.soak_seconds for wave in campaign.waves if wave.state is WaveState.SOAKING]
    for index, rate in _opened_rates(campaign, tallies):
        if tallies.pending(index):
            next_one = campaign.waves[index].handed_at + 60.0 / rate if rate else 0.0
            looks.append(max(next_one, closed_until))
    return min(looks, default=None)


def _start(campaign: Campaign, _tallies: Tallies, _event: Event) -> StepResult:
    state = _S.AWAITING_APPROVAL if campaign.spec.needs_approval else _S.SCHEDULED
    return replace(campaign, state=state), (Log("started"),)


def _approve(campaign: Campaign, _tallies: Tallies, _event: Event) -> StepResult:
    return replace(campaign, state=_S.SCHEDULED), (Log("approved"),)


def _pause(campaign: Campaign, _tallies: Tallies, event: Event) -> StepResult:
    assert isinstance(event, Pause)
    return replace(campaign, state=_S.PAUSED, reason=event.reason), (Log("paused", event.reason),)


def _resume(campaign: Campaign, _tallies: Tallies, _event: Event) -> StepResult:
    if any(wave.state is WaveState.FAILED for wave in campaign.waves):
        raise FleetError("campaign.wave_failed", "a wave has failed: abort the campaign and make a new one", 409)
    return replace(campaign, state=_S.RUNNING, reason=""), (Log("resumed"),)


def _complete(campaign: Campaign, tallies: Tallies, _event: Event) -> StepResult:
    if not campaign.joinable:
        message = "no device can join it: it completes by itself when its executions have ended"
        raise FleetError("campaign.illegal", f"complete is not possible: {message}", 409)
    closed = replace(campaign, closed=True)
    log = Log("closed", "no device joins any more; it completes when those that it has have ended")
    if tallies.unfinished or any(wave.state is not WaveState.PASSED for wave in campaign.waves):
        return closed, (log,)
    ended, effects = _end_well(closed)
    return ended, (log, *effects)


def _abort(campaign: Campaign, tallies: Tallies, event: Event) -> StepResult:
    assert isinstance(event, Abort)
    ended = replace(campaign, state=_S.ABORTED, reason=event.reason)
    return ended, (Log("aborted", event.reason), *_cancel_pending(tallies))


_TABLE: Final[dict[tuple[CampaignState, type], Callable[[Campaign, Tallies, Event], StepResult]]] = {
    (_S.DRAFT,              Start):    _start,
    (_S.DRAFT,              Abort):    _abort,
    (_S.AWAITING_APPROVAL,  Approve):  _approve,
    (_S.AWAITING_APPROVAL,  Abort):    _abort,
    (_S.SCHEDULED,          Pause):    _pause,
    (_S.SCHEDULED,          Abort):    _abort,
    (_S.RUNNING,            Pause):    _pause,
    (_S.RUNNING,            Complete): _complete,
    (_S.RUNNING,            Abort):    _abort,
    (_S.PAUSED,             Resume):   _resume,
    (_S.PAUSED,             Complete): _complete,
    (_S.PAUSED,             Abort):    _abort,
}  # fmt: skip


def _tick(campaign: Campaign, tallies: Tallies, tick: Tick) -> StepResult:
    effects: list[Effect] = []
    if campaign.state is _S.ABORTED:
        return campaign, _cancel_pending(tallies)
    if campaign.state is _S.ROLLED_BACK:
        return _take_back(campaign, tallies)
    if campaign.state is _S.SCHEDULED and campaign.spec.start_at <= tick.now:
        campaign = replace(campaign, state=_S.RUNNING)
        effects.append(Log("running"))
    if campaign.state is not _S.RUNNING:
        return campaign, tuple(effects)
    current = next((i for i, wave in enumerate(campaign.waves) if wave.state is not WaveState.PASSED), None)
    rule = broken_rule(campaign.spec.abort, tallies, len(campaign.waves) - 1 if current is None else current)
    broken = f"an abort rule is broken: {rule}" if rule is not None else tick.broken
    if broken:
        campaign, more = _stop(campaign, tallies, broken)
        return campaign, (*effects, *more)
    if current is None:
        campaign, more = _tick_last(campaign, tallies, tick)
    else:
        campaign, more = _tick_wave(campaign, tallies, current, tick)
    return campaign, (*effects, *more)


def _stop(campaign: Campaign, tallies: Tallies, reason: str) -> StepResult:
    """What the specification wants done where it must not go on."""
    if campaign.spec.on_abort is AbortAction.CANCEL_PENDING:
        return _abort(campaign, tallies, Abort(reason))
    if campaign.spec.on_abort is AbortAction.ROLLBACK_TO and campaign.spec.rollback_to is not None:
        ended = replace(campaign, state=_S.ROLLED_BACK, reason=reason)
        return ended, (Log("rolled_back", reason), *_cancel_pending(tallies))
    return _pause(campaign, tallies, Pause(reason))


def _take_back(campaign: Campaign, tallies: Tallies) -> StepResult:
    """Cancel what was not handed out, and take the next devices back on which it committed."""
    effects = _cancel_pending(tallies)
    count = min(tallies.successes - campaign.taken_back, _TAKEN_AT_ONCE)
    if count <= 0 or campaign.spec.rollback_to is None:
        return campaign, effects
    taken = replace(campaign, taken_back=campaign.taken_back + count)
    return taken, (*effects, TakeBack(campaign.spec.rollback_to, count))


def _tick_last(campaign: Campaign, tallies: Tallies, tick: Tick) -> StepResult:
    """All waves have passed: complete once everything has ended, if no device can join any more."""
    if tallies.unfinished or campaign.joinable:
        return _assign_open(campaign, tallies, tick)
    return _end_well(campaign)


def _end_well(campaign: Campaign) -> StepResult:
    effects: tuple[Effect, ...] = (MakeDefault(),) if campaign.spec.make_default else ()
    return replace(campaign, state=_S.COMPLETED, reason=""), (Log("completed"), *effects)


def _tick_wave(campaign: Campaign, tallies: Tallies, index: int, tick: Tick) -> StepResult:
    wave, label = campaign.waves[index], f"wave {index + 1}"
    if wave.state in (WaveState.PENDING, WaveState.RUNNING):
        places = min(tallies.superseded(index), tallies.pending_after(index))
        if places:
            goes_on = wave.state is WaveState.RUNNING and not tallies.pending(index)
            log = (Log("wave", f"{label} goes on with {places} devices of later waves"),) if goes_on else ()
            return campaign, (*log, FillPlaces(index, places))
    if wave.state is WaveState.PENDING:
        opened = _set_wave(campaign, index, Wave(WaveState.RUNNING, tick.now))
        opened, assigned = _assign_open(opened, tallies, tick)
        return opened, (Log("wave", f"{label} runs"), *assigned)
    campaign, effects = _judge(campaign, tallies, index, tick)
    if campaign.state is not _S.RUNNING:
        return campaign, effects
    campaign, assigned = _assign_open(campaign, tallies, tick)
    return campaign, (*effects, *assigned)


def _judge(campaign: Campaign, tallies: Tallies, index: int, tick: Tick) -> StepResult:
    """Whether an opened wave has passed, can still pass, or has failed."""
    wave, label = campaign.waves[index], f"wave {index + 1}"
    counts = tallies.wave(index)
    if counts.size == 0:
        detail = f"{label}: other campaigns took all of its devices, and no later wave has any left"
        return _set_wave(campaign, index, Wave(WaveState.PASSED, tick.now)), (Log("wave", detail),)
    if counts.passed(campaign.spec.success):
        effects: tuple[Effect, ...] = ()
        if wave.state is WaveState.RUNNING:
            wave = replace(wave, state=WaveState.SOAKING, since=tick.now)
            campaign = _set_wave(campaign, index, wave)
            effects = (Log("soaking", label),) if campaign.spec.soak_seconds or tick.held else ()
        if tick.now - wave.since < campaign.spec.soak_seconds or tick.held:
            return campaign, effects
        passed = replace(wave, state=WaveState.PASSED, since=tick.now)
        return _set_wave(campaign, index, passed), (*effects, Log("passed", label))
    if counts.out_of_reach(campaign.spec.success):
        reason = f"{label} ended below its success threshold: {counts.successes} of {counts.size} succeeded"
        campaign = _set_wave(campaign, index, Wave(WaveState.FAILED, tick.now))
        return _pause(campaign, tallies, Pause(reason))
    return campaign, ()


def _assign_open(campaign: Campaign, tallies: Tallies, tick: Tick) -> StepResult:
    """Hand out what is pending in the waves that were opened, as fast as their rates allow, while a window is open."""
    effects: list[Effect] = []
    if tick.now < tick.closed_until:
        return campaign, ()
    deadline_at = tick.now + campaign.spec.execution_deadline_seconds
    for index, rate in _opened_rates(campaign, tallies):
        count = tallies.pending(index)
        if count and rate:
            wave, count = _at_rate(campaign.waves[index], rate, count, tick.now)
            campaign = _set_wave(campaign, index, wave)
        if count:
            effects.append(AssignPending(index, count, deadline_at))
    return campaign, tuple(effects)


def _opened_rates(campaign: Campaign, tallies: Tallies) -> list[tuple[int, float | None]]:
    """The waves that were opened, each with the devices a minute that it may be told now; None: all at once."""
    rates = [wave.rate for wave in campaign.spec.waves]
    return [
        (index, None if (rate := rates[index]) is None else rate.at(tallies.wave(index).successes))
        for index, wave in enumerate(campaign.waves)
        if wave.state in _OPENED
    ]


def _at_rate(wave: Wave, per_minute: float, pending: int, now: float) -> tuple[Wave, int]:
    """How many of ``pending`` a rate allows at ``now``, and the wave after it.

    It begins with one. What was not used is kept for :data:`_BURST_SECONDS` only, so that it does not come at once
    after a pause or a closed window.
    """
    each = 60.0 / per_minute
    used = max(wave.handed_at or now - each, now - max(each, _BURST_SECONDS))
    count = min(pending, int((now - used) / each + 1e-9))
    return (wave, 0) if count == 0 else (replace(wave, handed_at=used + count * each), count)


def _cancel_pending(tallies: Tallies) -> tuple[Effect, ...]:
    return (CancelPending(tallies.all_pending),) if tallies.all_pending else ()


def _set_wave(campaign: Campaign, index: int, wave: Wave) -> Campaign:
    return replace(campaign, waves=(*campaign.waves[:index], wave, *campaign.waves[index + 1 :]))
