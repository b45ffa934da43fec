"""The process that trains: ``python -m wheeltapper_fleet.training.runs.child FOLDER``.

It reads the folder's task, trains, and says in the folder how far it is and how it ended. Its parent may kill it at any
time; started again on the same folder, it goes on from what its checkpoints hold.

Invariants:
    * Whatever goes wrong is an outcome with a code, as long as the process lives.
    * The same task, data, code and environment give the same model bytes.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.runs.recipe_text import Data, Gates, RecipeFile, Search, read_recipe
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.crew import ALONE, Member
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.held_out import judge_bundle
from wheeltapper_fleet.training.recipe_files import (
    find_recipe,
    formats_for,
    open_data,
    parameters_of,
    train_recipe,
)
from wheeltapper_fleet.training.recipes import Job, Source
from wheeltapper_fleet.training.runs.digests import code_digest, data_digest, digest_of, environment, file_digest
from wheeltapper_fleet.training.runs.executors import make_executor
from wheeltapper_fleet.training.runs.folder import Progress, RunFolder, Task
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_fleet.training.runs.mlflow_log import log_run
from wheeltapper_fleet.training.runs.search import search
from wheeltapper_fleet.training.runs.together import train_together
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, Manifest, decode_manifest

__all__ = ["MODULE", "execute", "main"]

MODULE: Final = __spec__.name
"""This module's name, by which it is started, also where it is the program."""

_WARNINGS: Final = 50
_TEXT: Final = 2000


@dataclass
class Report:
    """What a run says while it is under way, written to its folder."""

    folder: RunFolder
    warnings: list[str] = field(default_factory=list)
    share: float | None = None

    def __post_init__(self) -> None:
        self.shown = Measured(self.folder)

    def progress(self, text: str, done: float | None = None) -> None:
        """Say what is done now, and how far that is from 0 to 1 where the recipe knows it; it never goes back."""
        self.done(done)
        self.folder.write_progress(Progress(done=self.share, text=_plain(text)[:200]))

    def done(self, share: float | None) -> None:
        """How far it is; said with the words that come next."""
        if share is not None and 0 <= share <= 1:
            self.share = share if self.share is None else max(self.share, share)

    def warn(self, text: str) -> None:
        """Keep a warning, and write it to the log."""
        print(f"warning: {_plain(text)}", flush=True)
        if len(self.warnings) < _WARNINGS:
            self.warnings.append(_plain(text))


def execute(folder: RunFolder) -> Outcome:
    """Do the task of a folder, and write how it ended. What was measured before a failure is kept."""
    report, started_at = Report(folder), time.time()
    try:
        outcome = _trained(folder, folder.task(), report)
    except (FleetError, ProtocolError) as error:
        outcome = _failed(report, error.code, error.message)
    except MemoryError:
        outcome = _failed(report, "run.memory", "there is too little memory")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        outcome = _failed(report, "run.io", f"{error.strerror or error}{where}")
    except Exception as error:  # noqa: BLE001  # a recipe of others may fail in any way; its log says where
        traceback.print_exc()
        outcome = _failed(report, "run.crashed", f"{type(error).__name__}: {error}")
    _log_elsewhere(folder, outcome, started_at, report)
    outcome = replace(outcome, warnings=tuple(report.warnings))
    folder.write_outcome(outcome)
    return outcome


def _failed(report: Report, code: str, text: str) -> Outcome:
    return Outcome(
        state=State.FAILED,
        metrics=report.shown.metrics,
        plots=_plots(report.folder),
        error_code=code,
        error_detail=_plain(text),
    )


def _plain(text: str) -> str:
    """A text that every database and every encoding can hold."""
    return text.encode(errors="replace").decode().replace("\0", "?")[:2000]


def _log_elsewhere(folder: RunFolder, outcome: Outcome, started_at: float, report: Report) -> None:
    """Log the run at MLflow, where that is configured; a trial is logged by its search."""
    task = folder.task()
    if not _is_part(task) and outcome.error_code != "recipe.malformed":
        log_run(read_recipe(task.recipe), task, folder, outcome, started_at, report.warn)


