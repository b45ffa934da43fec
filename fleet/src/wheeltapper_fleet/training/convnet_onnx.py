"""Writes convolution nets as one ONNX graph, with what comes before them, and quantizes it to int8.

    input [window, sample, channel] -> regime of each sample -> standardised by its regime -> mean of each block of
    samples, or trends -> clipped -> each net -> their mean, and boosted trees beside it -> output [window, output]

Weights and activations of the nets are int8 (QDQ form, weights per channel); what comes before them, their last layer
and trees stay float, which costs little and keeps the regimes and the output exact.

Invariants:
    * The graph computes what :func:`run` computes with numpy, up to the rounding of floats.
    * Where a sample of a window belongs to no known regime, the output is NaN: devices count such windows and say that
      they have no score; they never take them for a prediction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from wheeltapper_fleet.training.autoencoder import warnings_silenced
from wheeltapper_fleet.training.convnet import ConvNet
from wheeltapper_fleet.training.envelopes import Envelopes, add_envelopes
from wheeltapper_fleet.training.onnx_graph import Graph
from wheeltapper_fleet.training.trees import Trees, add_trees

__all__ = ["TINY", "Front", "Regimes", "Trends", "net_layers", "quantize", "run", "to_onnx"]

Array = npt.NDArray[np.float32]
_CALIBRATION_ROWS: Final = 2048
_QUANTIZED: Final = ("Conv", "Gemm", "Relu")
"""Operators; with ReLU among them a layer's range is that of what passes it, and one operator computes both."""
TINY: Final = 1e-12
"""Added to a mean square, so that a silent window stays finite."""


