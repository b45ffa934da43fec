"""The default network: an autoencoder of standardised features, fitted by scikit-learn, exported to ONNX, quantised to
int8.

Invariants: deterministic for a seed on one machine; the graph clips its input at :data:`CLIP`, so the float and the
int8 net agree however far a window is out; input ``input`` and output ``output``, float32 [n, feature].

What this module does not do: standardise, score, judge.
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

__all__ = ["CLIP", "Layer", "fit", "open_session", "quantised", "run", "to_onnx"]

CLIP: Final = 4.0
BOTTLENECK: Final = 3
_OPSET: Final = 17
_ROWS_MIN: Final = 512
_ROWS_MAX: Final = 4096
_NOISE: Final = 0.5
_GROWN: Final = (0.0, CLIP / 2, 2 * CLIP)

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """``y = x @ weight + bias``; all but the last are followed by a rectifier."""

    weight: Rows
    bias: Rows


def fit(rows: Rows, seed: int) -> list[Layer]:
    """Fit a denoising autoencoder to healthy rows [window, feature].

    Rows are repeated with noise, so that few of them cannot be learnt by heart.
    """
    random = np.random.default_rng(seed)
    clean = np.clip(rows, -CLIP, CLIP)
    if len(clean) > _ROWS_MAX:
        clean = clean[np.sort(random.choice(len(clean), _ROWS_MAX, replace=False))]
    clean = np.tile(clean, (max(1, -(-_ROWS_MIN // len(clean))), 1))
    noisy = clean + random.normal(scale=_NOISE, size=clean.shape).astype(np.float32)
    width = rows.shape[1]
    bottleneck = max(2, min(BOTTLENECK, width // 4))
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


def run(layers: list[Layer], rows: Rows) -> Rows:
    """What the float net makes of rows [window, feature]."""
    value = np.clip(rows, -CLIP, CLIP)
    for number, layer in enumerate(layers):
        value = value @ layer.weight + layer.bias
        if number < len(layers) - 1:
            value = np.maximum(value, 0)
    return np.asarray(value, dtype=np.float32)


def to_onnx(layers: list[Layer]) -> bytes:
    """The float net as an ONNX model."""
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


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, rows: Rows) -> None:
        self._batches: Iterator[dict[str, Rows]] = iter([{"input": rows}])

    def get_next(self) -> dict[str, Rows] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice, on the root logger, to optimise a graph that has nothing to optimise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantised(model: bytes, healthy: Rows) -> bytes:
    """The model in int8 (static, QDQ, weights and activations signed).

    Ranges come from healthy rows and from the same rows grown louder, up to where the graph clips: from healthy rows
    alone the int8 net saturates early, and its score of a damaged machine was up to 21 % off the float net's.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        rows = np.concatenate([np.clip(healthy[:_ROWS_MAX] + grown, -CLIP, CLIP) for grown in _GROWN])
        quantize_static(
            source, target, _Rows(rows.astype(np.float32)), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=False,
        )  # fmt: skip
        return target.read_bytes()


def open_session(model: bytes) -> Any:
    """An onnxruntime session as devices open it: one thread, no spinning, CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
