"""Formats of a model, the runtimes that read them, and what a release claims of each. Pure.

Invariants:
    * A claimed runtime reads the format that it is claimed for, and is claimed once.
    * Golden vectors of a runtime's own are those of a claimed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

__all__ = ["MODEL_FILES", "RUNTIMES", "ClaimedRuntime", "Golden", "Variant", "check_claims", "golden_file"]

MODEL_FILES: Final = {"onnx": "model.onnx", "tflite": "model.tflite"}
"""The name of the model's file, by format."""
RUNTIMES: Final = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime", "tflite-micro")}
"""The runtimes that a release may claim, by the format of its model. ``tflite-micro`` is the interpreter of
microcontrollers, which no agent runs."""


class Golden(Struct, frozen=True, kw_only=True):
    """The section ``golden``: how close a board's results must be to the golden ones before the release may run.

    ``_atol`` is an absolute, ``_rtol`` a relative tolerance. :data:`GOLDEN_FILE` holds the arrays ``samples``
    [n, sample, channel] float32, ``model_input`` [n, …] float32 (standardised features, or samples), ``model_output``
    [n, …] float32 and ``score`` [n] float64.
    """

    output_atol: Annotated[float, Meta(ge=0)]
    score_rtol: Annotated[float, Meta(ge=0)]
    feature_rtol: Annotated[float, Meta(ge=0)] = 1e-4
    score_atol: Annotated[float, Meta(ge=0)] = 0.0
    """For scores near 0, such as the probability of a fault of a healthy machine."""


class ClaimedRuntime(Struct, frozen=True, kw_only=True):
    """An entry of ``runtimes``: a runtime that the release was tested with, and may be run by.

    Where the file ``golden-<name>.npz`` is among the files, its arrays ``model_output`` and ``score`` are what this
    runtime is expected to give, in place of those in :data:`GOLDEN_FILE`.
    """

    name: Literal["onnxruntime", "ai-edge-litert", "tflite-runtime", "tflite-micro"]
    golden: Golden | None = None
    """Tolerances for this runtime; None: those of the section ``golden``."""


class Variant(Struct, frozen=True, kw_only=True):
    """An entry of ``variants``: the model in another format, with the runtimes that it was tested with.

    It takes and gives what the model of the manifest does. A device runs the first runtime of its board that is claimed
    by the manifest or by a variant. Each claimed runtime has its own golden outputs, as :class:`ClaimedRuntime` says.
    """

    runtime: Literal["onnx", "tflite"]
    runtimes: Annotated[list[ClaimedRuntime], Meta(min_length=1, max_length=8)]


def check_claims(runtime: str, claims: Sequence[ClaimedRuntime], files: Sequence[str]) -> None:
    """Check the runtimes that are claimed for one format.

    Args:
        runtime: the format.
        claims: of it.
        files: the names of the bundle's files.

    Raises:
        ValueError: one is claimed twice or does not read the format, or golden vectors are of one that is not claimed.
    """
    claimed = [entry.name for entry in claims]
    if len(set(claimed)) != len(claimed):
        raise ValueError("runtimes names one twice")
    if foreign := [name for name in claimed if name not in RUNTIMES[runtime]]:
        raise ValueError(f"{foreign[0]} does not read {runtime} models: leave it out of runtimes")
    for name in (known for known in RUNTIMES[runtime] if golden_file(known) in files and known not in claimed):
        raise ValueError(f"the file {golden_file(name)} is of a runtime that runtimes does not name")


def golden_file(runtime: str) -> str:
    """The name of the file with what ``runtime`` is expected to give; see :class:`ClaimedRuntime`."""
    return f"golden-{runtime}.npz"
