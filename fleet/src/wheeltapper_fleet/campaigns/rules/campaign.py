"""The state machine of a campaign: ``step(campaign, event) -> (campaign, effects)``. Pure.

Invariants:
    * Only executions of the one wave that is RUNNING or SOAKING, or of waves before it, are ever assigned.
    * A wave passes only with enough successes, after its soak time, while no abort rule is broken. A wave that can no
      longer have enough is FAILED and the campaign pauses. It cannot be resumed: that would go past a failed wave.
    * Every execution comes to exactly one terminal state, which never changes: by report, refusal, deadline,
      cancellation or a newer campaign.
    * Deadlines count in every state of the campaign, so a paused or aborted campaign ends its executions too.
    * An execution whose device went to another campaign changes places with the next pending one of a later wave. The
      wave keeps its size, so that it is judged by as many devices as planned. Where no later wave has one left, the
      wave is judged by the devices that it has; without any it is over, and nothing can be opened after it.

What devices are told follows from the states of all campaigns (:mod:`wheeltapper_fleet.campaigns.rules.meeting`): an
execution of an aborted campaign is withdrawn from its device, and a paused one hands out nothing that was not begun.

No event leads to the state ROLLED_BACK yet.

Example::

    campaign, effects = step(campaign, Start())
    campaign, effects = step(campaign, Tick(now))  # effects: an Assign for each device of the first wave
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from wheeltapper_fleet.campaigns.rules.execution import PENDING, advance, refuse
from wheeltapper_fleet.campaigns.rules.spec import AbortAction, CampaignSpec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave, WaveState, broken_rule, count_executions
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "Abort",
    "Approve",
    "Assign",
    "Campaign",
    "CampaignState",
    "Effect",
    "Event",
    "Log",
    "MakeDefault",
    "Pause",
    "Refused",
    "Reported",
    "Resume",
    "Start",
    "Superseded",
    "Tick",
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
    """One campaign: its spec and state, its waves in order, and every execution. ``reason`` says why it is paused or
    aborted."""

    id: str
    spec: CampaignSpec
    waves: tuple[Wave, ...]
    executions: tuple[Execution, ...]
    state: CampaignState = CampaignState.DRAFT
    reason: str = ""


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
class Abort:
    """A person ends the campaign: pending executions are cancelled, and those under way are withdrawn."""

    reason: str = "aborted by a person"


@dataclass(frozen=True)
class Tick:
    """Time has passed; it is ``now`` (Unix seconds)."""

    now: float


@dataclass(frozen=True)
class Reported:
    """A device reports that its execution is in ``state``."""

    execution: str
    state: ExecutionState
    code: str = ""


@dataclass(frozen=True)
class Refused:
    """A device refuses its assignment."""

    execution: str
    code: str


@dataclass(frozen=True)
class Superseded:
    """The newer campaign ``by`` assigns something else to the device."""

    execution: str
    by: str


Event = Start | Approve | Pause | Resume | Abort | Tick | Reported | Refused | Superseded


@dataclass(frozen=True)
class Assign:
    """Sign and publish an assignment for this execution."""

    execution: str
    device: str
    deadline_at: float


@dataclass(frozen=True)
class MakeDefault:
    """Make the campaign's release the default release of its audience."""


@dataclass(frozen=True)
class Log:
    """A line for the campaign's log."""

    event: str
    detail: str = ""


Effect = Assign | MakeDefault | Log
"""What must be done in the transaction that stores the new campaign."""
StepResult = tuple[Campaign, tuple[Effect, ...]]
_S: Final = CampaignState  # short, so that the table below stays aligned


def step(campaign: Campaign, event: Event) -> StepResult:
    """The campaign after ``event``, and what must be done about it.

    Raises:
        FleetError: ``campaign.illegal``: the event is a person's and makes no sense in this state;
            ``campaign.wave_failed``: resuming would go past a failed wave.
    """
    match event:
        case Reported(execution, state, code):
            return _change(campaign, execution, lambda each: advance(each.state, state), code)
        case Refused(execution, code):
            return _change(campaign, execution, lambda each: refuse(each.state), code)
        case Superseded(execution, by):
            return _change(
                campaign,
                execution,
                lambda each: each.state if each.terminal else ExecutionState.SUPERSEDED.value,
                "execution.superseded",
                f"by {by}",
            )
        case Tick(now):
            return _tick(campaign, now)
        case _:
            action = _TABLE.get((campaign.state, type(event)))
            if action is None:
                name = type(event).__name__.lower()
                raise FleetError("campaign.illegal", f"{name} is not possible: the campaign is {campaign.state}", 409)
            return action(campaign, event)


