"""Simulated rigs that no recipe was made on: runs to failure, damaged bearings, and process data at 1 Hz.

Each is there twice: as it is, and with what troubles healthy machines (``troubled``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from learning_judge import Judged, fixed_limits, judge, replayed, trained
from learning_rigs import bearing_run, process_run, seeded_faults
from rig import Row, main, row

_RIGS: Final = range(100, 120)
_PLANTS: Final = range(100, 112)
_FLEETS: Final = range(100, 108)
_MACHINES: Final = 6
_DAMAGED: Final = range(100, 105)


def _bearings(troubled: bool) -> list[Row]:
    rigs = "simulated rigs with troubles" if troubled else "simulated rigs"
    ours: list[Judged] = []
    limits: dict[str, list[Judged]] = {}
    for seed in _RIGS:
        run = bearing_run(seed, troubled=troubled)
        with tempfile.TemporaryDirectory() as folder:
            bundle = trained([run.recording], 0.1, seed, Path(folder, "bundle"))
            ours.append(judge(replayed(bundle, run.recording), run.recording.t_s, run.onset))
        for name, alert in fixed_limits(run.recording, 0.1):
            limits.setdefault(name, []).append(judge(alert, run.recording.t_s, run.onset))
    found = [*_rows(f"{rigs}, default recipe", ours)]
    for name, judged in limits.items():
        found += _rows(f"{rigs}, {name}", judged)
    return found


def _fleets() -> list[Row]:
    """Machines of a kind, up to ten times as loud as each other: one release for all, each with its own baseline.

    Also of a machine that training has not seen: the last of each fleet, by a release of the others.
    """
    ours: list[Judged] = []
    unseen: list[Judged] = []
    limits: dict[str, list[Judged]] = {}
    for fleet in _FLEETS:
        runs = [bearing_run(1000 * fleet + each, troubled=True, fleet=fleet) for each in range(_MACHINES)]
        recordings = [run.recording for run in runs]
        with tempfile.TemporaryDirectory() as folder:
            bundle = trained(recordings, 0.1, fleet, Path(folder, "bundle"))
            ours += [judge(replayed(bundle, run.recording), run.recording.t_s, run.onset) for run in runs]
            bundle = trained(recordings[:-1], 0.1, fleet, Path(folder, "others"))
            unseen.append(judge(replayed(bundle, recordings[-1]), recordings[-1].t_s, runs[-1].onset))
        for run in runs:
            for name, alert in fixed_limits(run.recording, 0.1):
                limits.setdefault(name, []).append(judge(alert, run.recording.t_s, run.onset))
    fleets = "simulated fleets with troubles"
    found = [*_rows(f"{fleets}, one release", ours), *_rows(f"{fleets}, a machine not in training", unseen)]
    for name, judged in limits.items():
        found += _rows(f"{fleets}, {name}", judged)
    return found


def _rows(name: str, judged: list[Judged]) -> list[Row]:
    return [
        row(f"{name}: warned >= 10 min ahead, of {len(judged)}", sum(each.warned for each in judged)),
        row(f"{name}: alert before the onset", sum(each.early > 0 for each in judged)),
    ]


def _damaged() -> list[Row]:
    missed = files = false = 0
    for seed in _DAMAGED:
        rig = seeded_faults(seed)
        with tempfile.TemporaryDirectory() as folder:
            bundle = trained([rig.healthy], 1.0, seed, Path(folder, "bundle"))
            missed += sum(not replayed(bundle, file).any() for file in rig.faulty)
            false += int(replayed(bundle, rig.again).sum())
        files += len(rig.faulty)
    return [
        row(f"simulated damage, from barely there to plain: files of {files} that never alert", missed),
        row("simulated damage: healthy windows of another day with an alert", false),
    ]


def _process(troubled: bool) -> list[Row]:
    plants = "simulated plants with troubles" if troubled else "simulated plants"
    found: list[Row] = []
    for samples in (1, 8):
        hits = misses = false = 0
        for seed in _PLANTS:
            plant = process_run(seed, samples, troubled=troubled)
            with tempfile.TemporaryDirectory() as folder:
                bundle = trained([plant.recording.part(slice(0, plant.healthy))], 1.0, seed, Path(folder, "bundle"))
                alert = replayed(bundle, plant.recording)[plant.healthy :]
            faulty = plant.faulty[plant.healthy :]
            hits += int(np.sum(alert & faulty))
            false += int(np.sum(alert & ~faulty))
            misses += int(np.sum(~alert & faulty))
        f1 = 2 * hits / max(1, 2 * hits + false + misses)
        found.append(row(f"{plants} at 1 Hz, windows of {samples}: F1", f1))
    share = float(np.mean([process_run(seed).faulty[400:].mean() for seed in _PLANTS]))
    found.append(row(f"{plants} at 1 Hz, alarm always: F1", 2 * share / (1 + share)))
    return found


def rows() -> list[Row]:
    """The rows of the simulated machines."""
    found = _damaged() + _fleets()
    for troubled in (False, True):
        found += _bearings(troubled) + _process(troubled)
    return found


if __name__ == "__main__":
    main(rows, "Simulated machines")
