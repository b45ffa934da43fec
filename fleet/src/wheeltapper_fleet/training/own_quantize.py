"""Quantises somebody's model on recordings: ``wheeltapper bundle quantize``.

Invariant: ranges are taken from some recordings (or, of one recording, from its first three quarters), the loss is
measured on the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.ground.files import write_atomic
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging.judge import Say
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_fleet.training.own_draft import Answers, Ask, scaling_of
from wheeltapper_fleet.training.own_model import found_draft, read_model
from wheeltapper_fleet.training.quantize import LIMIT, Quantised, quantised

__all__ = ["quantize_model"]

_LEAST_WINDOWS = 8


def quantize_model(
    model: Path,
    data: LabelledWindows,
    answers: Answers,
    out: Path,
    *,
    ask: Ask,
    say: Say,
    limit: float = LIMIT,
    smaller: bool = False,
) -> Quantised:
    """Quantise a model, and write the one that is kept to ``out``.

    Args:
        model: an ONNX file in floating point.
        data: windows of the training data.
        answers: how the model reads them; a scaling that is not said is asked.
        out: the file to write.
        ask: answers what is open.
        say: called with a few words at each step.
        limit: greatest loss, see :mod:`quantize`.
        smaller: keep the 8-bit model even where it is slower.

    Raises:
        TrainingError: ``bundle.*``, ``quantize.*``.
        WireError: ``runtime.*``.
    """
    if out.exists():
        raise TrainingError("training.out_exists", f"{out} is there already; choose another file")
    content, runtime = read_model(model)
    if runtime != "onnx":
        text = "only ONNX models can be quantised here"
        raise TrainingError("quantize.input", f"{text}: quantise a TFLite model where it is converted")
    draft, data = found_draft(content, runtime, data, answers, ask, say)
    question = "How was the model's input scaled in training?"
    scaling = scaling_of(answers.scaling or ask("scaling", question, ("none", "standard")), draft, data.samples)
    rows = draft.model_input(scaling, data.samples)
    held = _held_out(data)
    if min(held.sum(), (~held).sum()) < _LEAST_WINDOWS:
        text = f"{len(held)} windows are too few to take ranges from some and measure the loss on others"
        raise TrainingError("quantize.data", f"{text}: give at least {4 * _LEAST_WINDOWS}")
    found = quantised(content, rows[~held], rows[held], limit=limit, smaller=smaller, say=say)
    write_atomic(out, found.content)
    return found


def _held_out(data: LabelledWindows) -> npt.NDArray[np.bool_]:
    """[window]: whether the loss is measured on it: every fourth recording, or the last quarter of the only ones."""
    held = np.zeros(len(data), dtype=bool)
    count = len(data.names)
    for index in range(count):
        rows = np.flatnonzero(data.recording == index)
        if count >= 4:
            held[rows] = index % 4 == 3
        else:
            held[rows[3 * len(rows) // 4 :]] = True
    return held
