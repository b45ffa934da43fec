"""Writes the features that devices compute, for a model that is trained elsewhere: ``wheeltapper bundle features``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wheeltapper_fleet.ground.files import write_atomic
from wheeltapper_fleet.training.judging.judge import HEALTHY
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_fleet.training.own_draft import Draft, bytes_of, features_of
from wheeltapper_fleet.training.own_input import Placement

__all__ = ["write_features"]


def write_features(data: LabelledWindows, out: Path) -> tuple[int, int]:
    """Write standardised features with their labels as an ``.npz`` file.

    Arrays: ``x`` [window, feature] float32, ``label``, ``machine`` and ``recording`` [window] text and number,
    ``names``, ``center`` and ``scale`` [feature], ``transform``. ``x = (feature - center) / scale``, with
    mean and deviation of healthy windows, or of all where none is labelled as such.

    Returns:
        The numbers of windows and of features.
    """
    draft = Draft(b"", "onnx", data.input, Placement("features", data.input.window_samples), "score")
    values = features_of(draft, data.samples).astype(np.float64)
    healthy = np.array([label in HEALTHY for label in data.labels])
    rows = values[healthy] if healthy.any() else values
    center, deviation = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    names = [spec.name for spec in draft.specs]
    machines = data.segments["machine"]
    arrays = {
        "x": np.asarray((values - center) / scale, dtype=np.float32),
        "label": np.array(data.labels),
        "machine": np.array([machines[index] or data.names[index] for index in data.recording]),
        "recording": data.recording,
        "names": np.array(names),
        "center": center,
        "scale": scale,
        "transform": np.array("affine"),
    }
    write_atomic(out, bytes_of(arrays))
    return values.shape
