"""The journal: where the device stands with its executions, in one small file that is replaced atomically.

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

import msgspec

from wheeltapper_agent.ground.errors import storage_error
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.update.journal_entry import EndedExecution, Execution, JournalEntry, PlannedExecution
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["EndedExecution", "Execution", "Journal", "JournalEntry", "PlannedExecution"]

_LOG = logging.getLogger(__name__)


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
