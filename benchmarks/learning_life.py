"""Remaining life: the recipe ``remaining-life`` beside boosted trees, on C-MAPSS and on generated machines.

Protocol (docs/learning/recipes.md): trained on the training engines only; the error is the root mean square at the last
cycle of each test engine, labels of training and test capped at 125; scores come from the int8 model through the
agent's own bundle. Engines that are shorter than a window begin with their first cycle repeated. Whatever was chosen by
looking at results was chosen by cross-validation on the training engines of FD001 and FD003.

    python benchmarks/learning_life.py [--json]
"""

from __future__ import annotations

import lzma
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rig import REPOSITORY, Row, main, row
from sklearn.ensemble import HistGradientBoostingRegressor

from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_fleet.training.conformal import covered
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["rows"]

Floats = npt.NDArray[np.float64]
_DATA: Final = Path(os.environ.get("WHEELTAPPER_DATA", REPOSITORY.parent / "shared" / "data"))
_SEEDS: Final = tuple(range(int(os.environ.get("WHEELTAPPER_BENCH_SEEDS", "5"))))
_CAP: Final = 125.0
_TARGETS: Final = {"FD001": 11.5, "FD003": 12.0}
_NAMES: Final = ("altitude", "mach", "throttle", *(f"sensor_{number}" for number in range(1, 22)))


def cmapss(name: str) -> tuple[list[Recording], list[Recording], Floats]:
    """Training engines, test engines, and the cycles that the latter had left."""
    folder = _DATA / "cmapss"
    trains, tests = (_engines(folder / f"{part}_{name}.txt.xz") for part in ("train", "test"))
    with lzma.open(folder / f"RUL_{name}.txt.xz", "rt") as text:
        return trains, tests, np.loadtxt(text)


def _engines(path: Path) -> list[Recording]:
    with lzma.open(path, "rt") as text:
        table = np.loadtxt(text)
    return [
        _recording(f"engine-{int(number)}", table[table[:, 0] == number][:, 2:]) for number in np.unique(table[:, 0])
    ]


def _recording(machine: str, series: npt.NDArray[Any]) -> Recording:
    """One sample a second stands for one a cycle."""
    count = series.shape[1]
    return Recording(
        series[:, None, :].astype(np.float32), np.ones(count), 1.0, np.arange(float(len(series))), _NAMES[:count],
        ("",) * count, {"machine": machine},
    )  # fmt: skip


def generated(machines: int, regimes: int, seed: int) -> tuple[list[Recording], Floats]:
    """Machines that switch between operating regimes at every sample and wear along a random path.

    Twelve sensors: each has its level, its slope and its noise in every regime; two kinds of fault, each of which moves
    sensors of its own. Lives are 130 to 360 samples; wear begins late and accelerates.

    Returns:
        The recordings to the end of life, and where each is cut off for a test: the life that then remains.
    """
    random = np.random.default_rng(seed)
    plant = np.random.default_rng(12345)  # the kind of machine is one; the machines differ
    response = plant.normal(0, 1, size=(2, 12)) * (plant.random((2, 12)) < 0.8)
    settings = plant.uniform(-1, 1, size=(regimes, 2)) * np.array([40.0, 0.8])
    level, gain = plant.normal(0, 30, size=(regimes, 12)), plant.normal(1, 0.15, size=(regimes, 12))
    found, left = [], []
    for number in range(machines):
        life = int(random.integers(130, 360))
        at = np.arange(1, life + 1) / life
        bend = random.uniform(2.5, 4.5)
        wear = random.uniform(0, 0.15) + np.expm1(bend * at) / np.expm1(bend)
        fault = response[int(random.integers(2))]
        regime = random.integers(regimes, size=life)
        healthy = random.normal(0, 0.3, size=12)
        sensors = level[regime] + gain[regime] * (
            healthy + 3.0 * wear[:, None] * fault + random.normal(0, 1, (life, 12))
        )
        stated = settings[regime] + random.normal(0, 1e-3, (life, 2))
        found.append(_recording(f"machine-{number}", np.concatenate([stated, sensors], axis=1)))
        left.append(float(random.integers(5, min(140, life - 35))))
    return found, np.array(left)


def last_windows(recordings: list[Recording], length: int) -> npt.NDArray[np.float32]:
    """The last window of each machine, [machine, sample, channel]."""
    found = []
    for each in recordings:
        series = each.physical(slice(None))[:, 0]
        lacking = max(0, length - len(series))
        found.append(np.concatenate([np.repeat(series[:1], lacking, axis=0), series[-length:]]))
    return np.asarray(found, dtype=np.float32)