def _is_part(task: Task) -> bool:
    """Whether a task is a trial of a search, or a worker of a training: what becomes of it is its parent's business."""
    return task.trial is not None or task.seat is not None


def _trained(folder: RunFolder, task: Task, report: Report) -> Outcome:
    """Train, or search and train; the outcome of success."""
    written = read_recipe(task.recipe, "the recipe")
    if written.search is not None and task.trial is None:
        return _judged(folder, task, written, _searched(folder, task, written.search, report), report)
    if written.train.workers > 1 and task.trial is None and task.seat is None:
        return _judged(folder, task, written, _together(folder, task, written.train.workers, report), report)
    if task.executor != "local":
        why = "executes trials of a [search] and workers of [train]; this recipe has neither"
        raise TrainingError("run.executor", f"{task.executor} {why}")
    given = written.parameters | task.parameters
    recipe = find_recipe(written.recipe)
    parameters = parameters_of(recipe, given)
    report.progress("data")
    recordings, origin = _data(written, task)
    kept = {name: msgspec.json.encode(value).decode()[:_TEXT] for name, value in _items(parameters)}
    libraries = environment()
    folder.write_environment(libraries)
    digests = {
        "data": data_digest(recordings, origin),
        "code": code_digest(recipe),
        "environment": digest_of(libraries),
        "recipe": digest_of([written.recipe, written.model, kept, task.seed]),
    }
    lineage = origin | {"run": task.run, "code_sha256": digests["code"], "environment_sha256": digests["environment"]}
    lineage |= {"cause": task.cause} if task.cause else {}
    lineage |= {} if task.trial is None else {"trial": str(task.trial)}
    lineage |= {} if task.seat is None else {"workers": str(task.seat.size)}
    job = Job(
        out=folder.bundle, model=written.model, seed=task.seed, replace=True, lineage=tuple(lineage.items()),
        formats=formats_for(written.formats, written.boards), progress=report.progress, warn=report.warn,
        done=report.done, shown=report.shown, crew=Member(task.seat) if task.seat is not None else ALONE,
    )  # fmt: skip
    shutil.rmtree(folder.bundle, ignore_errors=True)
    train_recipe(written.recipe, given, recordings, job)
    manifest = _checked(folder)
    digests["model"] = manifest.file(manifest.model_file).sha256
    outcome = Outcome(
        state=State.SUCCEEDED,
        result=file_digest(folder.bundle / MANIFEST_FILE),
        metrics=report.shown.metrics | {gate.name: gate.value for gate in manifest.gates},
        digests=digests,
        parameters=kept,
        plots=_plots(folder),
    )
    return outcome if _is_part(task) else _judged(folder, task, written, outcome, report)


def _checked(folder: RunFolder) -> Manifest:
    """The manifest that a recipe wrote, read as a device reads it; a recipe of others may have written anything.

    Raises:
        TrainingError: ``training.gate_failed``: a gate did not pass, or there is none.
        WireError: ``manifest.*``: no device could read it, e.g. because a gate's value is no number.
    """
    try:
        manifest = decode_manifest((folder.bundle / MANIFEST_FILE).read_bytes())
        failed = [gate.name for gate in manifest.gates if not gate.passed]
        if failed or not manifest.gates:
            why = f"these gates did not pass: {', '.join(failed)}" if failed else "the recipe ran no gates"
            raise TrainingError("training.gate_failed", f"{why}; no bundle is kept")
    except BaseException:
        shutil.rmtree(folder.bundle, ignore_errors=True)
        raise
    return manifest


