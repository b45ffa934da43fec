"""Counting within a wave: who ended how, whether it has passed, whether a rule is broken. Pure; fails closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.spec import AbortRule, Success

__all__ = ["Execution", "Tally", "Wave", "WaveState", "broken_rule", "tally"]


class WaveState(StrEnum):
    """Where a wave stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SOAKING = "SOAKING"
    PASSED = "PASSED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Wave:
    """One wave's progress. ``since`` is the Unix time at which it came to its state."""

    state: WaveState = WaveState.PENDING
    since: float = 0.0


@dataclass(frozen=True)
class Execution:
    """One device's attempt, as the fleet knows it."""

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
    def executed(self) -> bool:
        """Whether it was assigned and has ended: the denominator of every percentage."""
        return self.terminal and self.assigned_at is not None


@dataclass(frozen=True)
class Tally:
    """Counts of a wave."""

    size: int
    successes: int
    unfinished: int

    def passed(self, success: Success) -> bool:
        """Whether enough have succeeded."""
        return self.size > 0 and self.successes >= success.needed(self.size)

    def hopeless(self, success: Success) -> bool:
        """Whether enough can no longer succeed."""
        return self.successes + self.unfinished < success.needed(self.size)


def tally(executions: Iterable[Execution]) -> Tally:
    """Count the executions of one wave."""
    each = list(executions)
    return Tally(
        size=len(each),
        successes=sum(execution.state == SUCCESS for execution in each),
        unfinished=sum(not execution.terminal for execution in each),
    )


def broken_rule(rules: Sequence[AbortRule], executions: Sequence[Execution], wave: int) -> AbortRule | None:
    """The first rule that the ended executions break, None if all hold."""
    for rule in rules:
        of = [each for each in executions if each.executed and (rule.scope == "campaign" or each.wave == wave)]
        bad = sum(each.state in rule.states for each in of)
        if len(of) < rule.minimum_executed or bad == 0:
            continue
        if rule.count is not None and bad >= rule.count:
            return rule
        if rule.percent is not None and bad * 100.0 >= rule.percent * len(of):
            return rule
    return None
