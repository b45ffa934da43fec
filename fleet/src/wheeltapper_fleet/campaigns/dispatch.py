"""Dispatch: which device is sent which assignment and which command, now.

Invariants:
    * An assignment is published again until its execution has ended: when the service starts, when the broker comes
      back, and when a device reports an older counter than the assignment's.
    * A command is published again, with a pause in between, until it is answered or expires.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import is_terminal
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.devices.commands import pending_payloads
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["CommandRepeater", "assignment_publication", "newer_assignment", "unfinished_assignments"]


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


class CommandRepeater:
    """Publishes unanswered commands, each again after ``repeat_seconds``."""

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._published_at: dict[str, float] = {}

    def due(self, connection: Connection, now: float) -> list[Publication]:
        """The commands to publish at ``now`` (Unix seconds)."""
        pending = pending_payloads(connection, now)
        waiting = {command for command, _, _ in pending}
        self._published_at = {command: at for command, at in self._published_at.items() if command in waiting}
        publications = []
        for command, device, payload in pending:
            if now - self._published_at.get(command, float("-inf")) >= self._repeat_seconds:
                self._published_at[command] = now
                publications.append(Publication(down_topic(device, Down.COMMAND), payload))
        return publications
