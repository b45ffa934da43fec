"""Loads and stores policies for the pure machine. Everything here runs in the caller's transaction.

Invariant: a state is stored together with the event that led to it; what was decided on an older state is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, func, select, update

from wheeltapper_fleet.db.engine import insert_one
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.policies.events import Arrow, Input
from wheeltapper_fleet.learning.policies.rules import PolicyState
from wheeltapper_fleet.learning.policies.spec import PolicySpec, parse_policy, read_policy
from wheeltapper_fleet.learning.policies.tables import policies, policy_events

__all__ = ["Policy", "add_event", "due_policies", "last_cycle", "load_policy", "note", "policy_row", "save_step"]

_SUBJECT_CHARACTERS: Final = 200
_DETAIL_CHARACTERS: Final = 2000


@dataclass(frozen=True)
class Policy:
    """A policy as it is stored."""

    spec: PolicySpec
    state: PolicyState
    version: int
    event: int


def policy_row(connection: Connection, name: str, *, lock: bool = False) -> Row[Any]:
    """The row of a policy.

    Raises:
        FleetError: ``policy.not_found``.
    """
    query = select(policies).where(policies.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise FleetError("policy.not_found", f"there is no policy {name[:80]!r}", 404)
    return row


def load_policy(row: Row[Any]) -> Policy:
    """What a row says.

    Raises:
        FleetError: ``policy.unreadable``: another version of the service wrote it.
    """
    try:
        spec = read_policy(parse_policy(row.text))
        state = msgspec.convert(row.state, PolicyState)
    except (FleetError, msgspec.ValidationError, TypeError) as error:
        message = f"this version cannot read the policy {row.name}: {error}; apply its file again"
        raise FleetError("policy.unreadable", message, 409) from error
    return Policy(spec, state, int(row.version), int(row.event))


def due_policies(connection: Connection, now: float, most: int) -> list[str]:
    """Names of policies that are to be looked at, the longest due first. Costs what is due."""
    due = select(policies.c.name).where(policies.c.due_at <= now).order_by(policies.c.due_at).limit(most)
    return list(connection.execute(due).scalars())


def last_cycle(connection: Connection, name: str) -> int:
    """The highest cycle of a policy of this name, also of one that was removed."""
    query = select(func.coalesce(func.max(policy_events.c.cycle), 0)).where(policy_events.c.policy == name)
    return int(connection.execute(query).scalar_one())


def add_event(
    connection: Connection,
    name: str,
    cycle: int,
    arrow: Arrow,
    now: float,
    *,
    cause: int | None,
    event: Input | None = None,
) -> int:
    """Write down what happened; returns the event's number."""
    values = {
        "policy": name,
        "cycle": cycle,
        "at": now,
        "kind": arrow.kind,
        "cause": cause or None,
        "subject": arrow.subject[:_SUBJECT_CHARACTERS],
        "detail": arrow.detail.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_DETAIL_CHARACTERS],
        "input": None if event is None else msgspec.to_builtins(event),
    }
    return insert_one(connection, policy_events, values)


def save_step(
    connection: Connection,
    policy: Policy,
    after: PolicyState,
    arrow: Arrow,
    event: Input,
    due_at: float | None,
    now: float,
) -> Policy:
    """Store a step: the state after it, and its event, whose cause is the one before.

    Raises:
        FleetError: ``policy.conflict``: the policy has moved on since it was loaded.
    """
    name = policy.spec.name
    number = add_event(connection, name, after.cycle, arrow, now, cause=policy.event, event=event)
    values = {"state": msgspec.to_builtins(after), "stage": after.stage.value, "due_at": due_at, "problem": ""}
    values |= {"version": policy.version + 1, "event": number}
    here = (policies.c.name == name, policies.c.version == policy.version)
    if connection.execute(update(policies).where(*here).values(values)).rowcount != 1:
        raise FleetError("policy.conflict", f"the policy {name} was changed in this moment; look at it again", 409)
    return Policy(policy.spec, after, policy.version + 1, number)


def note(connection: Connection, name: str, version: int, **values: Any) -> None:
    """Change what is no step: when it is looked at again, what a look found, what keeps it. Of this version only."""
    here = (policies.c.name == name, policies.c.version == version)
    connection.execute(update(policies).where(*here).values(values))
