"""Lets only one agent run on a state folder: two would give the same numbers to different records.

The agent holds a lock (``flock(2)``) on a file in the folder until its process ends. The kernel releases the lock
however the process ends. Child processes do not inherit it.

Not done here: keeping others from reading; ``status``, ``doctor`` and ``export`` take no lock.
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
"""In the state folder."""


class StateLock:
    """Locks a state folder, from the moment it is made until :meth:`close` or the end of the process.

    Where the file cannot be created or locked (a full disk, a file system without locks), it only logs a warning: an
    agent must start there, too.

    Args:
        folder: the state folder.

    Raises:
        AgentError: ``local.in_use``: another agent holds the lock.
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
        """Release the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
