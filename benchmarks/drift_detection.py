"""How soon change detectors find a change, and how often they raise false alarms.

The agent's ADWIN on the level, its detector on level and spread, and the ADWIN of the library river see the same
values: synthetic scores (20 seeds each; the change begins at window 2,000 of 4,000), anomaly scores of FEMTO's runs to
failure, and two series of NAB with their labelled windows.

    python benchmarks/drift_detection.py [--data DIR] [--json]
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from wheeltapper_agent.pipeline.change import Adwin, ScoreChangeDetector, to_unit_interval
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.evaluate import evaluate, read_bundle
from wheeltapper_fleet.training.importers import import_femto
from wheeltapper_protocols.drift.drift import ChangeSpec

Values = NDArray[np.float64]
WINDOWS, CHANGED_AT, SEEDS = 4000, 2000, 20
SPEC = ChangeSpec()


def level_adwin(scores: Values) -> list[int]:
    """Windows at which the agent's ADWIN on the level fires."""
    watch = Adwin(SPEC.delta, SPEC.look_windows, SPEC.warm_up_windows)
    return [index for index, score in enumerate(scores.tolist()) if watch.add(to_unit_interval(score)) is not None]


def level_and_spread(scores: Values) -> list[int]:
    """Windows at which the agent's detector on level and spread fires; devices run this one."""
    watch = ScoreChangeDetector(SPEC)
    return [index for index, score in enumerate(scores.tolist()) if watch.add(score)]


def river_adwin(scores: Values) -> list[int]:
    """Windows at which river's ADWIN fires."""
    watch = ADWIN(delta=SPEC.delta, clock=SPEC.look_windows, grace_period=SPEC.warm_up_windows)
    found = []
    for index, score in enumerate(scores.tolist()):
        watch.update(to_unit_interval(score))
        if watch.drift_detected:
            found.append(index)
    return found


DETECTORS: dict[str, Callable[[Values], list[int]]] = {
    "level": level_adwin,
    "level and spread": level_and_spread,
    "river": river_adwin,
}


@dataclass(frozen=True)
class Row:
    """One detector on one kind of stream."""

    stream: str
    detector: str
    streams: int
    found: int
    """Streams in which a change was found after it began."""
    delay: float | None
    """Median number of windows from the beginning of the change."""
    false_alarms: float
    """False alarms before the change, in 10,000 windows."""
    alarms_after: float
    """Alarms after the change, in one stream."""


def synthetic(kind: str, random: np.random.Generator) -> Values:
    """Scores of a healthy machine around 0.3, with a change at window :data:`CHANGED_AT`."""
    at = np.arange(WINDOWS)
    noise = random.standard_normal(WINDOWS)
    if kind.startswith("autocorrelated"):
        by = float(kind.split()[-1])
        for index in range(1, WINDOWS):
            noise[index] = by * noise[index - 1] + np.sqrt(1 - by**2) * noise[index]
    after = at >= CHANGED_AT
    level = {
        "abrupt, 1 sigma": 0.3 + 0.06 * after,
        "abrupt, 3 sigma": 0.3 + 0.18 * after,
        "gradual, 3 sigma in 1,000": 0.3 + 0.18 * np.clip((at - CHANGED_AT) / 1000, 0, 1),
    }.get(kind, np.full(WINDOWS, 0.3))
    deviation = np.where(after & (kind == "variance, 3 times"), 0.18, 0.06)
    return np.clip(level + deviation * noise, 0, None)


KINDS = (
    "abrupt, 1 sigma", "abrupt, 3 sigma", "gradual, 3 sigma in 1,000", "variance, 3 times", "no change",
    "autocorrelated, no change, by 0.7", "autocorrelated, no change, by 0.9",
)  # fmt: skip


