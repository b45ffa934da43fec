"""Counts of a campaign's executions: whether a wave has passed, whether an abort rule is broken. Pure.

Invariants:
    * In doubt a wave has not passed. An empty wave never passes, and only COMMITTED executions count as successes.
    * An execution that another campaign superseded says nothing about the release: it counts neither for nor against.
    * What is asked of the counts costs as much as there are waves and states, however many devices there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, Execution, is_terminal
from wheeltapper_fleet.campaigns.rules.spec import AbortRule, Success
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Count", "Tallies", "Wave", "WaveCounts", "WaveState", "broken_rule", "tally"]

_SUPERSEDED = ExecutionState.SUPERSEDED.value


class WaveState(StrEnum):
    """The state of a wave. RUNNING: its devices are assigned. SOAKING: enough succeeded, the soak time is not over."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SOAKING = "SOAKING"
    PASSED = "PASSED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Wave:
    """One wave's progress. ``since`` is when it came to its state (Unix seconds).

    ``handed_at``: up to this time its rate is used up. It says nothing of a wave without a rate.
    """

    state: WaveState = WaveState.PENDING
    since: float = 0.0
    handed_at: float = 0.0


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


@dataclass(frozen=True)
class Count:
    """How many executions there are of one wave in one state, and how many of them were ever assigned."""

    n: int = 0
    assigned: int = 0


@dataclass(frozen=True)
class Tallies:
    """How many executions a campaign has, by wave (from 0) and state. What is not in ``cells`` is none."""

    cells: Mapping[tuple[int, str], Count] = field(default_factory=dict)

    def pending(self, wave: int) -> int:
        """How many executions of a wave were not handed out yet."""
        return self._n(wave, PENDING)

    def superseded(self, wave: int) -> int:
        """How many executions of a wave lost their device to another campaign."""
        return self._n(wave, _SUPERSEDED)

    def pending_after(self, wave: int) -> int:
        """How many executions of all waves after ``wave`` were not handed out yet."""
        return sum(count.n for (of, state), count in self.cells.items() if of > wave and state == PENDING)

    @property
    def all_pending(self) -> int:
        """How many executions of all waves were not handed out yet."""
        return self.pending_after(-1)

    @property
    def unfinished(self) -> int:
        """How many executions of all waves have not ended."""
        return sum(count.n for (_, state), count in self.cells.items() if not is_terminal(state))

    @property
    def successes(self) -> int:
        """How many executions of all waves are COMMITTED."""
        return sum(count.n for (_, state), count in self.cells.items() if state == SUCCESS)

    def wave(self, index: int) -> WaveCounts:
        """The counts of one wave."""
        states = {state: count.n for (of, state), count in self.cells.items() if of == index and state != _SUPERSEDED}
        return WaveCounts(
            size=sum(states.values()),
            successes=states.get(SUCCESS, 0),
            unfinished=sum(n for state, n in states.items() if not is_terminal(state)),
        )

    def executed(self, states: Iterable[str], wave: int | None) -> tuple[int, int]:
        """How many executions were assigned and have ended, and how many of these in ``states``.

        ``wave``: of this wave alone; None: of all. Superseded ones count only if ``states`` says so.
        """
        bad_states = frozenset(states)
        counted = {
            key: count.assigned
            for key, count in self.cells.items()
            if is_terminal(key[1])
            and (wave is None or key[0] == wave)
            and (key[1] != _SUPERSEDED or key[1] in bad_states)
        }
        return sum(counted.values()), sum(n for (_, state), n in counted.items() if state in bad_states)

    def _n(self, wave: int, state: str) -> int:
        return self.cells.get((wave, state), Count()).n


def tally(executions: Iterable[Execution]) -> Tallies:
    """Count executions. Who keeps the counts in a table keeps them equal to this."""
    n: Counter[tuple[int, str]] = Counter()
    assigned: Counter[tuple[int, str]] = Counter()
    for each in executions:
        n[each.wave, each.state] += 1
        assigned[each.wave, each.state] += each.assigned
    return Tallies({key: Count(n[key], assigned[key]) for key in n})


def broken_rule(rules: Sequence[AbortRule], tallies: Tallies, wave: int) -> AbortRule | None:
    """The first of ``rules`` that the ended executions break while ``wave`` runs; None if all hold.

    Every percentage is of what was executed: assigned and ended.
    """
    for rule in rules:
        executed, bad = tallies.executed(rule.states, wave if rule.scope == "wave" else None)
        if executed < rule.minimum_executed or bad == 0:
            continue
        if rule.count is not None and bad >= rule.count:
            return rule
        if rule.percent is not None and bad * 100.0 >= rule.percent * executed:
            return rule
    return None
