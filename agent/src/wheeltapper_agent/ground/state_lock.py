"""One agent a state folder: two would give the same numbers to different records, and each would lose the other's.

A lock (``flock(2)``) on a file of the folder, held until the process ends, however it ends: the kernel gives it back.
A child that is started does not inherit it.

Not done here: keeping others (``status``, ``doctor``) from reading.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["LOCK_FILE", "StateLock"]

_LOG = logging.getLogger(__name__)
LOCK_FILE: Final = "lock"


class StateLock:
    """Holds ``folder`` from the moment it is made. Where the disk has no room for the file, or no locks, it only warns:
    an agent must start there too.

    Raises:
        AgentError: ``local.in_use``.
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = None
        path = folder / LOCK_FILE
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise AgentError("local.in_use", f"another agent runs on {folder}; stop it first") from error
        except OSError as error:
            self.close()
            _LOG.warning("agent: %s cannot be locked, a second agent would not be noticed: %s", path, error)

    def close(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
