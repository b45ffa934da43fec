"""How long the default recipe takes from 10,000 snapshots to a gated int8 bundle."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from learning_judge import trained
from rig import Row, main, row

from wheeltapper_protocols.signal.recording import Recording

_SNAPSHOTS: Final = 10_000


def rows() -> list[Row]:
    """The row."""
    random = np.random.default_rng(0)
    samples = random.normal(scale=1000, size=(_SNAPSHOTS, 2560, 2)).astype(np.int16)
    t_s = np.arange(_SNAPSHOTS) * np.float64(10)
    recording = Recording(samples, np.full(2, 1e-3), 25_600.0, t_s, ("a", "b"), ("g", "g"), {})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trained([recording], 1.0, 0, Path(folder, "bundle"))
        seconds = time.perf_counter() - began
    return [row("default recipe, 10,000 snapshots of 2,560 samples to a bundle [s]", seconds, at_most=60.0)]


if __name__ == "__main__":
    main(rows, "The default recipe's time")
