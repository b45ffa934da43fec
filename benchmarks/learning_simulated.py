"""Simulated rigs that no recipe was made on: runs to failure of thirty machines, and process data at 1 Hz."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from learning_judge import Judged, fixed_limits, judge, replayed, trained
from learning_rigs import bearing_run, process_run
from rig import Row, main, row

_RIGS: Final = range(100, 120)
_PLANTS: Final = range(100, 112)


def _bearings() -> list[Row]:
    ours: list[Judged] = []
    limits: dict[str, list[Judged]] = {}
    for seed in _RIGS:
        run = bearing_run(seed)
        with tempfile.TemporaryDirectory() as folder:
            bundle = trained([run.recording], 0.1, seed, Path(folder, "bundle"))
            ours.append(judge(replayed(bundle, run.recording), run.recording.t_s, run.onset))
        for name, alert in fixed_limits(run.recording, 0.1):
            limits.setdefault(name, []).append(judge(alert, run.recording.t_s, run.onset))
    found = [*_rows("default recipe", ours)]
    for name, judged in limits.items():
        found += _rows(name, judged)
    return found


def _rows(name: str, judged: list[Judged]) -> list[Row]:
    return [
        row(f"simulated rigs, {name}: warned >= 10 min ahead, of {len(judged)}", sum(each.warned for each in judged)),
        row(f"simulated rigs, {name}: alert before the onset", sum(each.early > 0 for each in judged)),
    ]


def _process() -> list[Row]:
    found: list[Row] = []
    for samples in (1, 8):
        hits = misses = false = 0
        for seed in _PLANTS:
            plant = process_run(seed, samples)
            with tempfile.TemporaryDirectory() as folder:
                bundle = trained([plant.recording.part(slice(0, plant.healthy))], 1.0, seed, Path(folder, "bundle"))
                alert = replayed(bundle, plant.recording)[plant.healthy :]
            faulty = plant.faulty[plant.healthy :]
            hits += int(np.sum(alert & faulty))
            false += int(np.sum(alert & ~faulty))
            misses += int(np.sum(~alert & faulty))
        f1 = 2 * hits / max(1, 2 * hits + false + misses)
        found.append(row(f"simulated plants at 1 Hz, windows of {samples}: F1", f1))
    share = float(np.mean([process_run(seed).faulty[400:].mean() for seed in _PLANTS]))
    found.append(row("simulated plants at 1 Hz, alarm always: F1", 2 * share / (1 + share)))
    return found


def rows() -> list[Row]:
    """The rows of the simulated machines."""
    return _bearings() + _process()


if __name__ == "__main__":
    main(rows, "Simulated machines")
