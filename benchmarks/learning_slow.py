"""Slow signals: the recipe ``slow-signal`` beside windowed Gaussian, by NAB's score (:mod:`learning_nab`).

Protocol (docs/learning/recipes.md): the recipe is trained on the first 15 % of each series; the rest goes through the
agent's own bundle and decision, and an alert that is raised is a detection. Windowed Gaussian gets, as NAB does it, the
threshold that suits it best over all series that are scored; the recipe's limit is what it found by itself. Scored are
the two temperatures that are named in the target, and all seven series with known causes.

    python benchmarks/learning_slow.py [--json]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from learning_nab import NAMES, Series, best_threshold, nab_score, read_series, windowed_gaussian
from rig import REPOSITORY, Row, main, row

from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_protocols.decision.decision import DecisionState
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["rows"]

_DATA: Final = Path(os.environ.get("WHEELTAPPER_DATA", REPOSITORY.parent / "shared" / "data"))
_HEALTHY: Final = 0.15


def alerts(series: Series) -> npt.NDArray[np.bool_]:
    """Whether an alert is raised at each record, by a release that was trained on the first part."""
    values = series.values.astype(np.float32)[:, None, None]
    times = np.arange(len(values)) * np.float64(series.step_s)
    whole = Recording(values, np.ones(1), 1 / series.step_s, times, ("value",), ("",), {})
    quiet: Any = lambda text: None  # noqa: E731  # what is said of a short series, each time
    with tempfile.TemporaryDirectory() as folder:
        job = Job(out=Path(folder, "bundle"), model="slow", warn=quiet)
        train_recipe("slow-signal", {"healthy_fraction": _HEALTHY}, [whole], job)
        bundle = load_bundle(Path(folder, "bundle"))
    window = bundle.manifest.input.window_samples
    found, state = np.zeros(len(values), dtype=bool), DecisionState()
    cuts = np.lib.stride_tricks.sliding_window_view(values[:, 0, 0], window)
    for first in range(0, len(cuts), 512):
        evaluation = bundle.evaluate(np.ascontiguousarray(cuts[first : first + 512])[:, :, None])
        for place in range(len(evaluation.samples)):
            was_on = state.severity.value != "normal"
            state, verdict = bundle.decide(state, evaluation, place)
            found[first + place + window - 1] = verdict.alert and not was_on
    return found


def rows() -> list[Row]:
    """The figures of slow signals."""
    if not (_DATA / "nab").exists():
        return []
    everything = [read_series(_DATA / "nab", name) for name in NAMES]
    detected = [alerts(each) for each in everything]
    gaussian = [windowed_gaussian(each.values) for each in everything]
    found = []
    for what, count in (("machine and ambient temperature", 2), ("all seven series", len(everything))):
        mine = nab_score(everything[:count], detected[:count])
        theirs, _ = best_threshold(everything[:count], gaussian[:count])
        found += [
            row(f"NAB, {what}: slow-signal at its own limit", mine, at_least=theirs),
            row(f"NAB, {what}: windowed Gaussian at its best threshold, same run", theirs),
        ]
    return found


if __name__ == "__main__":
    main(rows, "Slow signals")
