"""What devices report about their executions, applied in the caller's transaction.

Invariants:
    * A device moves only its own executions.
    * A state never goes backwards and a terminal one never changes, so reports may come twice and in any order
      (:mod:`wheeltapper_fleet.campaigns.rules.execution`).
    * An execution that was withdrawn only because its campaign paused is not lost: it gets another id, under which the
      device is asked again when the campaign goes on.
    * Where a report changes what the device is to be told, the device is marked (:mod:`.due`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.due import mark_device
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.execution import PENDING, advance, is_terminal, refuse
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport, ExecutionState

__all__ = ["apply_assignment_refused", "apply_execution_report"]

_WITHDRAWN: Final = "update.withdrawn"
"""The device's reason where a newer assignment leaves its execution out."""


def apply_execution_report(connection: Connection, device: str, report: ExecutionReport, now: float) -> None:
    """Move the execution to the state that ``device`` reports."""
    given_up = report.state in (ExecutionState.CANCELLED, ExecutionState.ROLLED_BACK)
    if given_up and report.code == _WITHDRAWN and _ask_again(connection, device, report.execution, now):
        return
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
    if following != state and (is_terminal(following) or state == ExecutionState.ASSIGNED):
        mark_device(connection, device, now)


def _ask_again(connection: Connection, device: str, execution: str, now: float) -> bool:
    """Give an unfinished execution of a campaign that still wants it another id; returns whether there was one.

    The device remembers the id that it has ended, and would not begin it again.
    """
    wanted = select(campaigns.c.id).where(
        campaigns.c.state.in_((CampaignState.RUNNING.value, CampaignState.PAUSED.value))
    )
    unfinished = (
        executions.c.id == execution,
        executions.c.device == device,
        executions.c.state.not_in((PENDING, *TERMINAL_STATES)),
        executions.c.campaign.in_(wanted),
    )
    values = {
        "id": f"e-{secrets.token_hex(8)}",
        "state": ExecutionState.ASSIGNED.value,
        "code": "execution.asked_again",
        "detail": f"withdrawn as {execution} while the campaign was paused",
        "updated_at": now,
    }
    if connection.execute(executions.update().where(*unfinished).values(values)).rowcount != 1:
        return False
    mark_device(connection, device, now)
    return True
