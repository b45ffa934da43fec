"""Runs of one person on one computer, without a service: a folder of folders, each with the same record.

Invariants:
    * A record says RUNNING only while a process holds the folder's lock; one that was killed is INTERRUPTED, and
      ``resume`` goes on with it. Trials of a search that are done are not done again; a single training begins anew.
    * Two processes never execute one run.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.learning.runs.recipe_text import RecipeFile
from wheeltapper_fleet.learning.runs.rules import State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.recipe_files import read_recipe_file
from wheeltapper_fleet.training.runs.child import MODULE
from wheeltapper_fleet.training.runs.execution import Execution
from wheeltapper_fleet.training.runs.folder import Progress, RunFolder, Task
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, decode_manifest

__all__ = ["INTERRUPTED", "LocalRuns"]

INTERRUPTED: Final = "INTERRUPTED"
_RECORD: Final = "record.json"
_LOOK_SECONDS: Final = 0.2


class LocalRuns:
    """The runs below a folder, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(
        self,
        recipe: Path,
        seed: int | None,
        who: str,
        executor: str,
        show: Callable[[Progress], None],
        champion: Path | None = None,
    ) -> str:
        """Execute a recipe file to its end; returns the run's id.

        Args:
            recipe: the file.
            seed: counts more than the file's.
            who: asks for it.
            executor: ``local`` or ``ray``: where trials run.
            show: is told how far it is.
            champion: the folder of a bundle that the run's must not be worse than; it is copied.

        Raises:
            TrainingError: ``recipe.*``; ``run.champion``: [gates] names one and none is given, or it is no bundle.
                Nothing was made.
            OSError: the file cannot be read.
        """
        written = read_recipe_file(recipe)
        against = _checked_champion(written, champion)
        run = f"r-{secrets.token_hex(6)}"
        task = Task(
            run=run,
            recipe=recipe.read_text(encoding="utf-8"),
            seed=written.seed if seed is None else seed,
            base=str(recipe.resolve().parent),
            cause=f"person {who}",
            executor=executor,
            against=champion is not None,
        )
        record = {
            "id": run, "model": written.model, "recipe": written.recipe, "recipe_toml": task.recipe,
            "dataset": written.data.dataset, "seed": task.seed, "cause_kind": "person", "cause_id": who,
            "requested_at": time.time(), "requested_by": who, "attempt": 0, "against": against,
        }  # fmt: skip
        folder = RunFolder(self._folder / run)
        if champion is not None:
            files.make_folder(folder.path, private=True)
            shutil.copytree(champion, folder.champion)
        self._execute(folder, task, record, show)
        return run

    def resume(self, run: str, show: Callable[[Progress], None]) -> None:
        """Go on with a run that was interrupted, or try one again that failed.

        Raises:
            TrainingError: ``run.not_found``, ``run.state``: it succeeded; ``run.busy``: another process has it.
        """
        found = self.get(run)
        if found["state"] == State.SUCCEEDED:
            raise TrainingError("run.state", f"{run} has succeeded: there is nothing to go on with", 409)
        folder = RunFolder(self._folder / run)
        self._execute(folder, folder.task(), self._record(run), show)

    def get(self, run: str) -> dict[str, Any]:
        """One run, in the form of the service's.

        Raises:
            TrainingError: ``run.not_found``.
        """
        record, folder = self._record(run), RunFolder(self._folder / run)
        outcome, progress = folder.outcome(), folder.progress()
        found: dict[str, Any] = {
            "ended_by": None, "heartbeat_at": None, "trainer": None, "started_at": None, "ended_at": None,
            "progress": progress.done, "progress_text": progress.text, "state": INTERRUPTED, "result": None,
            "error_code": None, "error_detail": None, "parameters": {}, "metrics": {}, "gates": [], "digests": {},
            "plots": {}, "warnings": [], "trials": [], "folder": str(folder.path), "against": None,
        }  # fmt: skip
        if outcome is not None:
            found |= msgspec.to_builtins(outcome)
            manifest = folder.bundle / MANIFEST_FILE
            if outcome.state is State.SUCCEEDED and manifest.is_file():
                found["gates"] = msgspec.to_builtins(decode_manifest(manifest.read_bytes()).gates)
        elif self._is_locked(folder):
            found["state"] = State.RUNNING.value
        return found | record

    def list(self) -> list[dict[str, Any]]:
        """All runs, newest first. Reads the record of each."""
        names = [path.parent.name for path in self._folder.glob(f"r-*/{_RECORD}")]
        return sorted((self.get(name) for name in names), key=lambda each: -float(each["requested_at"]))

    def plot_files(self, run: str) -> dict[str, Path]:
        """The plots of a run by name."""
        self._record(run)
        return RunFolder(self._folder / run).plot_files()

    def _record(self, run: str) -> dict[str, Any]:
        try:
            return dict(msgspec.json.decode((self._folder / run / _RECORD).read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            message = f"there is no run {run[:80]!r} in {self._folder}; see `wheeltapper run list --local`"
            raise TrainingError("run.not_found", message, 404) from None

    def _execute(self, folder: RunFolder, task: Task, record: dict[str, Any], show: Callable[[Progress], None]) -> None:
        files.make_folder(folder.path, private=True)
        with _locked(folder):
            record = record | {"started_at": time.time(), "ended_at": None, "attempt": record["attempt"] + 1}
            files.write_atomic(folder.path / _RECORD, msgspec.json.encode(record))
            folder.begin(task)
            with Execution(folder, MODULE) as execution:
                while not execution.wait(_LOOK_SECONDS):
                    show(folder.progress())
                execution.outcome()
            files.write_atomic(folder.path / _RECORD, msgspec.json.encode(record | {"ended_at": time.time()}))

    def _is_locked(self, folder: RunFolder) -> bool:
        try:
            with _locked(folder):
                return False
        except TrainingError:
            return True


def _checked_champion(written: RecipeFile, champion: Path | None) -> int | None:
    """The number of the champion's release; None: it has none, or there is no champion.

    Raises:
        TrainingError: ``run.champion``.
    """
    named = written.gates.champion if written.gates is not None else ""
    if champion is None:
        if named:
            raise TrainingError("run.champion", f"[gates] names the champion {named!r}: say where it is with --against")
        return None
    if not written.data.dataset:
        raise TrainingError("run.champion", "a comparison needs a dataset with a side that is held out, no files")
    try:
        return decode_manifest((champion / MANIFEST_FILE).read_bytes()).release
    except (OSError, ProtocolError) as error:
        why = error.message if isinstance(error, ProtocolError) else error.strerror
        raise TrainingError("run.champion", f"{champion} is no bundle: {why}") from error


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Hold the folder's lock, which the kernel gives back when the process ends.

    Raises:
        TrainingError: ``run.busy``.
    """
    descriptor = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError("run.busy", f"another process executes {folder.path.name}", 409) from None
        yield
    finally:
        os.close(descriptor)
