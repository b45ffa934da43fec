"""The machine of a policy: what it does next, decided on its state and on what was seen. Pure.

One cycle goes from left to right; each arrow is an event with its cause::

    WATCHING -> CAPTURING -> ASSEMBLING -> TRAINING -> APPROVAL -> ROLLING_OUT -> PROMOTING -> COOLING -> WATCHING

Invariants:
    * A policy has at most one run and one campaign at a time: a run that takes too long is cancelled (CANCELLING), and
      nothing else begins before it has ended, however long that takes.
    * In any 30 days no more runs and campaigns are begun than the budget allows, and a cycle asks for no more
      recordings.
    * After a cycle, however it ended, nothing begins before the cool-down is over. Failures are not retried.
    * A campaign that fails stops the policy: a person must resume it.
    * An event that is late, comes twice or is of something else changes nothing.
    * The same events at the same times give the same states: a policy can be replayed from its records.

Example:
    >>> seen = Crossed(findings=("4 of 9 devices drift, limit 10 %",), devices=("press-1",), release=1)
    >>> taken = step(spec, PolicyState(), seen, now=100.0)
    >>> taken.state.stage, taken.effects
    (<Stage.CAPTURING: 'CAPTURING'>, (AskCaptures(devices=('press-1',)),))

What this module does not do: look, or carry out effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from wheeltapper_fleet.learning.policies.events import (
    Arrow,
    AskCaptures,
    Assemble,
    CampaignEnded,
    CampaignStarted,
    CancelRun,
    CapturesSeen,
    Crossed,
    DatasetMade,
    Decided,
    Effect,
    ExpireCandidate,
    Failed,
    Input,
    Pause,
    Promote,
    Promoted,
    QueueRun,
    Resume,
    RollOut,
    RunEnded,
    RunQueued,
    Stage,
    Tick,
)
from wheeltapper_fleet.learning.policies.spec import PolicySpec

__all__ = ["BUDGET_SECONDS", "PolicyState", "Taken", "ends_at", "step", "wanted"]

BUDGET_SECONDS: Final = 30 * 86_400.0
_PROMOTING_SECONDS: Final = 30 * 86_400.0
"""How long the rules of the alias may take to be met before the policy stops."""


_S: Final = Stage


class PolicyState(Struct, frozen=True, kw_only=True):
    """Where a policy is in its cycle, and what of it is under way."""

    stage: Stage = Stage.WATCHING
    since: float = 0.0
    """When the stage began (Unix seconds); pauses do not count."""
    cycle: int = 0
    """How many cycles were begun."""
    paused_at: float | None = None
    why: str = ""
    """Why it is held, cools or has stopped."""
    watched: int = 0
    """The release whose limits were crossed."""
    devices: tuple[str, ...] = ()
    dataset: str = ""
    run: str = ""
    candidate: str = ""
    release: int = 0
    campaign: str = ""
    runs_at: tuple[float, ...] = ()
    """When runs were begun in the last 30 days."""
    campaigns_at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Taken:
    """A step: the state after it, what is to be done, and what happened; None: nothing did."""

    state: PolicyState
    effects: tuple[Effect, ...] = ()
    arrow: Arrow | None = None


def step(spec: PolicySpec, state: PolicyState, event: Input, now: float) -> Taken:
    """Take one step.

    Args:
        spec: what the policy says.
        state: where it is.
        event: what was seen or done.
        now: Unix seconds.
    """
    if isinstance(event, Pause | Resume):
        return _by_person(state, event, now)
    if state.paused_at is not None:
        return Taken(state)
    if isinstance(event, Tick):
        return _time(spec, state, now)
    after, arrow, effects = _seen(spec, state, event, now)
    if arrow is None:
        return Taken(state)
    return Taken(after, effects or _outstanding(spec, after, now), arrow)


def wanted(spec: PolicySpec, state: PolicyState, now: float) -> Effect | None:
    """What a state still has to have done, e.g. after the process was killed; doing it twice has the effect of once."""
    if state.paused_at is not None:
        return None
    match state.stage:
        case _S.ASSEMBLING:
            return Assemble()
        case _S.TRAINING if not state.run and _room(state.runs_at, spec.budget.runs, now):
            return QueueRun(state.dataset)
        case _S.CANCELLING:
            return CancelRun(state.run)
        case _S.ROLLING_OUT if not state.campaign and _room(state.campaigns_at, spec.budget.campaigns, now):
            return RollOut(state.release)
        case _S.PROMOTING:
            return Promote(state.release)
        case _:
            return None


def ends_at(spec: PolicySpec, state: PolicyState) -> float | None:
    """When the stage has taken all the time that it may (Unix seconds); None: it may last."""
    seconds = {
        _S.CAPTURING: spec.captures.within_seconds,
        _S.ASSEMBLING: spec.dataset.within_seconds,
        _S.TRAINING: spec.run.within_seconds,
        _S.APPROVAL: spec.approval.within_seconds,
        _S.ROLLING_OUT: spec.campaign_within_seconds,
        _S.PROMOTING: _PROMOTING_SECONDS,
        _S.COOLING: spec.cool_down_seconds,
    }.get(state.stage)
    return None if seconds is None else state.since + seconds


# --- steps ------------------------------------------------------------------------------------------------------------

_Step = tuple[PolicyState, Arrow | None, tuple[Effect, ...]]


def _seen(spec: PolicySpec, state: PolicyState, event: Input, now: float) -> _Step:
    """The step for what was seen; without an arrow it is late, comes twice or is of something else."""
    match event:
        case Crossed() if state.stage is _S.WATCHING:
            return _begin(spec, state, event, now)
        case CapturesSeen() if state.stage is _S.CAPTURING and event.cycle == state.cycle:
            return _captures(spec, state, event, now)
        case DatasetMade() if state.stage is _S.ASSEMBLING and event.cycle == state.cycle:
            if not event.new:
                return _cool(
                    state, "nothing_new", event.dataset, "the release was trained on all of these recordings", now
                )
            after = _to(state, _S.TRAINING, now, dataset=event.dataset)
            return after, Arrow("dataset_made", event.dataset), ()
        case RunQueued() if state.stage is _S.TRAINING and not state.run and event.cycle == state.cycle:
            after = replace(state, run=event.run, runs_at=(*_recent(state.runs_at, now), now))
            return after, Arrow("run_queued", event.run, f"on {state.dataset}"), ()
        case RunEnded() if event.run == state.run and state.stage in (_S.TRAINING, _S.CANCELLING):
            return _run_ended(state, event, now)
        case Decided() if state.stage is _S.APPROVAL and event.candidate == state.candidate:
            return _decided(state, event, now)
        case CampaignStarted() if state.stage is _S.ROLLING_OUT and not state.campaign and event.cycle == state.cycle:
            begun = (*_recent(state.campaigns_at, now), now)
            after = replace(state, campaign=event.campaign, campaigns_at=begun)
            return after, Arrow("campaign_started", event.campaign, f"release {state.release}"), ()
        case CampaignEnded() if state.stage is _S.ROLLING_OUT and event.campaign == state.campaign:
            if not event.completed:
                return _stop(state, "campaign_failed", event.campaign, event.detail, now)
            after = _to(state, _S.PROMOTING, now)
            return after, Arrow("campaign_completed", event.campaign, f"release {state.release}"), ()
        case Promoted() if state.stage is _S.PROMOTING and event.release == state.release:
            said = f"{spec.alias} of {spec.model} is release {event.release}"
            return _cool(state, "promoted", str(event.release), said, now)
        case Failed() if event.stage is state.stage and event.cycle == state.cycle:
            return _failed(state, event, now)
        case _:
            return state, None, ()


def _begin(spec: PolicySpec, state: PolicyState, event: Crossed, now: float) -> _Step:
    found = "; ".join(event.findings)
    held = _held(spec, state, now) or ("" if event.devices else "no device of the audience can record")
    if held:
        if state.why == held:
            return state, None, ()
        return replace(state, why=held), Arrow("held", str(event.release), f"{found}; {held}"), ()
    devices = event.devices[: min(spec.captures.devices, spec.budget.captures)]
    after = PolicyState(
        stage=_S.CAPTURING,
        since=now,
        cycle=state.cycle + 1,
        watched=event.release,
        devices=devices,
        runs_at=_recent(state.runs_at, now),
        campaigns_at=_recent(state.campaigns_at, now),
    )
    return after, Arrow("crossed", str(event.release), found), (AskCaptures(devices),)


def _held(spec: PolicySpec, state: PolicyState, now: float) -> str:
    """Why the budget allows no cycle now; empty where it does."""
    for what, times, most in (
        ("runs", state.runs_at, spec.budget.runs),
        ("campaigns", state.campaigns_at, spec.budget.campaigns),
    ):
        if not _room(times, most, now):
            return f"the budget of {most} {what} in 30 days is used up"
    return ""


def _captures(spec: PolicySpec, state: PolicyState, event: CapturesSeen, now: float) -> _Step:
    asked = len(state.devices)
    needed = min(spec.captures.at_least, asked)
    said = f"{event.arrived} of {asked} recordings came"
    if event.arrived >= needed and event.open == 0:
        return _to(state, _S.ASSEMBLING, now), Arrow("captures_arrived", "", said), ()
    if event.arrived + event.open < needed:
        return _cool(state, "stalled", "", f"{said}, {needed} are needed", now)
    return state, None, ()


def _run_ended(state: PolicyState, event: RunEnded, now: float) -> _Step:
    if state.stage is _S.CANCELLING:
        return _cool(state, "stalled", event.run, "the run took too long and was cancelled", now)
    if not event.candidate:
        return _cool(state, "run_failed", event.run, event.detail, now)
    after = _to(state, _S.APPROVAL, now, candidate=event.candidate)
    return after, Arrow("candidate_made", event.candidate, event.detail), ()


def _decided(state: PolicyState, event: Decided, now: float) -> _Step:
    because = f": {event.why}" if event.why else ""
    if not event.release:
        return _cool(state, "rejected", event.candidate, f"by {event.who}{because}", now)
    after = _to(state, _S.ROLLING_OUT, now, release=event.release)
    return after, Arrow("approved", event.candidate, f"by {event.who}, as release {event.release}{because}"), ()


def _failed(state: PolicyState, event: Failed, now: float) -> _Step:
    if state.stage in (_S.ROLLING_OUT, _S.PROMOTING):
        kind = "campaign_failed" if state.stage is _S.ROLLING_OUT else "failed"
        return _stop(state, kind, str(state.release), event.detail, now)
    if state.stage in (_S.ASSEMBLING, _S.TRAINING):
        return _cool(state, "failed", state.dataset, event.detail, now)
    return state, None, ()


def _time(spec: PolicySpec, state: PolicyState, now: float) -> Taken:
    """What time alone does: a stage that took too long ends."""
    end = ends_at(spec, state)
    if end is None or now < end:
        return Taken(state)
    took = f"{state.stage} took longer than {end - state.since:.0f} s"
    if state.stage is _S.COOLING:
        return Taken(_to(state, _S.WATCHING, now), (), Arrow("watching"))
    if state.stage is _S.TRAINING and state.run:
        return Taken(_to(state, _S.CANCELLING, now), (CancelRun(state.run),), Arrow("cancelling", state.run, took))
    if state.stage in (_S.ROLLING_OUT, _S.PROMOTING):
        after, arrow, effects = _stop(state, "stalled", state.campaign or str(state.release), took, now)
    else:
        after, arrow, effects = _cool(state, "stalled", state.candidate or state.dataset, took, now)
    if state.stage is _S.APPROVAL:
        effects = (ExpireCandidate(state.candidate),)
    return Taken(after, effects, arrow)


def _by_person(state: PolicyState, event: Pause | Resume, now: float) -> Taken:
    said = f"by {event.who}" + (f": {event.why}" if event.why else "")
    if isinstance(event, Pause):
        if state.paused_at is not None:
            return Taken(state)
        return Taken(replace(state, paused_at=now), (), Arrow("paused", "", said))
    if state.paused_at is not None:
        since = state.since + max(0.0, now - state.paused_at)
        return Taken(replace(state, paused_at=None, since=since), (), Arrow("resumed", "", said))
    if state.stage is _S.STOPPED:
        return Taken(_to(state, _S.WATCHING, now), (), Arrow("resumed", "", said))
    return Taken(state)


def _outstanding(spec: PolicySpec, state: PolicyState, now: float) -> tuple[Effect, ...]:
    effect = wanted(spec, state, now)
    return () if effect is None else (effect,)


def _to(state: PolicyState, stage: Stage, now: float, **changes: str | int) -> PolicyState:
    """``state`` in another stage; ``changes`` are of its fields."""
    return replace(state, stage=stage, since=now, why="", **changes)


def _cool(state: PolicyState, kind: str, subject: str, detail: str, now: float) -> _Step:
    after = replace(_to(state, _S.COOLING, now), why=f"{kind}: {detail}" if detail else kind)
    return after, Arrow(kind, subject, detail), ()


def _stop(state: PolicyState, kind: str, subject: str, detail: str, now: float) -> _Step:
    after = replace(_to(state, _S.STOPPED, now), why=f"{kind}: {detail}" if detail else kind)
    return after, Arrow(kind, subject, detail), ()


def _recent(times: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Those within the time of the budget; a clock that was set back keeps them."""
    return tuple(each for each in times if each > now - BUDGET_SECONDS)


def _room(times: tuple[float, ...], most: int, now: float) -> bool:
    return len(_recent(times, now)) < most
