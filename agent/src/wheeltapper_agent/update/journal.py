"""The journal: where the device stands, in one small file that is replaced atomically.

Invariants: what :meth:`Journal.write` returned from is on the disk; an unreadable journal is reported, never guessed
at: the agent then keeps the model that is active and starts with an empty one. What must not be forgotten with it is in
:mod:`wheeltapper_agent.update.floors`.
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
from wheeltapper_agent.update.probation import Figures
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Entry", "Execution", "Journal"]

_LOG = logging.getLogger(__name__)
_ENDS: Final = frozenset(state.value for state in ExecutionState if state.terminal)


class Execution(Struct, frozen=True, kw_only=True):
    """One execution. ``state`` is text, since an older or newer version may have written it."""

    id: str
    campaign: str = ""
    state: str
    code: str = ""
    detail: str = ""
    resumes: int = 0
    """Starts that found it in this state after an unclean end."""
    stopped: bool = False
    """The agent ended cleanly; the start after it counts for nothing."""
    reported: bool = True
    """False between journalling a terminal state and appending its report."""
    targets: dict[str, PipelineTarget] = {}
    before: dict[str, str | None] = {}
    """The slot that was active for each pipeline before activation; what a rollback returns to."""
    baseline: dict[str, Figures] = {}
    """What that release's last windows came to; what probation measures against."""
    deadline_seconds: float = 0.0
    """From the assignment to the activation; 0: no limit."""
    spent_seconds: float = 0.0
    """Of these, up to ``at``."""
    at: float = 0.0
    """Unix time when this was written, by the device's clock."""
    boot: str = ""
    """Id of the boot in which this was written."""
    boot_seconds: float = 0.0
    """Seconds since that boot when this was written."""

    @property
    def over(self) -> bool:
        """Whether it came to its end."""
        return self.state in _ENDS


class Entry(Struct, frozen=True, kw_only=True):
    """Everything journalled."""

    format: int = 1
    counter: int = 0
    payload_sha256: str = ""
    newest_time_seconds: float = 0.0
    execution: Execution | None = None


class Journal:
    """Reads and writes :class:`Entry` at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Entry:
        """The entry last written; an empty one if there is none or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Entry)
        except FileNotFoundError:
            return Entry()
        except (OSError, ValueError, RecursionError, ProtocolError) as error:  # msgspec's errors are ValueErrors
            _LOG.error("journal.unreadable: %s; kept as %s.bad", error, self._path.name)
            with contextlib.suppress(OSError):
                self._path.replace(self._path.with_name(f"{self._path.name}.bad"))
            return Entry()

    def write(self, entry: Entry) -> None:
        """Replace the entry; durable on return.

        Raises:
            AgentError: ``storage.*``; what was written before still stands.
        """
        try:
            write_atomic(self._path, msgspec.json.encode(entry))
        except OSError as error:
            raise storage_error(error, "the journal cannot be written") from error
