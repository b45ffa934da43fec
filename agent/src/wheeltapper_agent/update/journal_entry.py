"""What the journal holds: what the newest assignment asks for, the execution under way, and those that ended. Pure.

What this module does not do: read or write a file (:mod:`wheeltapper_agent.update.journal`), change an entry
(:mod:`wheeltapper_agent.update.desired`).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from wheeltapper_agent.update.probation import WindowStatistics
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["EndedExecution", "Execution", "JournalEntry", "PlannedExecution"]

_TERMINAL: Final = frozenset(state.value for state in ExecutionState if state.terminal)


class PlannedExecution(Struct, frozen=True, kw_only=True):
    """An execution that was assigned and has not begun."""

    id: str
    campaign: str
    targets: dict[str, PipelineTarget]
    """By pipeline: the release that it shall run."""
    deadline: float | None = None
    """Unix time by which the release must be active."""


class EndedExecution(Struct, frozen=True, kw_only=True):
    """An execution that ended, and how. It is not run again."""

    id: str
    end: str
    """The terminal state, as text, as in :class:`Execution`."""
    code: str = ""
    detail: str = ""
    reported: bool = False
    """False between journalling the end and appending its report."""


class Execution(Struct, frozen=True, kw_only=True):
    """One execution: one device's attempt to run what an assignment says.

    ``state`` is text and not an enum, since an older or newer version of the agent may have written it.
    """

    id: str
    campaign: str = ""
    state: str
    code: str = ""
    detail: str = ""
    resumes: int = 0
    """Starts of the agent that found the execution in this state after an unclean end."""
    stopped: bool = False
    """The agent ended cleanly, so the next start is not counted in ``resumes``."""
    withdrawn: bool = False
    """A newer assignment does not name it any more. It never comes back."""
    superseded_by: str = ""
    """Where that assignment names another execution for one of its pipelines: the id of that one."""
    targets: dict[str, PipelineTarget] = {}
    """By pipeline: the release that it shall run."""
    before: dict[str, str | None] = {}
    """By pipeline: the slot whose release ran before the activation; a rollback returns to it."""
    baseline: dict[str, WindowStatistics] = {}
    """By pipeline: statistics of the last windows of that release; probation measures against them."""
    deadline_seconds: float = 0.0
    """Allowed from its beginning to the activation; 0: no limit."""
    spent_seconds: float = 0.0
    """How much of ``deadline_seconds`` had passed at the moment ``at``."""
    at: float = 0.0
    """Unix time when this was written, by the device's clock."""
    boot: str = ""
    """Id of the boot in which this was written."""
    boot_seconds: float = 0.0
    """Seconds since that boot when this was written."""

    @property
    def ended(self) -> bool:
        """Whether it is in a terminal state."""
        return self.state in _TERMINAL


class JournalEntry(Struct, frozen=True, kw_only=True):
    """Everything that is journalled: what was accepted last, and what came of it and of those before."""

    format: int = 1
    counter: int = 0
    payload_sha256: str = ""
    newest_time_seconds: float = 0.0
    execution: Execution | None = None
    """Under way, or the one that ended last."""
    planned: list[PlannedExecution] = []
    """What the newest assignment asks for beside it, in the order in which it is begun."""
    ended: list[EndedExecution] = []
    """Those that ended, the newest last."""
