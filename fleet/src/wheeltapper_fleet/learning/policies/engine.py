"""Takes the steps of all policies: looks, has the pure machine decide, and does what it wants. A duty of the leader.

Invariants:
    * A turn costs what is due, never the number of policies or devices.
    * One policy that fails holds up no other: its row names the problem, which is logged once, and it is tried again a
      minute later.
    * A policy that a person changes in the middle of its step is looked at again; nothing is done twice.

Example:
    >>> duty = Duty("learning policies", 1.0, PolicyEngine(Acting(engine, datasets, captures_dir), announce).turn)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.service import expire_candidate
from wheeltapper_fleet.learning.policies.acting import Acting, ask, asked_commands
from wheeltapper_fleet.learning.policies.choosing import choose_devices
from wheeltapper_fleet.learning.policies.events import (
    Arrow,
    AskCaptures,
    Assemble,
    CancelRun,
    CapturesSeen,
    Crossed,
    ExpireCandidate,
    Failed,
    Input,
    Promote,
    QueueRun,
    RollOut,
    Stage,
    Tick,
)
from wheeltapper_fleet.learning.policies.observing import count_captures, look
from wheeltapper_fleet.learning.policies.rules import Taken, ends_at, step, wanted
from wheeltapper_fleet.learning.policies.store import (
    Policy,
    due_policies,
    load_policy,
    note,
    policy_row,
    save_step,
)
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["PolicyEngine"]

_LOG: Final = logging.getLogger(__name__)
_AT_ONCE: Final = 20
_STEPS: Final = 12
"""In one turn; a cycle has fewer."""
_AGAIN_SECONDS: Final = 60.0
_CONFLICTS: Final = ("policy.conflict", "policy.not_found", "campaign.conflict")
_PASSING: Final = ("dataset.unreachable", "dataset.missing_library", "dataset.conflict", "policy.captures")
"""What an operator can set right while the stage lasts; everything else would be refused again."""
Announce = Callable[[Connection, Sequence[Occurrence]], None]


class PolicyEngine:
    """Takes the steps of policies.

    Args:
        acting: does what they want.
        announce: has people told that a candidate waits, or that a policy has stopped; in the step's transaction.
    """

    def __init__(self, acting: Acting, announce: Announce = lambda connection, occurrences: None) -> None:
        self._acting = acting
        self._engine = acting.engine
        self._announce = announce
        self._said: dict[str, str] = {}

    def turn(self, now: float) -> bool:
        """Take the steps that are due; whether there may be more of them."""
        with reading(self._engine) as connection:
            due = due_policies(connection, now, _AT_ONCE)
        for name in due:
            try:
                self._steps(name, now)
                self._said.pop(name, None)
            except FleetError as error:
                if error.code not in _CONFLICTS:
                    self._problem(name, str(error), now)
            except Exception as error:  # noqa: BLE001  # one policy that breaks stays one
                self._problem(name, str(error) or type(error).__name__, now, error)
        return len(due) == _AT_ONCE

    def _steps(self, name: str, now: float) -> None:
        """Take steps until nothing moves.

        Raises:
            FleetError: ``policy.unreadable``, ``policy.conflict``, what looking and doing raise.
        """
        with reading(self._engine) as connection:
            policy = load_policy(policy_row(connection, name))
        for _ in range(_STEPS):
            broken: Exception | None = None
            event: Input | None = None
            try:
                event = self._event(policy, now)
            except Exception as error:  # noqa: BLE001  # time goes on for a stage whose work breaks
                broken = error
            taken = Taken(policy.state) if event is None else step(policy.spec, policy.state, event, now)
            if taken.arrow is None:
                event = Tick()
                taken = step(policy.spec, policy.state, event, now)
            if taken.arrow is None or event is None:
                if broken is not None:
                    raise broken
                break
            policy = self._save(policy, taken, taken.arrow, event, now)
        with self._engine.begin() as connection:
            note(connection, name, policy.version, due_at=_due(policy, now), problem="")

    def _save(self, policy: Policy, taken: Taken, arrow: Arrow, event: Input, now: float) -> Policy:
        """Store a step, with what belongs into its transaction."""
        with self._engine.begin() as connection:
            for effect in taken.effects:
                if isinstance(effect, AskCaptures):
                    ask(connection, policy.spec, taken.state, now)
                elif isinstance(effect, ExpireCandidate) and not expire_candidate(
                    connection, effect.candidate, "nobody approved it in time", now
                ):
                    raise FleetError("policy.conflict", f"{effect.candidate} was decided in this moment", 409)
            saved = save_step(connection, policy, taken.state, arrow, event, now, now)
            self._announce(connection, _told(saved, arrow, now))
        _LOG.info("policy %s: %s %s %s", policy.spec.name, arrow.kind, arrow.subject, arrow.detail)
        return saved

    def _event(self, policy: Policy, now: float) -> Input | None:
        """What is seen of the policy's stage, or what came of doing what it wants; None: nothing yet."""
        spec, state = policy.spec, policy.state
        effect = wanted(spec, state, now)
        if effect is None:
            return self._seen(policy, now)
        try:
            match effect:
                case Assemble():
                    return self._acting.assemble(spec, state)
                case QueueRun():
                    return self._acting.queue(spec, state, now)
                case CancelRun():
                    return self._acting.run(spec, state, now, cancel=True)
                case RollOut():
                    return self._acting.roll_out(spec, state, now)
                case Promote():
                    return self._acting.promote(spec, state, now)
        except (FleetError, ProtocolError) as error:
            if isinstance(error, FleetError) and (error.status >= 500 or error.code in (*_CONFLICTS, *_PASSING)):
                raise
            return Failed(cycle=state.cycle, stage=state.stage, detail=str(error))
        return None

    def _seen(self, policy: Policy, now: float) -> Input | None:
        spec, state = policy.spec, policy.state
        if state.paused_at is not None:
            return None
        match state.stage:
            case Stage.WATCHING:
                return self._look(policy, now)
            case Stage.CAPTURING:
                arrived, still = count_captures(self._engine, asked_commands(spec, state), now)
                return CapturesSeen(cycle=state.cycle, arrived=arrived, open=still)
            case Stage.TRAINING if state.run:
                return self._acting.run(spec, state, now, cancel=False)
            case Stage.APPROVAL:
                return self._acting.decision(state)
            case Stage.ROLLING_OUT if state.campaign:
                return self._acting.campaign(state)
        return None

    def _look(self, policy: Policy, now: float) -> Input | None:
        spec = policy.spec
        release, found = look(self._engine, spec, now)
        with self._engine.begin() as connection:
            note(connection, spec.name, policy.version, looked_at=now, found=found.said)
        if not found.findings:
            return None
        lot = f"{spec.name} {policy.state.cycle + 1}"
        devices = choose_devices(found.drifting, found.others, spec.captures.devices, lot)
        return Crossed(findings=found.findings, devices=devices, release=release)

    def _problem(self, name: str, text: str, now: float, error: Exception | None = None) -> None:
        """Name what keeps a policy, and try again later; logged once for each reason."""
        if self._said.get(name) != text:
            self._said[name] = text
            _LOG.error("policy %s cannot go on, and is tried again in a minute: %s", name, text, exc_info=error)
        with self._engine.begin() as connection:
            version = policy_row(connection, name).version
            note(connection, name, version, due_at=now + _AGAIN_SECONDS, problem=text[:2000])


