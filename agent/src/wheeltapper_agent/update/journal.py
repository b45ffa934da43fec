"""The journal: where the device stands with its execution, in one small file that is replaced atomically.

Invariants:
    * When :meth:`Journal.write` returns, the entry is on the disk.
    * A journal that cannot be read is put aside and logged, never guessed at. The agent then keeps the model that is
      active and begins with an empty journal.

What must survive the loss of the journal is in :mod:`wheeltapper_agent.update.floors`.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from wheeltapper_agent.ground.errors import storage_error
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.update.probation import WindowStatistics
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Execution", "Journal", "JournalEntry"]

_LOG = logging.getLogger(__name__)
_TERMINAL: Final = frozenset(state.value for state in ExecutionState if state.terminal)


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
    reported: bool = True
    """False between journalling a terminal state and appending its report."""
    targets: dict[str, PipelineTarget] = {}
    """By pipeline: the release that it shall run."""
    before: dict[str, str | None] = {}
    """By pipeline: the slot whose release ran before the activation; a rollback returns to it."""
    baseline: dict[str, WindowStatistics] = {}
    """By pipeline: statistics of the last windows of that release; probation measures against them."""
    deadline_seconds: float = 0.0
    """Allowed from the assignment to the activation; 0: no limit."""
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
    """Everything that is journalled: what was accepted last, and the execution that it began."""

    format: int = 1
    counter: int = 0
    payload_sha256: str = ""
    newest_time_seconds: float = 0.0
    execution: Execution | None = None


class Journal:
    """Reads and writes one :class:`JournalEntry` at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> JournalEntry:
        """The entry last written; an empty one if there is none or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=JournalEntry)
        except FileNotFoundError:
            return JournalEntry()
        except (OSError, ValueError, RecursionError, ProtocolError) as error:  # msgspec's errors are ValueErrors
            _LOG.error(
                "journal.unreadable: %s; it is kept as %s.bad, and the agent begins with an empty one",
                error,
                self._path.name,
            )
            with contextlib.suppress(OSError):
                self._path.replace(self._path.with_name(f"{self._path.name}.bad"))
            return JournalEntry()

    def write(self, entry: JournalEntry) -> None:
        """Replace the entry; it is durable when this returns.

        Raises:
            AgentError: ``storage.*``; the entry written before still stands.
        """
        try:
            write_atomic(self._path, msgspec.json.encode(entry))
        except OSError as error:
            raise storage_error(error, "the journal cannot be written") from error