def boosted(trains: list[Recording], windows: npt.NDArray[np.float32], seed: int) -> Floats:
    """The baseline: boosted trees on window statistics, standardised by the settings' clusters."""
    length = windows.shape[1]
    series = [each.physical(slice(None))[:, 0] for each in trains]
    normalise = _by_setting(np.concatenate(series), seed)
    x, y = [], []
    for one in series:
        padded = np.concatenate([np.repeat(one[:1], length - 30, axis=0), one])
        cuts = np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)[::2].transpose(0, 2, 1)
        x.append(_statistics(normalise(cuts)))
        y.append(np.minimum(_CAP, np.arange(len(one) - 29)[::-1][::2]))
    trees = HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.06, max_leaf_nodes=15, min_samples_leaf=40, l2_regularization=1.0,
        random_state=seed,
    )  # fmt: skip
    trees.fit(np.concatenate(x), np.concatenate(y))
    return np.asarray(np.clip(trees.predict(_statistics(normalise(windows))), 0, _CAP))


def _by_setting(samples: npt.NDArray[Any], seed: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """What standardises windows by the rounded first two channels."""
    keys, inverse = np.unique(np.round(samples[:, :2] / np.array([1.0, 0.02])), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    if len(keys) > 40:  # the settings are noise: one condition
        keys, inverse = keys[:1] * 0, np.zeros(len(samples), int)
    mean = np.array([samples[inverse == each].mean(axis=0) for each in range(len(keys))])
    scale = np.array([samples[inverse == each].std(axis=0) for each in range(len(keys))])

    def normalise(windows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(keys) == 1:
            key = np.zeros(windows.shape[:2], int)
        else:
            given = np.round(windows[:, :, None, :2] / np.array([1.0, 0.02]))
            key = np.abs(given - keys).sum(axis=3).argmin(axis=2)
        return np.asarray((windows - mean[key]) / np.maximum(scale[key], 1e-6))

    return normalise


def _statistics(windows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    count = windows.shape[1]
    line = np.arange(count) - (count - 1) / 2
    slope = np.einsum("ntc,t->nc", windows, line / np.sqrt((line * line).sum()))
    parts = [windows.mean(axis=1), windows[:, -5:].mean(axis=1), windows[:, -15:].mean(axis=1), slope]
    return np.concatenate([*parts, windows.std(axis=1), windows[:, :10].mean(axis=1)], axis=1)


def _rmse(predicted: npt.NDArray[Any], truth: Floats) -> float:
    return float(np.sqrt(np.mean((np.minimum(truth, _CAP) - predicted) ** 2)))


def _us_a_window(bundle: Bundle, windows: npt.NDArray[np.float32]) -> float:
    """The model's own time for one window: the least of five rounds, in microseconds."""
    one, best = bundle.task.model_input(np.zeros((1, 0), np.float32), windows[:1]), float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(200):
            bundle.model.run(one)
        best = min(best, (time.perf_counter() - begin) / 200 * 1e6)
    return best


def _measured(
    name: str, trains: list[Recording], tests: list[Recording], truth: Floats, parameters: dict[str, Any]
) -> list[Row]:
    """The rows of one data set."""
    errors, covers, baseline, seconds = [], [], [], []
    kilobytes = microseconds = 0.0
    for seed in _SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.process_time()
            made = train_recipe(
                "remaining-life", parameters, trains, Job(out=Path(folder, "bundle"), model="life", seed=seed)
            )
            seconds.append(time.process_time() - begin)
            bundle = load_bundle(Path(folder, "bundle"))
        windows = last_windows(tests, made.input.window_samples)
        values = bundle.evaluate(windows).scores.values
        assert values is not None
        assert made.remaining_life is not None
        assert made.remaining_life.interval is not None
        errors.append(_rmse(values, truth))
        capped = np.minimum(truth, _CAP)
        covers.append(covered(made.remaining_life.interval, values, capped, _CAP))
        baseline.append(_rmse(boosted(trains, windows, seed), truth))
        kilobytes = made.file("model.onnx").length / 1000
        microseconds = _us_a_window(bundle, windows)
    target = _TARGETS.get(name)
    return [
        row(f"{name}: error at the last cycle, int8 (mean of {len(_SEEDS)} seeds)", float(np.mean(errors)), target),
        row(f"{name}: its spread over seeds (standard deviation)", float(np.std(errors))),
        row(f"{name}: boosted trees on window statistics, same run", float(np.mean(baseline))),
        row(
            f"{name}: share of test machines within their 90 % interval, off 0.9 by",
            abs(float(np.mean(covers)) - 0.9),
            0.02,
        ),
        row(f"{name}: model, kB", kilobytes, 100.0),
        row(f"{name}: a window through the model, us", microseconds, 100.0),
        row(f"{name}: training, CPU seconds", float(np.mean(seconds))),
    ]


def rows() -> list[Row]:
    """The figures of remaining life."""
    found: list[Row] = []
    for name in ("FD001", "FD003"):
        if (_DATA / "cmapss").exists():
            trains, tests, truth = cmapss(name)
            found += _measured(name, trains, tests, truth, {})
    for regimes in (1, 6):
        trains, _ = generated(100, regimes, 1)
        whole, left = generated(100, regimes, 2)
        tests = [each.part(slice(0, each.snapshots - int(cut))) for each, cut in zip(whole, left, strict=True)]
        found += _measured(f"generated, {regimes} regimes", trains, tests, left, {})
    return found


if __name__ == "__main__":
    main(rows, "Remaining life")
