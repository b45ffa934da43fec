"""Runs the process that trains, and watches it.

Invariants:
    * However it ends, there is an outcome: of a process that died without one, its signal and the end of its log.
    * The process and what it started end with the ``with`` statement.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from wheeltapper_fleet.ground.die_with_parent import die_with_parent
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_protocols.python_path import child_environment, python_command

__all__ = ["Execution"]

_SECRETS: Final = ("WHEELTAPPER_API_TOKEN", "WHEELTAPPER_TOKEN")
_LOG_BYTES: Final = 4000


class Execution:
    """One run under way. Start it from a thread that lives as long as it shall; the kernel kills it with that.

    Args:
        folder: of the run, with its task.
        module: the module that does it, started as a program with the folder's path.
    """

    def __init__(self, folder: RunFolder, module: str) -> None:
        self._folder = folder
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        program, *arguments = python_command("-m", module, str(folder.path))
        with folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent(program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(environment),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; returns whether it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def outcome(self) -> Outcome:
        """How it ended; call it after its end."""
        found = self._folder.outcome()
        if found is not None:
            return found
        status = self._process.returncode
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        text = f"the training process ended {how}: {_end_of(self._folder.log)}"[:2000]
        outcome = Outcome(state=State.FAILED, error_code="run.died", error_detail=text)
        with contextlib.suppress(OSError):  # the disk is full: what is said of the run does not depend on it
            self._folder.write_outcome(outcome)
        return outcome


def _end_of(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LOG_BYTES))
        text = file.read().decode(errors="replace").replace("\0", " ")
    return text.strip()[-1000:] or "its log is empty"
