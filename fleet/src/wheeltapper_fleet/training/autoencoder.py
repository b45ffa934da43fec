"""The default model: a denoising autoencoder of standardised features.

scikit-learn fits it, this module exports it to ONNX, and onnxruntime quantizes it to int8.

Invariants:
    * On one machine the same rows and seed give the same model.
    * The graph clips its input to ±:data:`CLIP`, so that the float and the int8 model agree however large a feature is.
    * The ONNX graph has one input ``input`` and one output ``output``, both float32 [window, feature].

What this module does not do: standardise features (:mod:`wheeltapper_protocols.decision.scoring`), choose a threshold
(:mod:`recipe`), judge the result (:mod:`gates`).
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

__all__ = ["CLIP", "Layer", "fit", "open_session", "quantize_int8", "reconstruct", "to_onnx", "warnings_silenced"]

CLIP: Final = 4.0
"""Inputs are clipped here, in healthy standard deviations."""
_BOTTLENECK: Final = 3
_OPSET: Final = 17
_MIN_ROWS: Final = 512
"""Fewer rows are repeated (each time with fresh noise) until there are about this many."""
_MAX_ROWS: Final = 4096
"""Of more rows a random choice is used, so that training stays a matter of seconds."""
_NOISE: Final = 0.5
"""Standard deviation of the noise that the autoencoder learns to remove."""
_CALIBRATION_SHIFTS: Final = (0.0, CLIP / 2, 2 * CLIP)
"""Added to healthy rows when int8 ranges are chosen, so that the ranges also cover damaged machines."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One dense layer: ``y = x @ weight + bias``. A ReLU follows every layer but the last."""

    weight: Rows
    bias: Rows


def fit(rows: Rows, seed: int) -> list[Layer]:
    """Fit a denoising autoencoder to healthy windows.

    Noise is added to the rows. Few rows are repeated with fresh noise, so that they are not memorised.

    Args:
        rows: standardised features of healthy windows, float32 [window, feature].
        seed: seeds the choice of rows, the noise and the initial weights.

    Returns:
        The layers, from input to output.
    """
    random = np.random.default_rng(seed)
    clean = np.clip(rows, -CLIP, CLIP)
    if len(clean) > _MAX_ROWS:
        clean = clean[np.sort(random.choice(len(clean), _MAX_ROWS, replace=False))]
    clean = np.tile(clean, (max(1, -(-_MIN_ROWS // len(clean))), 1))
    noisy = clean + random.normal(scale=_NOISE, size=clean.shape).astype(np.float32)
    width = rows.shape[1]
    bottleneck = max(2, min(_BOTTLENECK, width // 4))
    model = MLPRegressor(
        hidden_layer_sizes=(2 * bottleneck, bottleneck, 2 * bottleneck),
        activation="relu", alpha=0.1, batch_size=64, learning_rate_init=3e-3, max_iter=40, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(noisy, clean)
    return [
        Layer(np.asarray(weight, dtype=np.float32), np.asarray(bias, dtype=np.float32))
        for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)
    ]


def reconstruct(layers: list[Layer], rows: Rows) -> Rows:
    """Run the float model: the reconstruction of ``rows``, float32 [window, feature], in the same shape."""
    value = np.clip(rows, -CLIP, CLIP)
    for number, layer in enumerate(layers):
        value = value @ layer.weight + layer.bias
        if number < len(layers) - 1:
            value = np.maximum(value, 0)
    return np.asarray(value, dtype=np.float32)


def to_onnx(layers: list[Layer]) -> bytes:
    """Export the float model to ONNX; returns the serialised model."""
    constants = [("low", np.array(-CLIP, np.float32)), ("high", np.array(CLIP, np.float32))]
    nodes = [helper.make_node("Clip", ["input", "low", "high"], ["clipped"], name="clip")]
    value = "clipped"
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        constants += [(f"weight{number}", layer.weight), (f"bias{number}", layer.bias)]
        target = "output" if last else f"linear{number}"
        nodes.append(helper.make_node("Gemm", [value, f"weight{number}", f"bias{number}"], [target], f"gemm{number}"))
        if not last:
            value = f"hidden{number}"
            nodes.append(helper.make_node("Relu", [target], [value], f"relu{number}"))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", len(layers[0].weight)])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", len(layers[-1].bias)])]
    initial = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph(nodes, "autoencoder", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="wheeltapper")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _CalibrationRows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, rows: Rows) -> None:
        self._batches: Iterator[dict[str, Rows]] = iter([{"input": rows}])

    def get_next(self) -> dict[str, Rows] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def warnings_silenced() -> Iterator[None]:
    """Silence log warnings: onnxruntime advises through the root logger to optimise a graph that needs none."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantize_int8(model: bytes, healthy: Rows) -> bytes:
    """Quantize a model to int8: static, QDQ format, signed weights and activations.

    Activation ranges come from healthy rows and from the same rows shifted up to where the graph clips. With ranges
    from healthy rows alone the int8 model saturates early: its scores of damaged machines differed from the float
    model's by up to 21 %.

    Args:
        model: the float model, as :func:`to_onnx` gives it.
        healthy: standardised features of healthy windows, float32 [window, feature].

    Returns:
        The serialised int8 model.
    """
    with tempfile.TemporaryDirectory() as folder, warnings_silenced():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        rows = np.concatenate([np.clip(healthy[:_MAX_ROWS] + shift, -CLIP, CLIP) for shift in _CALIBRATION_SHIFTS])
        quantize_static(
            source, target, _CalibrationRows(rows.astype(np.float32)), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=False,
        )  # fmt: skip
        return target.read_bytes()


def open_session(model: bytes) -> Any:
    """Open an onnxruntime session with the options that devices use: one thread, no spinning, CPU only.

    Example:
        >>> output = open_session(model).run(["output"], {"input": rows})[0]
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
