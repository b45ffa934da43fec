"""What devices report about their executions, applied in the caller's transaction.

Invariants:
    * A device moves only its own executions.
    * A state never goes backwards and a terminal one never changes, so reports may come twice and in any order
      (:mod:`wheeltapper_fleet.campaigns.rules.execution`).
    * An execution that was withdrawn only because its campaign paused is not lost: it gets another id, under which the
      device is asked again when the campaign goes on.
    * Where a report changes what the device is to be told, the device is marked (:mod:`.due`).

Cost: the same for a campaign of ten devices and of a hundred thousand; no campaign is read.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.moves import lock_execution, new_execution_id, write_moves
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.execution import AskAgain, Execution, ExecutionEvent, Refuse, Report, move
from wheeltapper_fleet.campaigns.tables import campaigns
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport, ExecutionState

__all__ = ["apply_assignment_refused", "apply_execution_report"]

_WITHDRAWN: Final = "update.withdrawn"
"""The device's reason where a newer assignment leaves its execution out."""
_GOES_ON: Final = (CampaignState.RUNNING.value, CampaignState.PAUSED.value)


def apply_execution_report(connection: Connection, device: str, report: ExecutionReport, now: float) -> None:
    """Move the execution to the state that ``device`` reports."""
    found = lock_execution(connection, device, report.execution)
    if found is not None:
        event: ExecutionEvent = Report(report.state, report.code, report.detail)
        given_up = report.state in (ExecutionState.CANCELLED, ExecutionState.ROLLED_BACK)
        if given_up and report.code == _WITHDRAWN and _is_still_wanted(connection, found):
            event = AskAgain(new_execution_id())
        write_moves(connection, [(found, move(found, event))], now)


def apply_assignment_refused(connection: Connection, device: str, refusal: AssignmentRefused, now: float) -> None:
    """End the execution whose assignment ``device`` refused. A refusal that names no execution changes nothing."""
    found = None if refusal.execution is None else lock_execution(connection, device, refusal.execution)
    if found is not None:
        write_moves(connection, [(found, move(found, Refuse(refusal.code, refusal.detail)))], now)


def _is_still_wanted(connection: Connection, execution: Execution) -> bool:
    """Whether its campaign goes on."""
    state = select(campaigns.c.state).where(campaigns.c.id == execution.campaign)
    return connection.execute(state).scalar_one_or_none() in _GOES_ON
