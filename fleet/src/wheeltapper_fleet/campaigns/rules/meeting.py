"""Where campaigns meet on one device: who decides about each of its pipelines. Pure.

The rule, for one pipeline:
    * Of two campaigns under way the one with the higher ``priority`` wins; with equal priorities, the newer one.
    * What a campaign has committed stands after its end too: an older campaign does not take the device back, unless
      its priority is higher. A newer campaign always may.
    * A default release (:mod:`wheeltapper_fleet.campaigns.rules.default_release`) yields to every campaign.

Invariants:
    * The orders of a decision never share a pipeline.
    * An execution that loses one of its pipelines is superseded as a whole: it covers all of its pipelines or none.
    * Which order claims come in does not matter.

Example::

    decide([claim("a", pipelines=("main",), since=1.0), claim("b", pipelines=("main",), since=2.0)])
    # orders: b; superseded: a by b
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.execution import PENDING, RETRYING
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["ENDED_STATES", "Claim", "Decision", "Standing", "decide", "standing_of"]

ENDED_STATES: Final = frozenset({CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK})

_NOT_STARTED: Final = frozenset({CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL})


class Standing(Enum):
    """What an execution asks of its device now."""

    PLANNED = "planned"
    """Its wave has not opened: it asks for nothing yet."""
    ORDERED = "ordered"
    """It is to be carried out."""
    HELD = "held"
    """It is not handed out, and keeps its place: its campaign is paused and the device has not begun it, or it failed
    and is asked again later."""
    CALLED_OFF = "called off"
    """Its campaign was aborted or its default release cleared: the device is told to give it up."""
    COMMITTED = "committed"
    """It has ended well: the device runs its release."""


@dataclass(frozen=True)
class Claim:
    """An execution's claim on pipelines of its device.

    Args:
        execution: its id.
        origin: id of its campaign or default release.
        pipelines: the pipelines that it covers.
        standing: what it asks for now.
        priority: of its campaign.
        since: when its campaign or default release was made (Unix seconds).
        default: whether a default release asks for it.
        ended: whether its campaign has ended.
    """

    execution: str
    origin: str
    pipelines: tuple[str, ...]
    standing: Standing
    priority: int = 0
    since: float = 0.0
    default: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Decision:
    """What a device is told, and which executions lost their device.

    Args:
        orders: ids of the executions to carry out, the strongest first.
        superseded: by execution, the campaign or default release that takes its place.
    """

    orders: tuple[str, ...]
    superseded: dict[str, str]


def standing_of(execution: str, campaign: str) -> Standing | None:
    """What an execution in state ``execution`` asks for while its campaign is ``campaign``; None: nothing any more.

    In a campaign that is neither RUNNING nor known to have ended, only what the device has begun goes on.
    """
    if execution == ExecutionState.COMMITTED:
        return None if campaign in (CampaignState.ABORTED, CampaignState.ROLLED_BACK) else Standing.COMMITTED
    if execution in ExecutionState.__members__ and ExecutionState(execution).terminal:
        return None
    if campaign in ENDED_STATES:
        return Standing.CALLED_OFF
    if execution == PENDING:
        return None if campaign in _NOT_STARTED else Standing.PLANNED
    if execution == RETRYING:
        return Standing.HELD
    if campaign == CampaignState.RUNNING or execution != ExecutionState.ASSIGNED:
        return Standing.ORDERED
    return Standing.HELD


def decide(claims: Sequence[Claim]) -> Decision:
    """Decide between the claims on one device."""
    holders = [claim for claim in claims if claim.standing is Standing.COMMITTED]
    orders: list[str] = []
    superseded: dict[str, str] = {}
    for claim in sorted(claims, key=_rank, reverse=True):
        if claim.standing is Standing.COMMITTED:
            continue
        winner = next((each for each in holders if _meet(each, claim) and _beats(each, claim)), None)
        if winner is not None:
            superseded[claim.execution] = winner.origin
            continue
        if claim.standing in (Standing.ORDERED, Standing.HELD):
            holders.append(claim)
        if claim.standing is Standing.ORDERED:
            orders.append(claim.execution)
    return Decision(tuple(orders), superseded)


def _rank(claim: Claim) -> tuple[bool, int, float, str]:
    return not claim.default, claim.priority, claim.since, claim.origin


def _meet(holder: Claim, claim: Claim) -> bool:
    return holder.origin != claim.origin and not set(holder.pipelines).isdisjoint(claim.pipelines)


def _beats(holder: Claim, claim: Claim) -> bool:
    """Whether ``holder`` keeps a pipeline against ``claim``."""
    if holder.standing is Standing.COMMITTED and claim.default:
        return False  # whether a default release asks for anything then is decided where its execution is made
    if holder.standing is Standing.COMMITTED and holder.ended:
        return claim.priority <= holder.priority and (claim.since, claim.origin) < (holder.since, holder.origin)
    return _rank(holder) > _rank(claim)
