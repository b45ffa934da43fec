"""Reads policies and what happened to them, for the API."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Engine, Row, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.learning.policies.rules import PolicyState, ends_at
from wheeltapper_fleet.learning.policies.schemas import PolicyDetail, PolicyEventView, PolicyView
from wheeltapper_fleet.learning.policies.store import load_policy, policy_row
from wheeltapper_fleet.learning.policies.tables import policies, policy_events

__all__ = ["explain_event", "get_policy", "list_events", "list_policies"]

_MOST_CAUSES: Final = 100


def list_policies(
    engine: Engine, *, model: str | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[PolicyView]:
    """A page of the policies, by name; of one model, or of all.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    within = None if model is None else policies.c.model == model
    with reading(engine) as connection:
        rows, following = page_of(
            connection, select(policies), (policies.c.name,), limit=limit, after=after, within=within
        )
    return Page([_view(row) for row in rows], following)


def get_policy(engine: Engine, name: str) -> PolicyDetail:
    """One policy.

    Raises:
        FleetError: ``policy.not_found``.
    """
    with reading(engine) as connection:
        row = policy_row(connection, name)
    state = row.state if isinstance(row.state, dict) else {}
    return PolicyDetail(**_view(row).model_dump(), text=row.text, state=state)


def list_events(
    engine: Engine, name: str, *, cycle: int | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[PolicyEventView]:
    """A page of what happened to a policy, newest first; also to one that was removed.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(policy_events).where(policy_events.c.policy == name)
    within = None if cycle is None else policy_events.c.cycle == cycle
    key = (policy_events.c.id,)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=within)
    return Page([PolicyEventView(**row._mapping) for row in rows], following)


def explain_event(engine: Engine, name: str, event: int) -> list[PolicyEventView]:
    """An event and its causes, one after the other back to the limit that was crossed, or to the person who began it.

    Raises:
        FleetError: ``policy.event_not_found``.
    """
    found: list[PolicyEventView] = []
    wanted: int | None = event
    with reading(engine) as connection:
        while wanted is not None and len(found) < _MOST_CAUSES:
            query = select(policy_events).where(policy_events.c.id == wanted, policy_events.c.policy == name)
            row = connection.execute(query).one_or_none()
            if row is None:
                break
            found.append(PolicyEventView(**row._mapping))
            wanted = None if row.kind == "crossed" else row.cause
    if not found:
        raise FleetError("policy.event_not_found", f"the policy {name[:80]!r} has no event {event}", 404)
    return found


def _view(row: Row[Any]) -> PolicyView:
    """A row; of one that this version cannot read what the row itself says."""
    ends: float | None = None
    problem, state = row.problem, PolicyState()
    try:
        policy = load_policy(row)
        state, ends = policy.state, ends_at(policy.spec, policy.state)
    except FleetError as error:
        problem = error.message
        if isinstance(row.state, dict):
            since = row.state.get("since")
            state = msgspec.structs.replace(state, since=since if isinstance(since, float) else 0.0)
    return PolicyView(
        name=row.name,
        model=row.model,
        stage=row.stage,
        since=state.since,
        ends_at=None if state.paused_at is not None else ends,
        paused=state.paused_at is not None,
        cycle=state.cycle,
        why=state.why,
        problem=problem,
        looked_at=row.looked_at,
        found=row.found,
        version=row.version,
        applied_at=row.applied_at,
        applied_by=row.applied_by,
    )
