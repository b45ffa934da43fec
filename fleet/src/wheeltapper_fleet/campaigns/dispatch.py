"""Dispatch: which device is sent which assignment. In the caller's transaction.

Invariant: until its execution has ended, an assignment is published again when the service starts, when the broker
comes back, and when the device reports an older counter than the assignment's.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import is_terminal
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["assignment_publication", "newer_assignment", "unfinished_assignments"]


def assignment_publication(device: str, envelope: str) -> Publication:
    """The message that gives ``device`` its assignment: the signed envelope, retained."""
    return Publication(down_topic(device, Down.ASSIGNMENT), envelope.encode(), retain=True)


def unfinished_assignments(connection: Connection) -> list[Publication]:
    """Every assignment whose execution has not ended."""
    query = select(assignments.c.device, assignments.c.envelope).where(
        assignments.c.execution.in_(select(executions.c.id).where(executions.c.state.not_in(TERMINAL_STATES)))
    )
    return [assignment_publication(row.device, row.envelope) for row in connection.execute(query)]


def newer_assignment(connection: Connection, device: str, counter: int) -> Publication | None:
    """The assignment of ``device``, if its execution has not ended and the device, at ``counter``, does not have it."""
    query = (
        select(assignments.c.envelope, assignments.c.counter, executions.c.state)
        .join(executions, executions.c.id == assignments.c.execution)
        .where(assignments.c.device == device)
    )
    row = connection.execute(query).one_or_none()
    if row is None or row.counter <= counter or is_terminal(row.state):
        return None
    return assignment_publication(device, row.envelope)
