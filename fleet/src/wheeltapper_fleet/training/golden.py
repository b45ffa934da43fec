"""Golden vectors of a release: windows of its data with what a runtime gives for them, and how far off a board may be.

Invariants:
    * Expectations are what an agent's process computed from the samples, one for each runtime that is claimed.
    * A tolerance of scores follows from that of outputs: a board whose outputs are allowed has scores that are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.judging.judge import Scores
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import Golden, Manifest

__all__ = ["STEPS", "GoldenVectors", "pick_windows", "tolerances"]

STEPS: Final = 3
"""Steps of a quantised output that runtimes may differ by: as many as TFLite Micro's interpreter and LiteRT do."""
_FLOAT_SHARE: Final = 1e-3
_INT8_SHARE: Final = 0.02
"""Of the range of the golden outputs: what a float model, and one that computes in 8 bits inside, may be off. The same
8-bit network differs in the third digit between x86-64 and arm64."""
_SMALL_SCORE: Final = 0.1
"""Below it the tolerance of a score is absolute, from it on relative."""
_MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_WINDOWS: Final = 12


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """What one runtime gives for the golden windows."""

    runtime: str
    samples: npt.NDArray[np.float32]
    found: Scores

    def arrays(self, alone: bool = True) -> dict[str, npt.NDArray[Any]]:
        """The arrays of the file ``golden.npz``; without ``alone`` those of ``golden-<runtime>.npz``."""
        outputs = {"model_output": self.found["model_output"], "score": self.found["score"]}
        return ({"samples": self.samples, "model_input": self.found["model_input"]} if alone else {}) | outputs


def pick_windows(data: LabelledWindows, score: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The indices of the golden windows: from the least to the greatest score, of every label; those with a score only.

    Args:
        data: the windows.
        score: [window].
    """
    each = max(1, int(_MAX_BYTES // data.samples[0].nbytes))
    count = min(_MAX_WINDOWS, each)
    labels = np.array(data.labels)
    picked: list[int] = []
    names = sorted(set(data.labels))
    for name in names:
        rows = np.flatnonzero((labels == name) & np.isfinite(score))
        rows = rows[np.argsort(score[rows], kind="stable")]
        share = max(1, count // len(names))
        if len(rows):
            picked += rows[np.unique(np.linspace(0, len(rows) - 1, share).astype(int))].tolist()
    return np.array(sorted(picked[:count]), dtype=np.int64)


def tolerances(manifest: Manifest, vectors: GoldenVectors, output_scale: float, quantised: bool) -> Golden:
    """How close a board must be.

    Args:
        manifest: says how the output is read as a score.
        vectors: what was found here.
        output_scale: of a quantised output, the step between two values; 0: it is a float.
        quantised: whether the model computes in 8 bits inside.
    """
    output = np.asarray(vectors.found["model_output"], dtype=np.float64)
    span = float(np.abs(output).max()) or 1.0
    share = _INT8_SHARE if quantised else _FLOAT_SHARE
    atol = max(STEPS * output_scale, share * span if not output_scale else 0.0)
    task, score = InferenceTask(manifest), vectors.found["score"]
    apart = np.zeros(len(score))
    for shifted in _shifted(output, atol):
        try:
            moved = task.read(vectors.found["model_input"], np.asarray(shifted, dtype=np.float32)).score
        except ValueError:  # no probabilities any more: the check refuses that by itself
            continue
        apart = np.maximum(apart, np.nan_to_num(np.abs(moved - score)))
    small = np.abs(score) < _SMALL_SCORE
    relative = float((apart[~small] / np.abs(score[~small])).max()) if (~small).any() else 0.0
    absolute = float(apart[small].max()) if small.any() else 0.0
    return Golden(
        output_atol=_rounded(atol), score_rtol=_rounded(max(0.01, relative)), score_atol=_rounded(max(1e-6, absolute))
    )


def _shifted(output: npt.NDArray[np.float64], atol: float) -> Sequence[npt.NDArray[np.float64]]:
    """Outputs that are off by ``atol``: all up, all down, each value of a row alone."""
    found = [output + atol, output - atol]
    flat = output.reshape(len(output), -1)
    for column in range(min(flat.shape[1], 32)):
        for sign in (1.0, -1.0):
            one = flat.copy()
            one[:, column] += sign * atol
            found.append(one.reshape(output.shape))
    return found


def _rounded(value: float) -> float:
    """Up to two digits, so that a manifest is not full of noise."""
    return float(f"{value * 1.05:.1e}")
