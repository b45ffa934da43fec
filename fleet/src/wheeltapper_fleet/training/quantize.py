"""Quantises an ONNX model to 8 bits, as far as that is right and pays: somebody's, or that of a recipe.

Static, QDQ format, signed, weights per channel. Where the whole network loses too much, the layers that lose most stay
in floating point: each one's loss is measured by quantising it alone. Then both models are timed side by side, and the
faster is kept: a small dense network is often slower in 8 bits than in floating point.

Source of the format: ONNX Runtime, "Quantize ONNX models" (QDQ, S8S8).

Invariants:
    * Ranges are taken from the calibration windows only; the loss is measured on other windows.
    * The same model and windows give the same layers in 8 bits. Which model is kept depends on this computer's speed.

What this module does not do: run a model that one does not trust. It is loaded in this process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from wheeltapper_fleet.training.autoencoder import open_session, warnings_silenced
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.errors import brief

__all__ = [
    "LAYERS",
    "LIMIT",
    "Method",
    "Quantised",
    "chosen",
    "latency_ms",
    "layers_of",
    "loss",
    "quantise",
    "quantised",
]

LAYERS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weights are quantised; what follows them in the same chain is quantised with them."""
LIMIT: Final = 0.05
"""Greatest loss: the 95 % quantile of the outputs' differences, over the deviation of the float model's outputs."""
_ROUNDS, _RUNS = 7, 40
_BATCH: Final = 256

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantised:
    """What became of a model."""

    content: bytes
    """The model that is kept."""
    kept: str
    """``int8``, ``mixed`` or ``float``."""
    why: str
    """One sentence."""
    loss: float
    """Of the 8-bit model on windows that it was not calibrated on; see :data:`LIMIT`."""
    full_loss: float
    """The loss with every layer in 8 bits."""
    float_layers: tuple[str, ...]
    """Layers that stay in floating point."""
    float_ms: float
    """Median time of a window, of the fastest of some rounds."""
    int8_ms: float
    float_bytes: int
    int8_bytes: int

    @property
    def lineage(self) -> dict[str, str]:
        """What the manifest of a release says of it."""
        found = {"precision": self.kept, "precision_why": self.why}
        return found | ({"float_layers": ", ".join(self.float_layers)} if self.kept == "mixed" else {})


@dataclass(frozen=True)
class Method:
    """How a model is quantised, and what it loses.

    Args:
        layers: names of what can be in 8 bits.
        quantise: gives the model in 8 bits, but for the layers that are named.
        loss: of an 8-bit model.
    """

    layers: Sequence[str]
    quantise: Callable[[Sequence[str]], bytes]
    loss: Callable[[bytes], float]


def _quiet(text: str) -> None:
    """Say nothing."""


def quantised(
    model: bytes,
    calibration: Rows,
    held_out: Rows,
    *,
    limit: float = LIMIT,
    smaller: bool = False,
    say: Callable[[str], None] = _quiet,
) -> Quantised:
    """Quantise a model, layer by layer where it must be, and keep what is faster.

    Args:
        model: an ONNX model in floating point with one input.
        calibration: [window, …] the model's input for windows of training.
        held_out: [window, …] for other windows.
        limit: greatest loss.
        smaller: keep the 8-bit model even where it is slower.
        say: called with a few words at each step.

    Raises:
        TrainingError: ``quantize.input``: it cannot be run or quantised, or has no layer that gains from it.
    """
    prepared = _prepared(model)
    layers = layers_of(prepared)
    if not layers:
        raise TrainingError("quantize.input", f"the model has no layer that gains from 8 bits ({', '.join(LAYERS)})")
    try:
        reference = _outputs(model, held_out)
    except Exception as error:  # onnxruntime raises many kinds
        raise _unusable("ONNX Runtime cannot run the model", error) from error
    method = Method(
        layers,
        lambda kept: quantise(prepared, calibration, kept),
        lambda content: loss(reference, _outputs(content, held_out)),
    )
    return chosen(model, method, held_out[:1], limit=limit, slower=np.inf if smaller else 1.0, say=say)


