"""Counts within a wave: how many executions ended how, whether the wave has passed, whether an abort rule is broken.

Invariants:
    * In doubt a wave has not passed. An empty wave never passes, and only COMMITTED executions count as successes.
    * An execution that another campaign superseded says nothing about the release: it counts neither for nor against.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.spec import AbortRule, Success
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Execution", "Wave", "WaveCounts", "WaveState", "broken_rule", "count_executions"]


class WaveState(StrEnum):
    """The state of a wave. RUNNING: its devices are assigned. SOAKING: enough succeeded, the soak time is not over."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SOAKING = "SOAKING"
    PASSED = "PASSED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Wave:
    """One wave's progress. ``since`` is when it came to its state (Unix seconds)."""

    state: WaveState = WaveState.PENDING
    since: float = 0.0


@dataclass(frozen=True)
class Execution:
    """One device's attempt within a campaign, as the fleet knows it. ``wave`` counts from 0; times are Unix seconds."""

    id: str
    device: str
    wave: int
    state: str = PENDING
    code: str = ""
    detail: str = ""
    assigned_at: float | None = None
    deadline_at: float | None = None

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return is_terminal(self.state)

    @property
    def superseded(self) -> bool:
        """Whether another campaign took its device."""
        return self.state == ExecutionState.SUPERSEDED

    @property
    def executed(self) -> bool:
        """Whether it was assigned and has ended: the denominator of every percentage."""
        return self.terminal and self.assigned_at is not None


@dataclass(frozen=True)
class WaveCounts:
    """How many executions a wave has (without superseded ones), how many are COMMITTED, how many have not ended."""

    size: int
    successes: int
    unfinished: int

    def passed(self, success: Success) -> bool:
        """Whether enough executions have succeeded."""
        return self.size > 0 and self.successes >= self._needed(success)

    def out_of_reach(self, success: Success) -> bool:
        """Whether ``success`` can no longer be reached, even if every unfinished execution succeeds."""
        return self.successes + self.unfinished < self._needed(success)

    def _needed(self, success: Success) -> int:
        """A wave that lost devices to another campaign cannot need more successes than it has devices left."""
        return min(success.needed(self.size), self.size)


def count_executions(executions: Iterable[Execution]) -> WaveCounts:
    """Count the executions of one wave."""
    each = [execution for execution in executions if not execution.superseded]
    return WaveCounts(
        size=len(each),
        successes=sum(execution.state == SUCCESS for execution in each),
        unfinished=sum(not execution.terminal for execution in each),
    )


def broken_rule(rules: Sequence[AbortRule], executions: Sequence[Execution], wave: int) -> AbortRule | None:
    """The first of ``rules`` that the ended executions break while ``wave`` runs; None if all hold."""
    for rule in rules:
        counted = [
            each
            for each in executions
            if each.executed
            and (rule.scope == "campaign" or each.wave == wave)
            and (not each.superseded or each.state in rule.states)
        ]
        bad = sum(each.state in rule.states for each in counted)
        if len(counted) < rule.minimum_executed or bad == 0:
            continue
        if rule.count is not None and bad >= rule.count:
            return rule
        if rule.percent is not None and bad * 100.0 >= rule.percent * len(counted):
            return rule
    return None
