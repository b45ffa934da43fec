"""What people do with policies: apply, pause, resume and remove them. Each is one transaction.

Example:
    >>> apply_policy(engine, Path("fan-speed.toml").read_text(), who="ann", now=time.time())
    >>> pause_policy(engine, "fan-speed", who="ann", why="the hall is being rebuilt", now=time.time())
"""

from __future__ import annotations

import contextlib

import msgspec
from sqlalchemy import Engine, delete, insert, select, update

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.service import expire_candidate
from wheeltapper_fleet.learning.policies.events import Arrow, Pause, Resume, Stage
from wheeltapper_fleet.learning.policies.rules import PolicyState, ends_at, step
from wheeltapper_fleet.learning.policies.spec import parse_policy, read_policy
from wheeltapper_fleet.learning.policies.store import add_event, last_cycle, load_policy, policy_row, save_step
from wheeltapper_fleet.learning.policies.tables import policies
from wheeltapper_fleet.learning.runs.rules import Cause
from wheeltapper_fleet.learning.runs.service import cancel_run
from wheeltapper_fleet.learning.runs.views import list_runs

__all__ = ["apply_policy", "cause_of", "pause_policy", "remove_policy", "resume_policy"]

_WHO_CHARACTERS = 128


def cause_of(policy: str, cycle: int) -> Cause:
    """What a run says of the policy that asked for it. A cycle has one run."""
    return Cause("policy", f"{policy}/{cycle}")


def apply_policy(engine: Engine, text: str, *, who: str, now: float) -> str:
    """Take a policy's file: a new policy, or the new text of one; returns its name.

    A cycle that is under way goes on by the new text. One whose row could not be read begins anew.

    Raises:
        FleetError: ``policy.malformed``, ``policy.invalid``, ``policy.model``, ``query.invalid``, ``campaign.*``.
    """
    spec = read_policy(parse_policy(text))
    values = {"model": spec.model, "text": text, "problem": "", "found": "", "looked_at": None, "due_at": now}
    values |= {"applied_at": now, "applied_by": who[:_WHO_CHARACTERS]}
    with engine.begin() as connection:
        here = policies.c.name == spec.name
        row = connection.execute(select(policies).where(here).with_for_update()).one_or_none()
        arrow = Arrow("applied", "", f"by {who}")
        if row is None:
            state = PolicyState(since=now, cycle=last_cycle(connection, spec.name))
            event = add_event(connection, spec.name, state.cycle, arrow, now, cause=None)
            written = {"state": msgspec.to_builtins(state), "stage": state.stage.value, "version": 1, "event": event}
            connection.execute(insert(policies).values(name=spec.name, **written, **values))
            return spec.name
        if row.model != spec.model:
            message = f"the policy {spec.name} is of the model {row.model}: give the one of {spec.model} another name"
            raise FleetError("policy.model", message, 409)
        try:
            state = load_policy(row).state
        except FleetError:
            state = PolicyState(since=now, cycle=last_cycle(connection, spec.name))
        event = add_event(connection, spec.name, state.cycle, arrow, now, cause=row.event)
        written = {"state": msgspec.to_builtins(state), "stage": state.stage.value, "version": row.version + 1}
        connection.execute(update(policies).where(here).values(**values, **written, event=event))
    return spec.name


def pause_policy(engine: Engine, name: str, *, who: str, why: str, now: float) -> None:
    """Let a policy do nothing more for now; what is under way goes on, and is waited for again once it is resumed.

    Raises:
        FleetError: ``policy.not_found``, ``policy.unreadable``, ``policy.state``: it is paused already.
    """
    _act(engine, name, Pause(who=who, why=why), now)


def resume_policy(engine: Engine, name: str, *, who: str, why: str, now: float) -> None:
    """Let a paused policy go on, and one that has stopped watch again. Raises as :func:`pause_policy`."""
    _act(engine, name, Resume(who=who, why=why), now)


def remove_policy(engine: Engine, name: str, *, who: str, why: str, now: float) -> None:
    """Remove a policy. Its run is cancelled and its candidate expires; a campaign goes on. Its events stay.

    Raises:
        FleetError: ``policy.not_found``.
    """
    with engine.begin() as connection:
        row = policy_row(connection, name, lock=True)
        state = msgspec.convert(row.state, PolicyState) if _readable(row.state) else PolicyState()
        said = f"by {who}" + (f": {why}" if why else "")
        add_event(connection, name, state.cycle, Arrow("removed", "", said), now, cause=row.event)
        if state.stage is Stage.APPROVAL:
            expire_candidate(connection, state.candidate, f"the policy {name} was removed", now)
        connection.execute(delete(policies).where(policies.c.name == name))
    if state.stage in (Stage.TRAINING, Stage.CANCELLING):
        for run in list_runs(engine, cause=cause_of(name, state.cycle), limit=10).items:
            with contextlib.suppress(FleetError):  # it has ended
                cancel_run(engine, run.id, who=who, now=now)


def _readable(state: object) -> bool:
    try:
        msgspec.convert(state, PolicyState)
    except msgspec.ValidationError:
        return False
    return True


def _act(engine: Engine, name: str, event: Pause | Resume, now: float) -> None:
    with engine.begin() as connection:
        policy = load_policy(policy_row(connection, name, lock=True))
        taken = step(policy.spec, policy.state, event, now)
        if taken.arrow is None:
            stands = "paused" if policy.state.paused_at is not None else policy.state.stage
            raise FleetError("policy.state", f"the policy {name} is {stands}: there is nothing to change", 409)
        due_at = None if taken.state.paused_at is not None else now
        if taken.state.stage is Stage.COOLING and due_at is not None:
            due_at = ends_at(policy.spec, taken.state)
        save_step(connection, policy, taken.state, taken.arrow, event, due_at, now)