@dataclass(frozen=True)
class Regimes:
    """Operating conditions, each with its own usual values.

    Args:
        channels: indices of the channels by which a sample's regime is known.
        centers: [regime, condition channel]: a sample belongs to the nearest.
        reach: how far a sample may be from its regime's center; farther ones are unknown.
    """

    channels: tuple[int, ...]
    centers: Array
    reach: float

    def find(self, windows: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The regime of each sample [window, sample], and whether it is known."""
        away = windows[:, :, None, list(self.channels)] - self.centers
        squared = (away * away).sum(axis=3)
        return squared.argmin(axis=2), squared.min(axis=2) <= self.reach**2


@dataclass(frozen=True)
class Trends:
    """Fixed shapes along time, of each channel: what a window's levels and slopes are at several scales.

    Args:
        shapes: [shape, sample].
        mean, scale: [channel * shape]: what is usual of each.
    """

    shapes: Array
    mean: Array
    scale: Array

    def apply(self, x: Array) -> Array:
        """[window, 1, channel * shape], standardised, of ``x`` [window, sample, channel]."""
        found = np.matmul(x.transpose(0, 2, 1), self.shapes.T).reshape(len(x), 1, -1)
        return np.asarray((found - self.mean) / self.scale, dtype=np.float32)


@dataclass(frozen=True)
class Front:
    """What happens to a window before the nets.

    Args:
        mean, scale: [regime, channel]: what is usual in each regime (one row where there are no regimes), of the
            channels that the nets see.
        block: so many samples become their mean.
        limit: values beyond are clipped.
        channels: indices of the channels that the nets see.
        regimes: None: there is one.
        by_window: whether each channel of a window is brought to zero mean and unit root mean square.
        trends: what nets see in place of blocks; ``block`` is 1 then.
        envelopes: what trees see in place of what nets see; ``block`` is 1 then.
    """

    mean: Array
    scale: Array
    block: int
    limit: float
    channels: tuple[int, ...]
    regimes: Regimes | None = None
    by_window: bool = False
    trends: Trends | None = None
    envelopes: Envelopes | None = None

    def rows(self, x: Array) -> Array:
        """What trees see, [window, value], of what nets see."""
        return self.envelopes.apply(x) if self.envelopes is not None else x.reshape(len(x), -1)

    def apply(self, windows: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        """What the nets see, [window, block, channel] or [window, 1, trend], and whether all samples of each window are
        known."""
        seen = windows[:, :, list(self.channels)]
        if self.regimes is None:
            known = np.full(len(windows), True)
            x = (seen - self.mean[0]) / self.scale[0]
        else:
            regime, sure = self.regimes.find(windows)
            known = np.asarray(sure.all(axis=1))
            x = (seen - self.mean[regime]) / self.scale[regime]
        if self.by_window:
            x = x - x.mean(axis=1, keepdims=True)
            x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(TINY))
        if self.trends is not None:
            return np.clip(self.trends.apply(x), -self.limit, self.limit), known
        blocks = x.reshape(len(x), -1, self.block, x.shape[2]).mean(axis=2, dtype=np.float32)
        return np.clip(blocks, -self.limit, self.limit), known


def run(nets: Sequence[ConvNet], front: Front, windows: Array, trees: Trees | None = None, share: float = 0.0) -> Array:
    """The mean output of the nets, float32 [window, output]; NaN where a sample's regime is unknown.

    Args:
        nets: of one form; there may be none where ``share`` is 1.
        front: what comes before them.
        windows: [window, sample, channel].
        trees: see :meth:`Front.rows`.
        share: of the trees in the output.
    """
    x, known = front.apply(windows)
    parts = [(1 - share) * np.mean([net.predict(x) for net in nets], axis=0)] if nets else []
    parts += [share * trees.predict(front.rows(x))] if trees is not None else []
    output: Array = np.sum(parts, axis=0).astype(np.float32)
    output[~known] = np.nan
    return output


def to_onnx(
    nets: Sequence[ConvNet],
    front: Front,
    samples: int,
    channels: int,
    trees: Trees | None = None,
    share: float = 0.0,
) -> bytes:
    """The serialised float model.

    Args:
        nets, front, trees, share: as :func:`run` takes them.
        samples, channels: the form of a window.
    """
    graph = Graph()
    known = _add_front(graph, front)
    outputs = [_add_net(graph, net, f"net{number}") for number, net in enumerate(nets)]
    last = graph.add("Mean", outputs, "mean") if len(outputs) > 1 else "".join(outputs)
    if trees is not None:
        if front.envelopes is not None:
            row = add_envelopes(graph, front.envelopes, "front", len(front.channels), samples)
        else:
            row = graph.add("Flatten", ["front"], "front_row", axis=1)
        graph.constant("share_of_trees", share)
        grown = graph.add("Mul", [add_trees(graph, trees, row, "trees"), "share_of_trees"], "trees_share")
        if nets:
            graph.constant("share_of_nets", 1 - share)
            graph.add("Mul", [last, "share_of_nets"], "nets_share")
            grown = graph.add("Add", ["nets_share", grown], "together")
        last = grown
    if known:
        graph.constant("unknown", np.nan)
        graph.add("Where", [known, last, "unknown"], "output")
    else:
        graph.add("Identity", [last], "output")
    width = len(nets[0].biases[-1]) if nets else trees.outputs if trees is not None else 0
    return graph.model(["n", samples, channels], ["n", width])


def _add_front(graph: Graph, front: Front) -> str:
    """Add what comes before the nets (its result is ``front``); returns the name of what says whether all is known."""
    known, regimes = "", front.regimes
    if regimes is None:
        graph.constant("center", front.mean[0])
        graph.constant("factor", 1 / front.scale[0])
    else:
        graph.constant("condition_channels", regimes.channels, np.int64)
        graph.constant("condition_centers", regimes.centers.reshape(1, 1, *regimes.centers.shape))
        graph.constant("reach", regimes.reach**2)
        graph.constant("axis_regime", [2], np.int64)
        graph.constant("axis_channel", [3], np.int64)
        graph.add("Gather", ["input", "condition_channels"], "condition", axis=2)
        graph.add("Unsqueeze", ["condition", "axis_regime"], "condition_each")
        graph.add("Sub", ["condition_each", "condition_centers"], "away")
        graph.add("Mul", ["away", "away"], "away_squared")
        graph.add("ReduceSum", ["away_squared", "axis_channel"], "distance", keepdims=0)
        graph.add("ArgMin", ["distance"], "regime", axis=2, keepdims=0)
        graph.add("ReduceMin", ["distance"], "nearest", axes=[2], keepdims=0)
        graph.add("ReduceMax", ["nearest"], "farthest", axes=[1], keepdims=1)
        known = graph.add("LessOrEqual", ["farthest", "reach"], "known")
        graph.constant("centers", front.mean)
        graph.constant("factors", 1 / front.scale)
        graph.add("Gather", ["centers", "regime"], "center", axis=0)
        graph.add("Gather", ["factors", "regime"], "factor", axis=0)
    graph.constant("channels", front.channels, np.int64)
    graph.add("Gather", ["input", "channels"], "seen", axis=2)
    graph.add("Sub", ["seen", "center"], "centered")
    graph.add("Mul", ["centered", "factor"], "standardised")
    graph.add("Transpose", [_add_level(graph) if front.by_window else "standardised"], "by_channel", perm=[0, 2, 1])
    blocks = "by_channel"
    if front.trends is not None:
        blocks = _add_trends(graph, front.trends)
    elif front.block > 1:
        graph.add("AveragePool", [blocks], "blocks", kernel_shape=[front.block], strides=[front.block])
        blocks = "blocks"
    graph.constant("low", -front.limit)
    graph.constant("high", front.limit)
    graph.add("Clip", [blocks, "low", "high"], "front")
    return known


def _add_trends(graph: Graph, trends: Trends) -> str:
    """Add the trends of each channel; returns the name of [window, trend, 1]."""
    graph.constant("shapes", np.ascontiguousarray(trends.shapes.T))
    graph.constant("row", [0, -1, 1], np.int64)
    graph.constant("trend_mean", trends.mean[:, None])
    graph.constant("trend_factor", 1 / trends.scale[:, None])
    graph.add("MatMul", ["by_channel", "shapes"], "trend_each")
    graph.add("Reshape", ["trend_each", "row"], "trend_row")
    graph.add("Sub", ["trend_row", "trend_mean"], "trend_centered")
    return graph.add("Mul", ["trend_centered", "trend_factor"], "trends")


def _add_level(graph: Graph) -> str:
    """Add what brings each channel of a window to zero mean and unit root mean square."""
    graph.constant("tiny", TINY)
    graph.add("ReduceMean", ["standardised"], "level", axes=[1], keepdims=1)
    graph.add("Sub", ["standardised", "level"], "around_zero")
    graph.add("Mul", ["around_zero", "around_zero"], "power")
    graph.add("ReduceMean", ["power"], "mean_square", axes=[1], keepdims=1)
    graph.add("Add", ["mean_square", "tiny"], "mean_square_up")
    graph.add("Sqrt", ["mean_square_up"], "size")
    return graph.add("Div", ["around_zero", "size"], "levelled")


def _add_net(graph: Graph, net: ConvNet, name: str) -> str:
    """Add one net; returns the name of its output. Nodes that stay float are called ``…_output``."""
    value, width, length = "front", net.channels, net.samples
    for number, form in enumerate(net.convolutions):
        weight = net.weights[number].reshape(form.kernel, width, form.channels).transpose(2, 1, 0)
        inputs = [
            value,
            graph.constant(f"{name}_w{number}", np.ascontiguousarray(weight)),
            graph.constant(f"{name}_b{number}", net.biases[number]),
        ]
        made = graph.add(
            "Conv", inputs, f"{name}_conv{number}", kernel_shape=[form.kernel], dilations=[form.dilation],
            strides=[form.stride],
        )  # fmt: skip
        value = graph.add("Relu", [made], f"{name}_relu{number}")
        width, length = form.channels, form.length(length)
    dense = net.weights[-2]
    if net.average:
        value = graph.add("GlobalAveragePool", [value], f"{name}_average")
    else:  # numpy flattens [time, channel], ONNX [channel, time]
        dense = dense.reshape(length, width, -1).transpose(1, 0, 2).reshape(dense.shape)
    value = graph.add("Flatten", [value], f"{name}_flat", axis=1)
    hidden = [value, graph.constant(f"{name}_wh", np.ascontiguousarray(dense))]
    graph.add("Gemm", [*hidden, graph.constant(f"{name}_bh", net.biases[-2])], f"{name}_hidden")
    graph.add("Relu", [f"{name}_hidden"], f"{name}_active")
    graph.constant(f"{name}_wo", net.weights[-1])
    graph.constant(f"{name}_bo", net.biases[-1])
    return graph.add("Gemm", [f"{name}_active", f"{name}_wo", f"{name}_bo"], f"{name}_output")


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, windows: Array) -> None:
        self._batches: Iterator[dict[str, Array]] = iter([{"input": windows}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def net_layers(model: bytes) -> list[str]:
    """The names of the layers that :func:`quantize` brings to 8 bits."""
    nodes = onnx.load_from_string(model).graph.node
    return [node.name for node in nodes if node.op_type in ("Conv", "Gemm") and not node.name.endswith("_output")]


def quantize(model: bytes, windows: Array, float_layers: Sequence[str] = ()) -> bytes:
    """Quantize convolutions and hidden layers to int8, weights per channel.

    Args:
        model: from :func:`to_onnx`.
        windows: of training, from which the ranges of the activations are taken; some thousand are used.
        float_layers: names of layers that stay in floating point.
    """
    picked = np.linspace(0, len(windows) - 1, min(len(windows), _CALIBRATION_ROWS)).astype(int)
    layers = {name for name in net_layers(model) if name not in float_layers}
    nodes = onnx.load_from_string(model).graph.node
    after = [node.name for node in nodes if node.op_type == "Relu" and node.input[0] in layers]
    with tempfile.TemporaryDirectory() as folder, warnings_silenced():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantize_static(
            source, target, _Rows(np.ascontiguousarray(windows[picked])), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True,
            op_types_to_quantize=list(_QUANTIZED), nodes_to_quantize=[*sorted(layers), *after],
        )  # fmt: skip
        return target.read_bytes()