def judge(stream: str, streams: list[tuple[Values, int]]) -> list[Row]:
    """The rows of all detectors over some streams, given as (scores, window at which the change begins)."""
    rows = []
    for name, detector in DETECTORS.items():
        delays, early, late, healthy = [], 0, 0, 0
        for scores, begins in streams:
            found = detector(scores)
            after = [index for index in found if index >= begins]
            early += len(found) - len(after)
            late += len(after)
            healthy += begins
            delays += [after[0] - begins] if after else []
        rows.append(
            Row(
                stream=stream,
                detector=name,
                streams=len(streams),
                found=len(delays),
                delay=float(np.median(delays)) if delays else None,
                false_alarms=round(early / max(1, healthy) * 1e4, 2),
                alarms_after=round(late / len(streams), 2),
            )
        )
    return rows


def femto(data: Path, run: str) -> Values:
    """The anomaly scores of a run to failure, by a model trained on its first tenth."""
    recording = import_femto(data / "femto" / f"Learning_set__Bearing{run}.npz")
    with tempfile.TemporaryDirectory() as folder:
        train_anomaly([recording], healthy_fraction=0.1, out=Path(folder, "bundle"))
        return evaluate(recording, read_bundle(Path(folder, "bundle"))).raw_score


def nab(data: Path, name: str) -> tuple[Values, int]:
    """A series of NAB scaled to 0 to 1, and the start of its first labelled window."""
    windows = json.loads((data / "nab" / "combined_windows.json").read_text())[f"realKnownCause/{name}.csv"]
    with lzma.open(data / "nab" / "realKnownCause" / f"{name}.csv.xz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([float(row["value"]) for row in rows])
    begin = datetime.fromisoformat(windows[0][0])
    first = next(index for index, row in enumerate(rows) if datetime.fromisoformat(row["timestamp"]) >= begin)
    return (values - values.min()) / (values.max() - values.min()), first


def table(data: Path) -> list[Row]:
    """The rows of all streams and detectors."""
    found: list[Row] = []
    for kind in KINDS:
        begins = WINDOWS if "no change" in kind else CHANGED_AT
        streams = [(synthetic(kind, np.random.default_rng(seed)), begins) for seed in range(SEEDS)]
        found += judge(kind, streams)
    for run in ("1_1", "1_2"):
        scores = femto(data, run)
        # When the wear began nobody knows: what is counted are alarms in the second half of its life.
        found += judge(f"FEMTO {run}, second half", [(scores, len(scores) // 2)])
    for name in ("machine_temperature_system_failure", "ambient_temperature_system_failure"):
        found += judge(f"NAB {name[:19]}", [nab(data, name)])
    return found


def rows(data: Path) -> list[dict[str, Any]]:
    """The figures: ``{name, value, target, holds}`` each."""
    found = {(row.stream, row.detector): row for row in table(data)}
    delays = [(found[kind, "level"].delay, found[kind, "river"].delay) for kind in KINDS[:3]]
    slower = max((mine or WINDOWS) / (theirs or WINDOWS) for mine, theirs in delays)
    alarms = found["no change", "level and spread"].false_alarms
    return [
        {
            "name": "detection delay against river's ADWIN (worst of three kinds)",
            "value": round(slower, 3),
            "target": 1.1,
            "holds": slower <= 1.1,
        },
        {
            "name": "false alarms in 10,000 windows, level and spread",
            "value": alarms,
            "target": 0.5,
            "holds": alarms <= 0.5,
        },
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("WHEELTAPPER_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = table(arguments.data)
    if arguments.json:
        print(json.dumps([asdict(row) for row in found]))
        return
    print(f"{'stream':30}{'detector':13}{'found':>8}{'delay':>8}{'false/10k':>11}{'after/stream':>14}")
    for row in found:
        print(
            f"{row.stream:30}{row.detector:13}{f'{row.found}/{row.streams}':>8}{row.delay!s:>8}"
            f"{row.false_alarms:>11}{row.alarms_after:>14}"
        )


if __name__ == "__main__":
    main()
