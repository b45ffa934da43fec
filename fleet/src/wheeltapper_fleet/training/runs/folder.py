"""The folder of one run.

    task.json        what is to be done (:class:`Task`)
    progress.json    how far it is
    outcome.json     how it ended; written last, whole
    bundle/          the bundle, where it succeeded
    champion/        the bundle that it must not be worse than, where there is one
    plots/NAME.svg   plots of what was measured
    environment.json the libraries, each with its version
    workers/NN/      of a training by several processes, the folder of each
    trials/NNNN-S/   of a search, the folder of each trial and seed: a search that was killed goes on with them
    log.txt          what the process wrote

Invariant: every file appears whole or not at all, so whoever reads while a run is under way reads the truth.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.crew import Seat

__all__ = ["Progress", "RunFolder", "Task"]

_PLOTS: Final = 20
_T = TypeVar("_T")


class Task(Struct, frozen=True, kw_only=True):
    """What a run is to do.

    Args:
        run: its id.
        recipe: the text of the recipe file.
        seed: counts more than the recipe's.
        dataset: the version to train on; empty: what the recipe says.
        store: where datasets are; empty: where the recipe or the environment says.
        base: the folder that names of recordings are relative to; empty: none may be named.
        cause: why there is a run, for the lineage, such as ``person ann``.
        executor: ``local`` or ``ray``: where trials run.
        trial: number of the trial, where this is one of a search; such a task has no search of its own.
        parameters: of a trial, those that are tried; they count more than the recipe's.
        seat: of a process that trains together with others; None: one trains alone.
        against: whether the bundle in ``champion/`` is one that the run's must not be worse than.
    """

    run: str
    recipe: str
    seed: int
    dataset: str = ""
    store: str = ""
    base: str = ""
    cause: str = ""
    executor: str = "local"
    trial: int | None = None
    parameters: dict[str, Any] = {}
    seat: Seat | None = None
    against: bool = False


class Progress(Struct, frozen=True, kw_only=True):
    """How far a run is: ``done`` from 0 to 1, None where the recipe does not say it, and in words."""

    done: float | None = None
    text: str = ""


class RunFolder:
    """Reads and writes the folder of one run; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bundle = path / "bundle"
        self.champion = path / "champion"
        self.plots = path / "plots"
        self.trials = path / "trials"
        self.log = path / "log.txt"

    def begin(self, task: Task) -> None:
        """Make the folder, or prepare one that was left for another try: trials that are done stay."""
        files.make_folder(self.path, private=True)
        (self.path / "outcome.json").unlink(missing_ok=True)
        (self.path / "progress.json").unlink(missing_ok=True)
        shutil.rmtree(self.plots, ignore_errors=True)
        self._write("task.json", task)

    def task(self) -> Task:
        """What is to be done. OSError if the folder is no run's."""
        return msgspec.json.decode((self.path / "task.json").read_bytes(), type=Task)

    def progress(self) -> Progress:
        """How far it is."""
        return self._read("progress.json", Progress) or Progress()

    def write_progress(self, progress: Progress) -> None:
        """Say how far it is. Nothing of it needs to survive a power cut."""
        temporary = self.path / ".progress.tmp"
        temporary.write_bytes(msgspec.json.encode(progress))
        temporary.replace(self.path / "progress.json")

    def outcome(self) -> Outcome | None:
        """How it ended; None: it has not."""
        found = self._read("outcome.json", Outcome)
        return None if found is None else replace(found, warnings=tuple(found.warnings), trials=tuple(found.trials))

    def write_outcome(self, outcome: Outcome) -> None:
        """Say how it ended."""
        self._write("outcome.json", outcome)

    def write_environment(self, environment: dict[str, str]) -> None:
        """Keep the libraries and their versions."""
        self._write("environment.json", environment)

    def plot_files(self) -> dict[str, Path]:
        """The plots by name."""
        return {path.stem: path for path in sorted(self.plots.glob("*.svg"))[:_PLOTS]}

    def write_plot(self, name: str, svg: str) -> None:
        """Keep a plot; one of this name is replaced."""
        files.make_folder(self.plots)
        files.write_atomic(self.plots / f"{name}.svg", svg.encode())

    def seconds(self) -> float:
        """How long it took, by the times of its files; 0 where it has not ended."""
        try:
            begun = (self.path / "task.json").stat().st_mtime
            return max(0.0, (self.path / "outcome.json").stat().st_mtime - begun)
        except FileNotFoundError:
            return 0.0

    def succeeded(self) -> bool:
        """Whether it ended with a bundle, which is here."""
        found = self.outcome()
        return found is not None and found.state is State.SUCCEEDED and self.bundle.is_dir()

    def _write(self, name: str, value: Any) -> None:
        files.write_atomic(self.path / name, msgspec.json.encode(value))

    def _read(self, name: str, kind: type[_T]) -> _T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None
