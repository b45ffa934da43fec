"""Chooses a recipe's parameters by trials within a budget (Optuna's tree-structured Parzen estimator).

Invariants:
    * The same recipe file, data and seed try the same parameters in the same order, whatever executes them. The
      budget of time only says how many of them.
    * Trials are chosen ``parallel`` at a time, and all of those are known before the next are chosen.
    * A trial that failed, gates included, is kept with its reason, and is never the result.
    * What was tried before a search was killed is not trained again: its folder is still there.

Source: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011; Akiba et al., "Optuna", KDD 2019.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from wheeltapper_fleet.learning.runs.recipe_text import Range, Search
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.executors import Executor
from wheeltapper_fleet.training.runs.folder import RunFolder, Task

__all__ = ["Found", "search"]

_DIGITS: Final = 4


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        folder: of the best trial's first seed, with its bundle.
        outcome: of that.
        trials: all, in their order: ``number``, ``state``, ``value``, ``seconds``, ``parameters``, ``detail``.
        metrics: of the search itself.
    """

    folder: RunFolder
    outcome: Outcome
    trials: list[dict[str, Any]]
    metrics: dict[str, float]


def search(
    how: Search, task: Task, folder: RunFolder, executor: Executor, progress: Callable[[str, float], None]
) -> Found:
    """Search.

    Args:
        how: the section of the recipe file.
        task: the run's.
        folder: the run's.
        executor: runs the trials.
        progress: is called with a few words and how much of the trials is over.

    Raises:
        TrainingError: ``search.missing``: Optuna is not installed; ``search.nothing``: no trial succeeded within the
            budget; ``search.metric``: no recipe measures it; ``search.parameters``.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise TrainingError("search.missing", "install wheeltapper-fleet[search] to search parameters") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=how.direction, sampler=optuna.samplers.TPESampler(seed=task.seed))
    deadline = time.monotonic() + how.seconds
    trials: list[dict[str, Any]] = []
    folders: list[list[RunFolder]] = []
    while len(trials) < how.trials and time.monotonic() < deadline:
        chosen = []
        for _ in range(min(how.parallel, how.trials - len(trials))):
            asked = study.ask()
            chosen.append((asked, {name: _suggest(asked, name, each) for name, each in sorted(how.parameters.items())}))
        batch = [_prepared(folder, task, how, len(trials) + i, each) for i, (_, each) in enumerate(chosen)]

        def tell(known: int = len(trials)) -> None:
            progress(f"trial {known + 1} of {how.trials}", known / how.trials)

        tell()
        waiting = [each for seeds in batch for each in seeds if each.outcome() is None]
        executor.run(waiting, deadline, tell)
        for (asked, parameters), seeds in zip(chosen, batch, strict=True):
            trial = _judged(len(trials), parameters, seeds, how)
            trials.append(trial)
            folders.append(seeds)
            state = optuna.trial.TrialState.COMPLETE if trial["value"] is not None else optuna.trial.TrialState.FAIL
            study.tell(asked, trial["value"], state=state)
    return _best(how, trials, folders)


def _suggest(trial: Any, name: str, values: Range) -> Any:
    """A value of a parameter, as Optuna chooses it; whole numbers where both bounds are."""
    if values.choice:
        return trial.suggest_categorical(name, values.choice)
    bounds = values.low, values.high
    if all(isinstance(each, int) for each in bounds) and (values.step is None or isinstance(values.step, int)):
        return trial.suggest_int(name, *bounds, step=values.step or 1, log=values.log)
    return trial.suggest_float(name, *map(float, bounds), step=values.step, log=values.log)  # type: ignore[arg-type]  # a range has both


def _prepared(folder: RunFolder, task: Task, how: Search, number: int, parameters: dict[str, Any]) -> list[RunFolder]:
    """The folder of each seed of a trial; one that did the same task already keeps its outcome."""
    made = []
    for seed in range(how.seeds):
        wanted = msgspec.structs.replace(
            task, seed=task.seed + seed, trial=number, parameters=parameters, executor="local"
        )
        each = RunFolder(folder.trials / f"{number:04d}-{seed}")
        if not _did(each, wanted):
            shutil.rmtree(each.path, ignore_errors=True)
            each.begin(wanted)
        made.append(each)
    return made


def _did(folder: RunFolder, wanted: Task) -> bool:
    """Whether a folder has the outcome of the task that is wanted."""
    try:
        return folder.outcome() is not None and folder.task() == wanted
    except (OSError, msgspec.DecodeError):
        return False


def _judged(number: int, parameters: dict[str, Any], seeds: list[RunFolder], how: Search) -> dict[str, Any]:
    """What a trial reached, over its seeds."""
    outcomes = [each.outcome() for each in seeds]
    state, value, detail = "complete", None, ""
    values = []
    for outcome in outcomes:
        if outcome is None:
            state, detail = "pruned", f"the budget of {how.seconds:g} s was over"
            break
        if outcome.state is not State.SUCCEEDED:
            state, detail = "failed", f"{outcome.error_detail} [{outcome.error_code}]"[:200]
            break
        if how.metric not in outcome.metrics:
            known = ", ".join(sorted(outcome.metrics))
            raise TrainingError("search.metric", f"{how.metric!r} is not measured; choose of {known}")
        values.append(outcome.metrics[how.metric])
    else:
        value = statistics.fmean(values)
        if len(values) > 1:
            detail = f"{len(values)} seeds, standard deviation {statistics.stdev(values):.{_DIGITS}g}"
    seconds = sum(each.seconds() for each in seeds)
    written = {name: msgspec.json.encode(each).decode()[:200] for name, each in parameters.items()}
    return {
        "number": number, "state": state, "value": value, "seconds": seconds, "parameters": written, "detail": detail,
    }  # fmt: skip


def _best(how: Search, trials: list[dict[str, Any]], folders: list[list[RunFolder]]) -> Found:
    """The best trial that succeeded; of equal ones the first.

    Raises:
        TrainingError: ``search.nothing``.
    """
    done = [each for each in trials if each["value"] is not None]
    if not done:
        last = f"; the last one: {trials[-1]['detail']}" if trials else ""
        message = f"none of {len(trials)} trials succeeded within {how.seconds:g} s{last}"
        raise TrainingError("search.nothing", message[:1900])
    sign = 1 if how.direction == "minimize" else -1
    best = min(done, key=lambda each: (sign * each["value"], each["number"]))
    folder = folders[best["number"]][0]
    outcome = folder.outcome()
    assert outcome is not None
    metrics = {"search_best": best["value"], "search_trials": float(len(trials))}
    metrics["search_failed"] = float(sum(each["state"] == "failed" for each in trials))
    return Found(folder, outcome, trials, metrics)
