"""Carries out what a step of a campaign wants, as far as one transaction goes. In the caller's transaction.

What does not fit is not lost and not written down either: the counts show that it was not done, so that the next step
wants it again (:mod:`wheeltapper_fleet.campaigns.rules.campaign`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection

from wheeltapper_fleet.campaigns.default_releases import set_default_within
from wheeltapper_fleet.campaigns.moves import assign_pending, cancel_pending, fill_places
from wheeltapper_fleet.campaigns.rules.campaign import (
    AssignPending,
    Campaign,
    CancelPending,
    Effect,
    FillPlaces,
    Log,
    MakeDefault,
    TakeBack,
)
from wheeltapper_fleet.campaigns.rules.waves import Tallies
from wheeltapper_fleet.campaigns.store import record_logs
from wheeltapper_fleet.campaigns.take_back import take_back

__all__ = ["SLICE", "carry_out", "wind_down"]

SLICE: Final = 250
"""Executions that one transaction moves, or devices whose assignments it stores: some 20 ms of the write lock."""
_ENGINE: Final = "engine"


def carry_out(
    connection: Connection,
    campaign: Campaign,
    tallies: Tallies,
    effects: Sequence[Effect],
    *,
    who: str,
    most: int,
    now: float,
) -> int:
    """Carry out ``effects`` on up to ``most`` executions; returns how many were moved.

    Args:
        connection: within the transaction that stores the campaign.
        campaign: after the step.
        tallies: the counts that the step was decided on.
        effects: what it wants.
        who: whose name its log lines get.
        most: executions that this transaction may move.
        now: Unix seconds.
    """
    moved = 0
    record_logs(connection, campaign.id, [effect for effect in effects if isinstance(effect, Log)], who, now)
    for effect in effects:
        left = most - moved
        match effect:
            case AssignPending(wave, count, deadline_at):
                moved += assign_pending(connection, campaign.id, wave, min(count, left), deadline_at, now)
            case FillPlaces(wave, count):
                moved += _fill_places(connection, campaign.id, tallies, wave, min(count, left), now)
            case CancelPending(count):
                moved += wind_down(connection, campaign.id, tallies, min(count, left), now)
            case TakeBack(release, count):
                take_back(connection, campaign, release, count, now)
                moved += count
            case MakeDefault():
                _make_default(connection, campaign, now)
    return moved


def wind_down(connection: Connection, campaign: str, tallies: Tallies, most: int, now: float) -> int:
    """Cancel up to ``most`` executions of a campaign that were not handed out; returns how many."""
    moved = 0
    for wave in _pending_waves(tallies):
        if moved < most:
            moved += cancel_pending(connection, campaign, wave, most - moved, now)
    return moved


def _fill_places(connection: Connection, campaign: str, tallies: Tallies, wave: int, most: int, now: float) -> int:
    moved = 0
    for later in _pending_waves(tallies):
        if later > wave and moved < most:
            moved += fill_places(connection, campaign, wave, later, most - moved, now)
    return moved


def _pending_waves(tallies: Tallies) -> Iterator[int]:
    return (wave for wave in sorted({wave for wave, _ in tallies.cells}) if tallies.pending(wave))


def _make_default(connection: Connection, campaign: Campaign, now: float) -> None:
    for pipeline in campaign.spec.pipelines:
        set_default_within(
            connection,
            campaign.spec.model,
            campaign.spec.release,
            pipeline=pipeline,
            audience=campaign.spec.audience,
            who=_ENGINE,
            why=f"campaign {campaign.id} completed",
            now=now,
        )