def _due(policy: Policy, now: float) -> float | None:
    """When the policy is to be looked at again: soon at first, then ever later, up to a minute; None: never."""
    spec, state = policy.spec, policy.state
    if state.paused_at is not None or state.stage is Stage.STOPPED:
        return None
    if state.stage is Stage.WATCHING:
        return now + spec.look_seconds
    end = ends_at(spec, state)
    if state.stage is Stage.COOLING:
        return end
    soon = now + min(_AGAIN_SECONDS, max(1.0, (now - state.since) / 20))
    return soon if end is None else min(soon, max(end, now + 1.0))


def _told(policy: Policy, arrow: Arrow, now: float) -> list[Occurrence]:
    """What people are told of a step."""
    name, state = policy.spec.name, policy.state
    if arrow.kind == "candidate_made":
        kind = OccurrenceKind.CANDIDATE_WAITING
        title = f"candidate {arrow.subject} of {policy.spec.model} waits for approval"
    elif state.stage is Stage.STOPPED:
        kind, title = OccurrenceKind.POLICY_STOPPED, f"policy {name} has stopped: {state.why}"
    else:
        return []
    data = {"policy": name, "cycle": state.cycle, "event": policy.event, "subject": arrow.subject}
    told = Occurrence(
        kind=kind,
        subject=f"policy {name}",
        title=title,
        at=now,
        severity="warning",
        model=policy.spec.model,
        data=data,
    )
    return [told]
