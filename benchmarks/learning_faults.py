"""Kinds of fault on CWRU: trained on some physical bearings, judged on others, beside the division that leaks.

Protocol (docs/learning/recipes.md): a bearing is one fault at one diameter. Each diameter is held out once; the healthy
recording, of one bearing only, is divided by time. The normal file (48 kHz) and the faulty ones (12 kHz) come to one
rate. Scores are those of the int8 model through the agent's own bundle. The leaky division holds out every fourth
snapshot of every bearing: it is what is often published, and says nothing of other bearings. The gates of the recipe
are off here, since the figure is of every model, also of those that nobody would get; how many they would have refused
is said.

    python benchmarks/learning_faults.py [--json]
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from rig import REPOSITORY, Row, main, row

from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_fleet.training import fault_classifier
from wheeltapper_fleet.training.fault_classifier import macro_auroc
from wheeltapper_fleet.training.importers import import_cwru
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.vibration_windows import read_labelled
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["rows"]

_DATA: Final = Path(os.environ.get("WHEELTAPPER_DATA", REPOSITORY.parent / "shared" / "data"))
_SEEDS: Final = tuple(range(int(os.environ.get("WHEELTAPPER_BENCH_SEEDS", "5"))))
_FAULTS: Final = {"B": "ball", "IR": "inner race", "OR": "outer race"}
_WINDOW: Final = 1024
"""The healthy file is short: with longer windows its half would be too few of them."""


def recordings() -> list[Recording]:
    """The healthy file and the faulty ones at 12 kHz, each with its fault and its bearing."""
    folder = _DATA / "cwru"
    with np.load(folder / "cwru_de_int16.npz", allow_pickle=False) as archive:
        names = [name for name in archive.files if not name.endswith(("__lsb", "__rpm"))]
    found = []
    for name in sorted(names):
        match = re.search(r"_(B|IR|OR)(\d{3})", name)
        if name.startswith("normal"):
            fault, bearing = "normal", "normal"
        elif name.startswith("12k") and match:
            fault, bearing = _FAULTS[match[1]], f"{_FAULTS[match[1]]} {match[2]}"
        else:
            continue
        made = import_cwru(folder, name, 4096 * (4 if fault == "normal" else 1))
        found.append(replace(made, meta={"machine": bearing, "labels": {"fault": fault}, "file": name}))
    return found


def _held_out(all_of_it: list[Recording], diameter: str) -> tuple[list[Recording], list[Recording]]:
    """What is trained on and what is judged: bearings of one diameter, and the second half of the healthy time."""
    rest: list[Recording] = []
    held: list[Recording] = []
    for each in all_of_it:
        if each.meta["machine"] == "normal":
            middle = each.snapshots // 2
            rest.append(each.part(slice(0, middle)))
            held.append(each.part(slice(middle, each.snapshots)))
        else:
            (held if each.meta["machine"].endswith(diameter) else rest).append(each)
    return rest, held


def _leaky(all_of_it: list[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Every fourth snapshot of every bearing is judged."""
    rest: list[Recording] = []
    held: list[Recording] = []
    for each in all_of_it:
        keep = np.arange(each.snapshots) % 4 != 3
        for mine, side in ((keep, rest), (~keep, held)):
            side.append(replace(each, samples=each.samples[mine], t_s=each.t_s[mine]))
    return rest, held


def _area(rest: list[Recording], held: list[Recording], seed: int, kind: str = "nets") -> tuple[float, float, bool]:
    """The macro AUROC of a model on other recordings, the share of windows that it names rightly, and whether its gates
    would have refused it."""
    quiet: Any = lambda text: None  # noqa: E731  # the warning of one healthy bearing, each time
    limits = {"macro_auroc": fault_classifier._LEAST_AUROC, "calibration_error": fault_classifier._MOST_MISCALIBRATED}
    off = patch.multiple(fault_classifier, _LEAST_AUROC=0.0, _MOST_MISCALIBRATED=1.0)
    with tempfile.TemporaryDirectory() as folder, off:
        job = Job(out=Path(folder, "bundle"), model="fault", seed=seed, warn=quiet)
        made = train_recipe("fault-classifier", {"window_samples": _WINDOW, "model": kind}, rest, job)
        bundle = load_bundle(Path(folder, "bundle"))
    assert made.classification is not None
    found = {gate.name: gate.value for gate in made.gates}
    refused = found["macro_auroc"] < limits["macro_auroc"] or found["calibration_error"] > limits["calibration_error"]
    data = read_labelled(held, "fault", _WINDOW, made.input.sample_rate_hz, seed)
    classes = np.array([made.classification.classes.index(data.names[each]) for each in data.classes])
    outputs = [bundle.evaluate(data.samples[i : i + 64]).model_output for i in range(0, len(classes), 64)]
    logits = np.concatenate(outputs)
    return macro_auroc(logits, classes), float(np.mean(logits.argmax(axis=1) == classes)), refused


def rows() -> list[Row]:
    """The figures of kinds of fault."""
    if not (_DATA / "cwru").exists():
        return []
    everything = recordings()
    areas, right, refusals = [], [], 0
    for seed in _SEEDS:
        for diameter in ("007", "014", "021"):
            area, share, refused = _area(*_held_out(everything, diameter), seed)
            areas.append(area)
            right.append(share)
            refusals += refused
    others: dict[str, list[float]] = {"trees": [], "auto": []}
    for kind, found in others.items():
        for diameter in ("007", "014", "021"):
            found.append(_area(*_held_out(everything, diameter), _SEEDS[0], kind)[0])
    leaky = [_area(*_leaky(everything), seed)[0] for seed in _SEEDS[:2]]
    return [
        row("CWRU, bearings held out: macro AUROC, int8 (mean over diameters and seeds)", float(np.mean(areas))),
        row("CWRU, bearings held out: its spread (standard deviation)", float(np.std(areas))),
        row("CWRU, bearings held out: its least", float(np.min(areas))),
        row("CWRU, bearings held out: share of windows that are named rightly", float(np.mean(right))),
        row("CWRU, bearings held out: share of the models that the recipe's gates refuse", refusals / len(areas)),
        row("CWRU, bearings held out: macro AUROC of boosted trees (one seed)", float(np.mean(others["trees"]))),
        row("CWRU, bearings held out: macro AUROC, nets or trees as is likeliest", float(np.mean(others["auto"]))),
        row("CWRU, windows held out (leaks): macro AUROC", float(np.mean(leaky))),
    ]


if __name__ == "__main__":
    main(rows, "Kinds of fault")
