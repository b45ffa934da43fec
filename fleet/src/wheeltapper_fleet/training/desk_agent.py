"""Runs ``wheeltapper-agent bundle …`` as a process: what it finds with a bundle is what a device finds.

Agent and fleet import nothing of each other; what they share is this command line. Another environment's agent can be
named, such as one with numpy 1.26 and tflite-runtime.

Invariants:
    * A model is loaded by the agent's process only, never by this one: one that crashes, hangs or takes all memory ends
      that process, and is refused with a code.
    * Whatever the agent answers, this module returns values or raises :class:`TrainingError`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.python_path import child_environment, python_command
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["DeskAgent", "has_agent"]

_AGENT: Final = "wheeltapper_agent"
_PROGRAM: Final = "wheeltapper-agent"
_ERROR: Final = re.compile(r"^error: (.*) \[([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+)\]$", re.MULTILINE)
_CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Samples in one call, so that arrays made of them stay within a board's memory."""
_MARGIN_SECONDS: Final = 30.0
"""For the start of the process, beyond the time that the model has."""


def has_agent() -> bool:
    """Whether an agent is installed here."""
    return importlib.util.find_spec(_AGENT) is not None or shutil.which(_PROGRAM) is not None


class DeskAgent:
    """The agent on this computer.

    Args:
        command: its command line, as ``/opt/legacy/bin/wheeltapper-agent``; empty: the one that is installed here.
        timeout_seconds: for one runtime.

    Raises:
        TrainingError: ``bundle.no_agent``.
    """

    def __init__(self, command: str = "", timeout_seconds: float = 120.0) -> None:
        self._timeout_seconds = timeout_seconds
        self._command = shlex.split(command)
        if not self._command and importlib.util.find_spec(_AGENT) is not None:
            self._command = python_command("-m", _AGENT)
        elif not self._command and (found := shutil.which(_PROGRAM)):
            self._command = [found]
        if not self._command or shutil.which(self._command[0]) is None:
            text = f"{command or _PROGRAM} is not installed here, and only an agent knows what a device would do"
            raise TrainingError(
                "bundle.no_agent", f"{text}: install wheeltapper-agent[onnx] or [litert], or name --agent"
            )

    def check(self, folder: Path, profile: str = "", runtime: str = "") -> list[dict[str, Any]]:
        """Self-test a bundle with each runtime.

        Args:
            folder: of the bundle.
            profile: the board; empty: any.
            runtime: the only one to test; empty: all that the bundle claims.

        Returns:
            One entry a runtime: ``runtime`` and ``metrics``, or ``code`` and ``message``.

        Raises:
            TrainingError: the code that the agent refuses the bundle with, ``bundle.crashed``, ``bundle.timeout``.
        """
        line = ["check", str(folder), "--json", "--timeout-seconds", f"{self._timeout_seconds:g}"]
        line += ["--profile", profile] if profile else []
        line += ["--runtime", runtime] if runtime else []
        status, out, err = self._run(line, 4 * self._timeout_seconds)
        try:
            found = json.loads(out)["runtimes"]
        except (ValueError, KeyError, TypeError):
            raise self._error(status, err) from None
        return [dict(entry) for entry in found]

    def board(self, name: str) -> dict[str, Any]:
        """What the agent knows of the board ``name``: the keys of its profile; none where it knows no such board."""
        status, out, err = self._run(["--json"], self._timeout_seconds, group="profiles")
        try:
            known = json.loads(out)
            return next((dict(each) for each in known if each["name"] == name), {})
        except (ValueError, KeyError, TypeError):
            raise self._error(status, err) from None

    def evaluate(
        self, folder: Path, samples: npt.NDArray[np.float32], runtime: str = "", with_inputs: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        """Score windows with a bundle.

        Args:
            folder: of the bundle.
            samples: [window, sample, channel] in the manifest's units.
            runtime: the only one to use; empty: the first that is installed.
            with_inputs: whether the model's input is wanted too.

        Returns:
            Arrays by name, as `wheeltapper-agent bundle evaluate` writes them.

        Raises:
            TrainingError: as :meth:`check`.
        """
        step = max(1, _CHUNK_BYTES // max(1, samples[0].nbytes))
        parts = [
            self._evaluate(folder, samples[start : start + step], runtime, with_inputs)
            for start in range(0, len(samples), step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _evaluate(
        self, folder: Path, samples: npt.NDArray[np.float32], runtime: str, with_inputs: bool
    ) -> dict[str, npt.NDArray[Any]]:
        with tempfile.TemporaryDirectory(prefix="wheeltapper-") as place:
            windows, out = Path(place, "windows.npz"), Path(place, "out.npz")
            with windows.open("xb") as file:
                write_npz({"samples": np.asarray(samples, dtype=np.float32)}, file)
            line = ["evaluate", str(folder), "--windows", str(windows), "--out", str(out)]
            line += ["--timeout-seconds", f"{self._timeout_seconds:g}"]
            line += ["--runtime", runtime] if runtime else []
            line += ["--inputs"] if with_inputs else []
            status, _, err = self._run(line, self._timeout_seconds)
            if status:
                raise self._error(status, err)
            with np.load(out, allow_pickle=False) as archive:
                return {name: np.asarray(archive[name]) for name in archive.files}

    def _run(self, arguments: Sequence[str], seconds: float, group: str = "bundle") -> tuple[int, str, str]:
        """Run the agent; return its exit status, standard output and the end of its standard error."""
        environment = child_environment(os.environ) | {"OPENBLAS_NUM_THREADS": "1"}
        environment.pop("WHEELTAPPER_TOKEN", None)
        process = subprocess.Popen(
            [*self._command, group, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds + _MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            text = f"the model was not loaded and run within {seconds:g} s; it hangs, or give --timeout-seconds"
            raise TrainingError("bundle.timeout", text) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, out, err[-4000:]

    def _error(self, status: int, err: str) -> TrainingError:
        """The error for what the agent wrote on standard error before it ended."""
        if (match := _ERROR.search(err)) is not None:
            return TrainingError(match[2], match[1])
        end = f"by signal {-status}" if status < 0 else f"with status {status}"
        return TrainingError("bundle.crashed", f"the model ended the agent's process {end}: {err.strip()[-300:]}")