def chosen(
    model: bytes, method: Method, row: Rows, *, limit: float, slower: float = 1.0, say: Callable[[str], None] = _quiet
) -> Quantised:
    """Quantise a model as far as it loses little, and keep what pays.

    Args:
        model: in floating point.
        method: how it is quantised, and what it loses.
        row: one window, of which the time is measured.
        limit: greatest loss.
        slower: the 8-bit model is kept where a window takes it at most so many times as long as the float model.
        say: called with a few words at each step.
    """
    layers, kept_float = method.layers, list[str]()
    content = method.quantise(())
    full = found = method.loss(content)
    if not found <= limit:
        say(f"8 bits everywhere lose {found:.3g}; each of {len(layers)} layers is measured alone")
        alone = {name: method.loss(method.quantise([each for each in layers if each != name])) for name in layers}
        for name in sorted(layers, key=lambda each: -alone[each])[:-1]:
            kept_float.append(name)
            content = method.quantise(kept_float)
            found = method.loss(content)
            say(f"with {name} in floating point: {found:.3g}")
            if found <= limit:
                break
    float_ms, int8_ms = latency_ms([model, content], row)
    name = "mixed" if kept_float else "int8"
    told = f"{name} takes {1e3 * int8_ms:.3g} µs a window here, float {1e3 * float_ms:.3g} µs"
    kept = name if int8_ms <= slower * float_ms else "float"
    if not found <= limit:
        kept, told = "float", f"8 bits lose {found:.3g} even with one layer only, and {limit:.3g} is allowed"
    return Quantised(
        content=model if kept == "float" else content, kept=kept, why=f"{told}: {kept} is kept", loss=found,
        full_loss=full, float_layers=tuple(kept_float), float_ms=float_ms, int8_ms=int8_ms, float_bytes=len(model),
        int8_bytes=len(content),
    )  # fmt: skip


def layers_of(model: bytes) -> list[str]:
    """The names of the layers that are quantised, in the order of the graph."""
    return [node.name for node in onnx.load_from_string(model).graph.node if node.op_type in LAYERS]


def quantise(model: bytes, calibration: Rows, float_layers: Sequence[str] = ()) -> bytes:
    """The model in 8 bits, but for the layers ``float_layers``."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as folder, warnings_silenced():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        try:
            quantize_static(
                source, target, _Rows(model, calibration), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, nodes_to_exclude=list(float_layers),
            )  # fmt: skip
        except Exception as error:  # onnxruntime raises many kinds
            raise _unusable("ONNX Runtime cannot quantise the model", error) from error
        return target.read_bytes()


def loss(reference: Rows, output: Rows) -> float:
    """How far outputs are from the reference: the 95 % quantile of the differences over the reference's deviation."""
    scale = float(np.std(reference)) or float(np.abs(reference).max()) or 1.0
    return float(np.quantile(np.abs(output.astype(np.float64) - reference), 0.95) / scale)


def latency_ms(models: Sequence[bytes], row: Rows) -> list[float]:
    """Milliseconds for one window by each model: the median of a round, of the fastest round. Rounds take turns, so
    that a busy computer slows all models alike."""
    sessions = [open_session(model) for model in models]
    feeds = [{session.get_inputs()[0].name: _fitted(session, row)} for session in sessions]
    best = [float("inf")] * len(models)
    for _ in range(_ROUNDS):
        for index, (session, feed) in enumerate(zip(sessions, feeds, strict=True)):
            times = []
            for _ in range(_RUNS):
                begin = time.perf_counter()
                session.run(None, feed)
                times.append(time.perf_counter() - begin)
            best[index] = min(best[index], 1e3 * float(np.median(times)))
    return best


def _prepared(model: bytes) -> bytes:
    """The model with inferred shapes, every node with a name; what it computes is the same."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as folder, warnings_silenced():
        source, target = Path(folder, "float.onnx"), Path(folder, "prepared.onnx")
        source.write_bytes(model)
        try:
            quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
            loaded = onnx.load(target)
        except Exception as error:  # onnxruntime raises many kinds
            raise _unusable("the model cannot be loaded", error) from error
    for number, node in enumerate(loaded.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return bytes(loaded.SerializeToString())


def _unusable(what: str, error: Exception) -> TrainingError:
    return TrainingError("quantize.input", f"{what}: {brief(error)}; export it in floating point")


def _outputs(model: bytes, rows: Rows) -> Rows:
    """[window, values]: the outputs of a model, side by side."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    parts = []
    for batch in _batches(session, rows):
        found = session.run(None, {name: batch})
        parts.append(np.concatenate([np.asarray(each, np.float32).reshape(len(batch), -1) for each in found], axis=1))
    return np.concatenate(parts)


def _batches(session: Any, rows: Rows) -> Iterator[Rows]:
    """The rows as the model takes them: one by one where its first axis is fixed."""
    first = session.get_inputs()[0].shape[0]
    step = first if isinstance(first, int) else _BATCH
    for start in range(0, len(rows) - (len(rows) % step if isinstance(first, int) else 0), step):
        yield _fitted(session, rows[start : start + step])


def _fitted(session: Any, rows: Rows) -> Rows:
    """Rows in the shape of the input: axes of length 1 are added or left out."""
    shape = session.get_inputs()[0].shape
    fixed = [len(rows), *(length if isinstance(length, int) else -1 for length in shape[1:])]
    return rows if rows.ndim == len(shape) or fixed.count(-1) > 1 else rows.reshape(fixed)


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the calibration windows to ONNX Runtime."""

    def __init__(self, model: bytes, rows: Rows) -> None:
        session = open_session(model)
        name = session.get_inputs()[0].name
        self._batches = iter([{name: batch} for batch in _batches(session, rows)])

    def get_next(self) -> dict[str, Rows] | None:
        return next(self._batches, None)
