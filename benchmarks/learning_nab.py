"""The score of the Numenta Anomaly Benchmark, by its published rules, and its detector *windowed Gaussian*.

A detection within an anomaly's window earns the more, the earlier it is; only the earliest counts. One outside costs
the more, the farther it is behind the last window. A window without a detection costs 1. 0 is what no detection at all
scores, 100 what a detection at the beginning of every window scores. The first 15 % of a series, at most 750 records,
are not scored.

Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", ICMLA 2015; profile "standard".
"""

from __future__ import annotations

import csv
import json
import lzma
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["NAMES", "Series", "best_threshold", "nab_score", "read_series", "windowed_gaussian"]

Floats = npt.NDArray[np.float64]
NAMES: Final = (
    "ambient_temperature_system_failure",
    "machine_temperature_system_failure",
    "cpu_utilization_asg_misconfiguration",
    "ec2_request_latency_system_failure",
    "nyc_taxi",
    "rogue_agent_key_hold",
    "rogue_agent_key_updown",
)
_FALSE_POSITIVE: Final = 0.11
"""Weight of the profile "standard"; a missed window and a found one weigh 1."""


@dataclass(frozen=True)
class Series:
    """One series: its values, its step in seconds, and its anomalies' windows as (first, last) record."""

    values: Floats
    step_s: float
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Records that are not scored."""
        return int(min(0.15 * len(self.values), 750))


def read_series(folder: Path, name: str) -> Series:
    """Read a series of ``realKnownCause`` and its windows."""
    with lzma.open(folder / "realKnownCause" / f"{name}.csv.xz", "rt") as text:
        rows = list(csv.reader(text))[1:]
    times = np.array([_seconds(row[0]) for row in rows])
    windows = []
    for first, last in json.loads((folder / "combined_windows.json").read_text())[f"realKnownCause/{name}.csv"]:
        within = np.flatnonzero((times >= _seconds(first)) & (times <= _seconds(last)))
        windows.append((int(within[0]), int(within[-1])))
    step = float(np.median(np.diff(times)))
    return Series(np.array([float(row[1]) for row in rows]), step, tuple(windows))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _sigmoid(place: float) -> float:
    """What a detection earns at a place relative to its window: -1 its begin, 0 its end, above 0 behind it."""
    return -1.0 if place > 3 else 2 / (1 + math.exp(5 * place)) - 1


def _worth(series: Series) -> tuple[Floats, npt.NDArray[np.int64]]:
    """What a detection at each record is worth, and the window that it lies in (-1: none)."""
    worth, window = np.full(len(series.values), -1.0), np.full(len(series.values), -1)
    for number, (first, last) in enumerate(series.windows):
        length = last - first + 1
        until = series.windows[number + 1][0] if number + 1 < len(series.windows) else len(worth)
        worth[first : last + 1] = [_sigmoid(-(last - i + 1) / length) / _sigmoid(-1.0) for i in range(first, last + 1)]
        worth[last + 1 : until] = [_sigmoid((i - last) / max(1, length - 1)) for i in range(last + 1, until)]
        window[first : last + 1] = number
    return worth, window


def nab_score(series: list[Series], detected: list[npt.NDArray[np.bool_]]) -> float:
    """The normalised score of detections [record] on some series."""
    total, windows = 0.0, 0
    for one, found in zip(series, detected, strict=True):
        worth, window = _worth(one)
        hits = np.flatnonzero(found & (np.arange(len(found)) >= one.probation))
        for number in range(len(one.windows)):
            mine = hits[window[hits] == number]
            total += float(worth[mine].max()) if len(mine) else -1.0
        total += _FALSE_POSITIVE * float(worth[hits[window[hits] < 0]].sum())
        windows += len(one.windows)
    return 100 * (total + windows) / (2 * windows)


def best_threshold(series: list[Series], scores: list[Floats]) -> tuple[float, float]:
    """The greatest score over all thresholds of one detector, and that threshold: each record at it is a detection."""
    everything = np.concatenate(scores)
    shares = np.concatenate([np.linspace(0.5, 0.99, 50), 1 - np.logspace(-2, -5, 60), [1.0]])
    return max(
        (nab_score(series, [score >= at for score in scores]), float(at)) for at in np.quantile(everything, shares)
    )


def windowed_gaussian(values: Floats, size: int = 6400, step: int = 100) -> Floats:
    """How unlikely each record is under a Gaussian of the ``size`` before it, which moves by ``step``: 0.5 to 1."""
    scores = np.zeros(len(values))
    for first in range(0, len(values), step):
        past: Any = values[max(0, first - size) : first]
        for i in range(first, min(first + step, len(values))):
            seen = past if first >= size else values[:i]
            if len(seen):
                spread = max(float(np.std(seen)), 1e-6)
                scores[i] = 1 - 0.5 * math.erfc(abs(values[i] - float(np.mean(seen))) / spread / math.sqrt(2))
    return scores
