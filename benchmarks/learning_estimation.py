"""Quality without labels: what is estimated from sketches of scores, beside what is true, on held-out real machines.

Protocol (docs/learning/registry.md): models are trained as in ``learning_faults.py`` (CWRU, bearings of one diameter
held out) and ``learning_life.py`` (C-MAPSS, the training engines). Their held-out windows come in several states of the
fleet: as they are, mostly healthy, mostly faulty; all of the lives, early, late. For each the estimate uses the sketch
of the int8 model's scores and the signed manifest, as the fleet does; beside it is what assumes that quality is as in
validation.

    python benchmarks/learning_estimation.py [--json]
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import learning_faults
import learning_life
import numpy as np
import numpy.typing as npt
from rig import Row, main, row

from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_fleet.training import fault_classifier
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.vibration_windows import read_labelled
from wheeltapper_protocols.drift.estimation import estimate
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["rows"]

Floats = npt.NDArray[np.float64]
_LIFE_STEP: Final = 5
"""Cycles between two windows of an engine."""


class Judged:
    """Estimates beside the truth, of one kind of figure."""

    def __init__(self) -> None:
        self.off: list[float] = []
        self.assumed: list[float] = []
        self.inside: list[bool] = []

    def add(self, manifest: Manifest, scores: Floats, devices: int, truth: dict[str, float]) -> None:
        """One state of the fleet: the figures named by ``truth`` are estimated from ``scores``."""
        assert manifest.estimation is not None
        assert manifest.drift is not None
        edges = manifest.drift.score.edges
        counts = Bins([edges]).sketch(scores[np.isfinite(scores)][:, None]).counts[0]
        for each in estimate(manifest.estimation, edges, counts.tolist(), devices):
            if each.name in truth and each.value is not None and each.low is not None and each.high is not None:
                real = truth[each.name]
                self.off.append(abs(each.value - real))
                self.assumed.append(abs((each.reference or 0.0) - real))
                self.inside.append(each.low <= real <= each.high)


def _trained(recipe: str, parameters: dict[str, Any], recordings: list[Any], seed: int) -> tuple[Manifest, Bundle]:
    quiet: Any = lambda text: None  # noqa: E731  # warnings of one healthy bearing, each time
    off = patch.multiple(fault_classifier, _LEAST_AUROC=0.0, _MOST_MISCALIBRATED=1.0)
    with tempfile.TemporaryDirectory() as folder, off:
        job = Job(out=Path(folder, "bundle"), model="judged", seed=seed, warn=quiet)
        return train_recipe(recipe, parameters, recordings, job), load_bundle(Path(folder, "bundle"))


def _faults(seed: int, judged: Judged) -> None:
    everything = learning_faults.recordings()
    for diameter in ("007", "014", "021"):
        rest, held = learning_faults._held_out(everything, diameter)
        window = learning_faults._WINDOW
        made, bundle = _trained("fault-classifier", {"window_samples": window}, rest, seed)
        data = read_labelled(held, "fault", window, made.input.sample_rate_hz, seed)
        names = [data.names[each] for each in data.classes]
        found = [bundle.evaluate(data.samples[i : i + 64]) for i in range(0, len(names), 64)]
        scores = np.concatenate([each.scores.score for each in found])
        labels = np.concatenate([np.array(each.scores.labels, dtype=object) for each in found])
        right, fault = labels == np.array(names, dtype=object), np.array([name != "normal" for name in names])
        alarm = scores >= 1.0
        random = np.random.default_rng(seed)
        for share in (None, 0.1, 0.5, 0.9):  # of windows that are faulty
            picked = np.arange(len(names)) if share is None else _mixed(fault, share, random)
            truth = {"accuracy": float(right[picked].mean())}
            if alarm[picked].sum() and fault[picked].sum():
                truth["precision"] = float(fault[picked][alarm[picked]].mean())
                truth["recall"] = float(alarm[picked][fault[picked]].mean())
            judged.add(made, scores[picked], len(np.unique(data.machine[picked])), truth)


def _mixed(fault: npt.NDArray[np.bool_], share: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    count = min(int(fault.sum() / share), int((~fault).sum() / (1 - share)))
    faulty, healthy = np.flatnonzero(fault), np.flatnonzero(~fault)
    return np.concatenate(
        [random.choice(faulty, round(count * share), False), random.choice(healthy, round(count * (1 - share)), False)]
    )


def _lives(name: str, seed: int, judged: Judged) -> None:
    trains, tests, left = learning_life.cmapss(name)
    made, bundle = _trained("remaining-life", {"unit": "cycles"}, trains, seed)
    assert made.remaining_life is not None
    cap, length = made.remaining_life.cap, made.input.window_samples
    windows, truth, engine = [], [], []
    for number, (each, remaining) in enumerate(zip(tests, left, strict=True)):
        series = each.physical(slice(None))[:, 0]
        for stop in range(length, len(series) + 1, _LIFE_STEP):
            windows.append(series[stop - length : stop])
            truth.append(min(cap, remaining + len(series) - stop))
            engine.append(number)
    found = [bundle.evaluate(part) for part in _parts(np.asarray(windows, dtype=np.float32))]
    scores = np.concatenate([each.scores.score for each in found])
    predicted = np.concatenate([np.asarray(each.scores.values) for each in found])
    error, life, engines = predicted - np.array(truth), np.array(truth), np.array(engine)
    for picked in (life > 0, life >= cap, life < cap, life < 50):
        real = {"mae": float(np.abs(error[picked]).mean()), "rmse": float(np.sqrt((error[picked] ** 2).mean()))}
        judged.add(made, scores[picked], len(np.unique(engines[picked])), real)


def _parts(windows: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    return (windows[i : i + 256] for i in range(0, len(windows), 256))


def rows() -> list[Row]:
    """The figures of estimated quality."""
    found: list[Row] = []
    for title, data, run in (
        ("CWRU, bearings held out (accuracy, precision, recall)", "cwru", _faults),
        ("C-MAPSS FD001, test engines (MAE, RMSE in cycles)", "cmapss", lambda seed, each: _lives("FD001", seed, each)),
    ):
        if not (learning_faults._DATA / data).exists():
            continue
        judged = Judged()
        for seed in learning_faults._SEEDS[:2]:
            run(seed, judged)
        found += [
            row(f"{title}: mean error of the estimate", float(np.mean(judged.off))),
            row(f"{title}: mean error of assuming the validation's", float(np.mean(judged.assumed))),
            row(f"{title}: share within the stated bounds", float(np.mean(judged.inside))),
        ]
    return found


if __name__ == "__main__":
    main(rows, "Quality without labels")
