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

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.moves import lock_reported, new_execution_id, write_moves
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.execution import AskAgain, Execution, ExecutionEvent, Refuse, Report, move
from wheeltapper_fleet.campaigns.tables import campaigns
from wheeltapper_fleet.ground.rounds import in_rounds
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport, ExecutionState

__all__ = ["ReportedOn", "apply_reports"]

_WITHDRAWN: Final = "update.withdrawn"
"""The device's reason where a newer assignment leaves its execution out."""
_GOES_ON: Final = (CampaignState.RUNNING.value, CampaignState.PAUSED.value)


ReportedOn = tuple[str, ExecutionReport | AssignmentRefused]
"""A device, and what it said of an execution."""


def apply_reports(connection: Connection, said: Sequence[ReportedOn], now: float) -> None:
    """Move executions to the states that devices report; end those whose assignment was refused.

    A refusal that names no execution changes nothing. Of one execution, what was said first is applied first.

    Cost: a handful of statements for all executions that are reported on, and as many again for a second report on the
    same execution.
    """
    for some in in_rounds(said, lambda each: (each[0], each[1].execution)):
        messages = {(message.execution, device): message for device, message in some if message.execution is not None}
        found = lock_reported(connection, messages.keys())
        moves = [(each, move(each, _event(connection, each, messages[each.id, each.device]))) for each in found]
        write_moves(connection, moves, now)


def _event(
    connection: Connection, execution: Execution, message: ExecutionReport | AssignmentRefused
) -> ExecutionEvent:
    if isinstance(message, AssignmentRefused):
        return Refuse(message.code, message.detail)
    given_up = message.state in (ExecutionState.CANCELLED, ExecutionState.ROLLED_BACK)
    if given_up and message.code == _WITHDRAWN and _is_still_wanted(connection, execution):
        return AskAgain(new_execution_id())
    return Report(message.state, message.code, message.detail)


def _is_still_wanted(connection: Connection, execution: Execution) -> bool:
    """Whether its campaign goes on."""
    state = select(campaigns.c.state).where(campaigns.c.id == execution.campaign)
    return connection.execute(state).scalar_one_or_none() in _GOES_ON
