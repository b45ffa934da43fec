"""The UCI fan: one release for all speeds, which the channel ``speed`` says.

Trained on the first 40 % of each speed of the balanced fan. Judged on the rest of it, and on the fan with the worst
imbalance at each speed. The figures are those of the int8 release through the agent's own replay.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from learning_judge import DATA, SEEDS, replayed
from rig import Row, main, row

from wheeltapper_fleet.learning.datasets.public_sets import import_uci_fan
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["rows", "with_speed"]

_SPEEDS: Final = tuple(range(20, 101, 5))
_HEALTHY, _IMBALANCED = 3, 1
_SHARE: Final = 0.4


def with_speed(recording: Recording, speed_percent: float) -> Recording:
    """A recording with a fourth channel, the speed in percent."""
    counts = np.full((*recording.samples.shape[:2], 1), speed_percent, dtype=recording.samples.dtype)
    return replace(
        recording,
        samples=np.concatenate([recording.samples, counts], axis=2),
        scale=np.append(recording.scale, 1.0),
        channels=(*recording.channels, "speed"),
        units=(*recording.units, "%"),
    )


def rows() -> list[Row]:
    """The rows of the fan."""
    file = DATA / "uci_fan" / "uci_fan_mems_50hz.npz"
    healthy = {speed: with_speed(import_uci_fan(file, _HEALTHY, speed), speed) for speed in _SPEEDS}
    worn = {speed: with_speed(import_uci_fan(file, _IMBALANCED, speed), speed) for speed in _SPEEDS}
    found, false, windows = [], 0, 0
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder, "bundle")
            train_anomaly(
                list(healthy.values()), healthy_fraction=_SHARE, out=bundle, seed=seed, condition="speed",
                warn=lambda text: None,
            )  # fmt: skip
            found.append(sum(bool(replayed(bundle, worn[speed]).any()) for speed in _SPEEDS if speed >= 40))
            for run in healthy.values():
                alert = replayed(bundle, run.part(slice(int(run.snapshots * _SHARE), None)))
                false, windows = false + int(alert.sum()), windows + alert.size
    speeds = sum(speed >= 40 for speed in _SPEEDS)
    return [
        row(
            f"UCI fan, one release: imbalance found, of {speeds} speeds from 40 %",
            float(np.mean(found)),
            at_least=speeds,
        ),
        row("UCI fan, one release: share of healthy windows with an alert", false / windows, at_most=0.01),
    ]


if __name__ == "__main__":
    main(rows, "UCI fan")