def _start(campaign: Campaign, _event: Event) -> StepResult:
    state = _S.AWAITING_APPROVAL if campaign.spec.needs_approval else _S.SCHEDULED
    return replace(campaign, state=state), (Log("started"),)


def _approve(campaign: Campaign, _event: Event) -> StepResult:
    return replace(campaign, state=_S.SCHEDULED), (Log("approved"),)


def _pause(campaign: Campaign, event: Event) -> StepResult:
    assert isinstance(event, Pause)
    return replace(campaign, state=_S.PAUSED, reason=event.reason), (Log("paused", event.reason),)


def _resume(campaign: Campaign, _event: Event) -> StepResult:
    if any(wave.state is WaveState.FAILED for wave in campaign.waves):
        raise FleetError("campaign.wave_failed", "a wave has failed: abort the campaign and make a new one", 409)
    return replace(campaign, state=_S.RUNNING, reason=""), (Log("resumed"),)


def _abort(campaign: Campaign, event: Event) -> StepResult:
    assert isinstance(event, Abort)
    executions = tuple(
        replace(each, state=ExecutionState.CANCELLED.value, code="execution.cancelled")
        if each.state == PENDING
        else each
        for each in campaign.executions
    )
    ended = replace(campaign, state=_S.ABORTED, reason=event.reason, executions=executions)
    return ended, (Log("aborted", event.reason),)


_TABLE: Final[dict[tuple[CampaignState, type], Callable[[Campaign, Event], StepResult]]] = {
    (_S.DRAFT,             Start):   _start,
    (_S.DRAFT,             Abort):   _abort,
    (_S.AWAITING_APPROVAL, Approve): _approve,
    (_S.AWAITING_APPROVAL, Abort):   _abort,
    (_S.SCHEDULED,         Pause):   _pause,
    (_S.SCHEDULED,         Abort):   _abort,
    (_S.RUNNING,           Pause):   _pause,
    (_S.RUNNING,           Abort):   _abort,
    (_S.PAUSED,            Resume):  _resume,
    (_S.PAUSED,            Abort):   _abort,
}  # fmt: skip


def _change(
    campaign: Campaign, execution: str, next_state: Callable[[Execution], str], code: str, detail: str = ""
) -> StepResult:
    executions = []
    for each in campaign.executions:
        if each.id == execution and (state := next_state(each)) != each.state:
            each = replace(each, state=state, code=code, detail=detail or each.detail)
        executions.append(each)
    return replace(campaign, executions=tuple(executions)), ()


def _tick(campaign: Campaign, now: float) -> StepResult:
    campaign = _end_overdue(campaign, now)
    effects: list[Effect] = []
    if campaign.state is _S.SCHEDULED and campaign.spec.start_at <= now:
        campaign = replace(campaign, state=_S.RUNNING)
        effects.append(Log("running"))
    if campaign.state is not _S.RUNNING:
        return campaign, tuple(effects)
    current = next((i for i, wave in enumerate(campaign.waves) if wave.state is not WaveState.PASSED), None)
    rule = broken_rule(
        campaign.spec.abort, campaign.executions, len(campaign.waves) - 1 if current is None else current
    )
    if rule is not None:
        reason = f"an abort rule is broken: {rule}"
        stop = _abort if campaign.spec.on_abort is AbortAction.CANCEL_PENDING else _pause
        event: Event = Abort(reason) if stop is _abort else Pause(reason)
        campaign, more = stop(campaign, event)
        return campaign, (*effects, *more)
    if current is None:
        if all(each.terminal for each in campaign.executions):
            completed: list[Effect] = [Log("completed")]
            if campaign.spec.make_default:
                completed.append(MakeDefault())
            return replace(campaign, state=_S.COMPLETED), (*effects, *completed)
        return campaign, tuple(effects)
    campaign, more = _tick_wave(campaign, current, now)
    return campaign, (*effects, *more)


