"""Real bearings: FEMTO's runs to failure and CWRU's seeded faults, beside fixed limits on RMS, peak and kurtosis.

Every figure is that of the int8 release through the agent's own replay; with five seeds, mean and spread.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from learning_judge import DATA, SEEDS, Judged, fixed_limits, judge, replayed, trained
from rig import Row, main, row
from scipy.signal import resample_poly

from wheeltapper_fleet.learning.datasets.public_sets import import_cwru, import_femto
from wheeltapper_protocols.signal.recording import Recording

_FRACTION: Final = 0.1
_WINDOW: Final = 2048


def _femto() -> list[Row]:
    runs = {path.stem[-3:]: import_femto(path) for path in sorted((DATA / "femto").glob("*.npz"))}
    found: list[Row] = []
    limits: dict[str, list[Judged]] = {}
    for run in runs.values():
        for name, alert in fixed_limits(run, _FRACTION):
            limits.setdefault(name, []).append(judge(alert, run.t_s, run.snapshots // 4))
    for name, judged in limits.items():
        found += _rows(f"FEMTO, {name}", [judged])
    peak_minutes = sum(each.early for each in limits["peak at 5 sigma"])
    for what, pooled in (("own first tenth", False), ("other bearings and own first tenth", True)):
        seeds: list[list[Judged]] = []
        for seed in SEEDS:
            judged = []
            for name, run in runs.items():
                others = [other for key, other in runs.items() if key != name] if pooled else []
                with tempfile.TemporaryDirectory() as folder:
                    bundle = trained([*others, run], _FRACTION, seed, Path(folder, "bundle"))
                    judged.append(judge(replayed(bundle, run), run.t_s, run.snapshots // 4))
            seeds.append(judged)
        found += _rows(f"FEMTO, {what}", seeds, 5.0, peak_minutes)
    return found


def _rows(
    name: str, seeds: list[list[Judged]], at_least: float | None = None, at_most_minutes: float | None = None
) -> list[Row]:
    """How many runs were warned of in time, how many were called early, and for how long: means over the seeds."""
    warned = [sum(each.warned for each in judged) for judged in seeds]
    early = [sum(each.early > 0 for each in judged) for judged in seeds]
    minutes = float(np.mean([sum(each.early for each in judged) for judged in seeds]))
    of = len(seeds[0])
    spread = f", {min(warned)} to {max(warned)}" if len(seeds) > 1 else ""
    return [
        row(f"{name}: warned >= 10 min ahead, of {of}{spread}", float(np.mean(warned)), at_least=at_least),
        row(f"{name}: alert in the first quarter", float(np.mean(early)), at_most=0.0 if at_least else None),
        row(f"{name}: minutes of it", minutes, at_most=at_most_minutes),
    ]


def _at_12_khz(recording: Recording) -> Recording:
    """A recording at 48 kHz as one at 12 kHz, in windows of the same number of samples."""
    whole = recording.physical(slice(0, recording.snapshots)).reshape(-1)
    samples = resample_poly(whole, 1, 4).astype(np.float32)
    windows = len(samples) // _WINDOW
    cut = samples[: windows * _WINDOW].reshape(windows, _WINDOW, 1)
    t_s = np.arange(windows) * np.float64(_WINDOW / 12_000.0)
    return Recording(cut, np.ones(1), 12_000.0, t_s, recording.channels, recording.units, recording.meta)


def _cwru() -> list[Row]:
    folder = DATA / "cwru"
    with np.load(folder / "cwru_de_int16.npz", allow_pickle=False) as archive:
        names = [name for name in archive.files if "__" not in name and name.startswith(("12k", "48k"))]
    at_48 = import_cwru(folder, "normal_0_97", _WINDOW)
    normal = {"48k": at_48, "12k": _at_12_khz(at_48)}
    found: list[Row] = []
    for rate, healthy in normal.items():
        files = [import_cwru(folder, name, _WINDOW) for name in names if name.startswith(rate)]
        half = healthy.snapshots // 2
        missed, false = [], []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as scratch:
                bundle = trained([healthy], 1.0, seed, Path(scratch, "whole"))
                missed.append(sum(not replayed(bundle, file).any() for file in files))
                bundle = trained([healthy.part(slice(0, half))], 1.0, seed, Path(scratch, "half"))
                false.append(int(replayed(bundle, healthy.part(slice(half, None))).sum()))
        limits: dict[str, int] = {}
        for name, alert in fixed_limits(healthy, 0.5):
            limits[name] = int(alert[half:].sum())
        found += [
            row(f"CWRU {rate}: faulty files of {len(files)} that never alert, mean", float(np.mean(missed)), at_most=0),
            row(f"CWRU {rate}: healthy windows of the second half with an alert", float(np.mean(false)), at_most=0),
        ]
        found += [row(f"CWRU {rate}: the same, {name}", count) for name, count in limits.items() if "peak" in name]
    return found


def rows() -> list[Row]:
    """The rows of FEMTO and CWRU."""
    return _femto() + _cwru()


if __name__ == "__main__":
    main(rows, "Real bearings")
