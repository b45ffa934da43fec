"""What devices report about their executions, applied in the caller's transaction.

Invariants:
    * A device moves only its own executions.
    * A state never goes backwards and a terminal one never changes, so reports may come twice and in any order
      (:mod:`wheeltapper_fleet.campaigns.rules.execution`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import advance, is_terminal, refuse
from wheeltapper_fleet.campaigns.tables import executions
from wheeltapper_fleet.devices.commands import answer_cancels
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport

__all__ = ["apply_assignment_refused", "apply_execution_report"]


def apply_execution_report(connection: Connection, device: str, report: ExecutionReport, now: float) -> None:
    """Move the execution to the state that ``device`` reports; its end also answers commands to cancel it."""
    _move(
        connection,
        device,
        report.execution,
        lambda state: advance(state, report.state),
        report.code,
        report.detail,
        now,
        reported=report.state.value,
    )
    if report.state.terminal:
        answer_cancels(connection, device, report.execution, {"state": report.state.value}, now)


def apply_assignment_refused(connection: Connection, device: str, refusal: AssignmentRefused, now: float) -> None:
    """End the execution whose assignment ``device`` refused. A refusal that names no execution changes nothing."""
    if refusal.execution is not None:
        _move(connection, device, refusal.execution, refuse, refusal.code, refusal.detail, now)


def _move(
    connection: Connection,
    device: str,
    execution: str,
    next_state: Callable[[str], str],
    code: str,
    detail: str,
    now: float,
    reported: str = "",
) -> None:
    """Store an execution's next state.

    The state may stay and only its code change: the device reports again the state it is in, with a new reason why it
    has not come further (``update.waiting_window``, then ``update.waiting_disk``).
    """
    own = (executions.c.id == execution, executions.c.device == device)
    state = connection.execute(select(executions.c.state).where(*own)).scalar_one_or_none()
    if state is None:
        return
    following = next_state(state)
    new_reason = reported == state and bool(code) and not is_terminal(state)
    if following != state or new_reason:
        values = {"state": following, "code": code, "detail": detail, "updated_at": now}
        connection.execute(executions.update().where(*own).values(values))