def _tick_wave(campaign: Campaign, index: int, now: float) -> StepResult:
    label = f"wave {index + 1}"
    if campaign.waves[index].state is WaveState.PENDING:
        return _open_wave(campaign, index, now)
    if campaign.waves[index].state is WaveState.RUNNING and (filled := _fill_places(campaign, index)) is not None:
        campaign, effects = _assign_pending(filled, index, now)
        return campaign, (Log("wave", f"{label} goes on with {len(effects)} devices of later waves"), *effects)
    wave = campaign.waves[index]
    counts = count_executions(each for each in campaign.executions if each.wave == index)
    if counts.size == 0:
        detail = f"{label}: other campaigns took all of its devices, and no later wave has any left"
        return _set_wave(campaign, index, Wave(WaveState.PASSED, now)), (Log("wave", detail),)
    if counts.passed(campaign.spec.success):
        if wave.state is WaveState.RUNNING:
            wave = Wave(WaveState.SOAKING, now)
            campaign = _set_wave(campaign, index, wave)
        if now - wave.since < campaign.spec.soak_seconds:
            return campaign, (Log("soaking", label),) if wave.since == now else ()
        return _set_wave(campaign, index, Wave(WaveState.PASSED, now)), (Log("passed", label),)
    if counts.out_of_reach(campaign.spec.success):
        reason = f"{label} ended below its success threshold: {counts.successes} of {counts.size} succeeded"
        campaign = _set_wave(campaign, index, Wave(WaveState.FAILED, now))
        return _pause(campaign, Pause(reason))
    return campaign, ()


def _open_wave(campaign: Campaign, index: int, now: float) -> StepResult:
    campaign, effects = _assign_pending(_fill_places(campaign, index) or campaign, index, now)
    campaign = _set_wave(campaign, index, Wave(WaveState.RUNNING, now))
    return campaign, (Log("wave", f"wave {index + 1} runs"), *effects)


def _fill_places(campaign: Campaign, index: int) -> Campaign | None:
    """The campaign after the superseded executions of a wave changed places with pending ones of later waves.

    None if there is nothing to change.
    """
    lost = [i for i, each in enumerate(campaign.executions) if each.wave == index and each.superseded]
    if not lost:
        return None
    later = sorted(
        (i for i, each in enumerate(campaign.executions) if each.wave > index and each.state == PENDING),
        key=lambda i: (campaign.executions[i].wave, i),
    )
    executions = list(campaign.executions)
    for gone, next_one in zip(lost, later, strict=False):
        executions[gone] = replace(executions[gone], wave=executions[next_one].wave)
        executions[next_one] = replace(executions[next_one], wave=index)
    return replace(campaign, executions=tuple(executions)) if later else None


def _assign_pending(campaign: Campaign, index: int, now: float) -> tuple[Campaign, tuple[Assign, ...]]:
    """Assign every pending execution of a wave."""
    deadline = now + campaign.spec.execution_deadline_seconds
    effects: list[Assign] = []
    executions = []
    for each in campaign.executions:
        if each.wave == index and each.state == PENDING:
            each = replace(each, state=ExecutionState.ASSIGNED.value, assigned_at=now, deadline_at=deadline)
            effects.append(Assign(each.id, each.device, deadline))
        executions.append(each)
    return replace(campaign, executions=tuple(executions)), tuple(effects)


def _set_wave(campaign: Campaign, index: int, wave: Wave) -> Campaign:
    return replace(campaign, waves=(*campaign.waves[:index], wave, *campaign.waves[index + 1 :]))


def _end_overdue(campaign: Campaign, now: float) -> Campaign:
    if not any(
        not each.terminal and each.deadline_at is not None and each.deadline_at <= now for each in campaign.executions
    ):
        return campaign
    return replace(
        campaign,
        executions=tuple(
            replace(each, state=ExecutionState.FAILED.value, code="execution.deadline", detail=f"was {each.state}")
            if not each.terminal and each.deadline_at is not None and each.deadline_at <= now
            else each
            for each in campaign.executions
        ),
    )