def _judged(folder: RunFolder, task: Task, written: RecipeFile, outcome: Outcome, report: Report) -> Outcome:
    """The outcome with what a side of the dataset that was not trained on says, where that is wanted.

    Raises:
        TrainingError: ``training.gate_failed``, ``training.not_judged``: the bundle is removed.
    """
    if written.gates is None and not task.against:
        return outcome
    opened = _dataset(written, task)
    if opened.dataset == "":
        raise TrainingError(
            "run.recordings", "a comparison with a champion needs a dataset with a side that is held out"
        )
    given = {name: msgspec.json.decode(text) for name, text in outcome.parameters.items() if len(text) < _TEXT}
    try:
        manifest = judge_bundle(
            folder.bundle,
            written.gates or Gates(),
            opened,
            open_dataset(opened.dataset, opened.store or None),
            given,
            champion=folder.champion if task.against else None,
            progress=report.progress,
            warn=report.warn,
        )
    except BaseException:
        shutil.rmtree(folder.bundle, ignore_errors=True)
        raise
    return replace(
        outcome,
        result=file_digest(folder.bundle / MANIFEST_FILE),
        metrics=dict(outcome.metrics) | {gate.name: gate.value for gate in manifest.gates},
    )


def _searched(folder: RunFolder, task: Task, how: Search, report: Report) -> Outcome:
    """Search, and take over what the best trial made."""
    executor = make_executor(task.executor, how.parallel, MODULE)
    try:
        found = search(how, task, folder, executor, report.progress)
    finally:
        executor.close()
    _take_over(found.folder, found.outcome, folder, report)
    return replace(
        found.outcome,
        metrics=dict(found.outcome.metrics) | found.metrics,
        trials=tuple(found.trials),
        plots=_plots(folder),
    )


def _together(folder: RunFolder, task: Task, workers: int, report: Report) -> Outcome:
    """Train by several processes, and take over what came out."""
    executor = make_executor(task.executor, workers, MODULE)
    try:
        made, outcome = train_together(folder, task, workers, executor, report.progress)
    finally:
        executor.close()
    _take_over(made, outcome, folder, report)
    for left in folder.path.glob("workers/*/bundle"):
        shutil.rmtree(left, ignore_errors=True)
    return replace(outcome, plots=_plots(folder))


def _take_over(made: RunFolder, outcome: Outcome, folder: RunFolder, report: Report) -> None:
    """Take the bundle, the plots and the warnings of a part of this run as its own."""
    for warning in outcome.warnings:
        report.warn(warning)
    for theirs, mine in ((made.bundle, folder.bundle), (made.plots, folder.plots)):
        shutil.rmtree(mine, ignore_errors=True)
        if theirs.is_dir():
            shutil.copytree(theirs, mine)


def _plots(folder: RunFolder) -> dict[str, str]:
    return {name: file_digest(path) for name, path in folder.plot_files().items()}


def _items(parameters: Any) -> list[tuple[str, Any]]:
    """The parameters of a recipe by name."""
    return [(field.encode_name, getattr(parameters, field.name)) for field in msgspec.structs.fields(parameters)]


def _data(written: RecipeFile, task: Task) -> tuple[list[Source], dict[str, str]]:
    """What to train on, and what the lineage says of it.

    Raises:
        TrainingError: ``recipe.data``, ``run.recordings``.
        DatasetError: ``dataset.*``.
    """
    if written.data.recordings and not task.base:
        raise TrainingError("run.recordings", "this run may name a dataset only, no files")
    return open_data(_dataset(written, task), Path(task.base or "."))


def _dataset(written: RecipeFile, task: Task) -> Data:
    """What the recipe says of its data, with the version and the store that the task says."""
    data = written.data
    if not data.dataset:
        return data
    return msgspec.structs.replace(data, dataset=task.dataset or data.dataset, store=task.store or data.store)


def main() -> None:
    """Execute the run of the folder that the command line names."""
    outcome = execute(RunFolder(Path(sys.argv[1])))
    sys.exit(0 if outcome.state is State.SUCCEEDED else 1)


if __name__ == "__main__":
    main()
