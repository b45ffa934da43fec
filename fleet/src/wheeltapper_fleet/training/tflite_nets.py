"""Writes the nets of the recipes as TFLite, from the numbers of their quantised ONNX model.

    input [1, sample, channel] -> what comes before the nets, in float -> each net, in 8 bits -> their mean -> output

Weights, biases, scales and zero points are read from the ONNX model, so both files hold one quantised net. Dense layers
are written as convolutions of one sample: all runtimes know weights per channel there.

Invariants:
    * The model computes what :func:`convnet_onnx.run` computes, up to quantisation and the rounding of floats.
    * A layer that is float in the ONNX model is float here.

What this module does not do: trees. TFLite has no operator for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from wheeltapper_fleet.training.autoencoder import CLIP
from wheeltapper_fleet.training.convnet import ConvNet
from wheeltapper_fleet.training.convnet_onnx import TINY, Front, Regimes, Trends
from wheeltapper_fleet.training.tflite_graph import Quantisation, TfliteGraph

__all__ = ["autoencoder_to_tflite", "nets_to_tflite"]

_VALID: Final = 1
_RELU: Final = 1
_KEEP: Final = {0: ("Bool", True)}


def nets_to_tflite(nets: Sequence[ConvNet], front: Front, samples: int, channels: int, quantised: bytes) -> bytes:
    """The serialised TFLite model of nets without trees.

    Args:
        nets, front: as :func:`convnet_onnx.to_onnx` took them.
        samples, channels: the form of a window.
        quantised: what :func:`convnet_onnx.quantize` gave for them.
    """
    made = _Layers(quantised)
    graph = made.graph
    given = graph.tensor("input", (1, samples, channels))
    known = _add_front(made, front, given)
    outputs = [_add_net(made, net, f"net{number}") for number, net in enumerate(nets)]
    last = outputs[0]
    for number, each in enumerate(outputs[1:]):
        last = made.elementwise("ADD", last, each, f"sum{number}")
    if len(outputs) > 1:
        last = made.elementwise("MUL", last, made.constant("share", 1 / len(outputs)), "mean")
    if known:
        graph.add(
            "SELECT_V2", [known, last, made.constant("unknown", np.nan)], graph.tensor("output", graph.shape(last))
        )
    else:
        graph.add(
            "RESHAPE", [last, made.numbers("shape", graph.shape(last))], graph.tensor("output", graph.shape(last))
        )
    return graph.model(given, "output")


def autoencoder_to_tflite(quantised: bytes) -> bytes:
    """The serialised TFLite model of the autoencoder of features, from its ONNX model in 8 bits or in float."""
    made = _Layers(quantised)
    count = sum(name.removesuffix("_quantized").removeprefix("weight").isdigit() for name in made.values)
    width = made.weights("weight0").shape[0]
    given = made.graph.tensor("input", (1, width))
    value = made.clipped(given, -CLIP, CLIP, "clipped")
    value = made.reshaped(value, (1, 1, 1, width), "row")
    for number in range(count):
        last = number == count - 1
        value = made.dense(
            value, "clipped" if not number else f"hidden{number - 1}", f"weight{number}", f"bias{number}",
            "output" if last else f"hidden{number}", relu=not last,
        )  # fmt: skip
    value = made.floats(value)
    made.graph.add("RESHAPE", [value, made.numbers("shape", (1, width))], made.graph.tensor("output", (1, width)))
    return made.graph.model(given, "output")


class _Layers:
    """A TFLite graph, and the numbers of the ONNX model that it is written from, by name."""

    def __init__(self, quantised: bytes) -> None:
        self.graph = TfliteGraph()
        found = onnx.load_from_string(quantised).graph.initializer
        self.values: dict[str, npt.NDArray[Any]] = {each.name: numpy_helper.to_array(each) for each in found}
        self._held: dict[str, Quantisation] = {}

    def quantisation(self, name: str) -> Quantisation:
        """That of the activations called ``name`` in the ONNX model."""
        return Quantisation(self.values[f"{name}_scale"], int(self.values[f"{name}_zero_point"]))

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a float32 constant."""
        return self.graph.constant(name, np.asarray(value, dtype=np.float32))

    def numbers(self, name: str, value: npt.ArrayLike) -> str:
        """Add an int32 constant: a shape, axes, indices."""
        return self.graph.constant(name, np.asarray(value, dtype=np.int32))

    def elementwise(self, kind: str, left: str, right: str, name: str) -> str:
        """Add an operator on two floats that are broadcast."""
        shape = np.broadcast_shapes(self.graph.shape(left), self.graph.shape(right))
        return self.graph.add(kind, [left, right], self.graph.tensor(name, shape))

    def reduced(self, kind: str, value: str, axis: int, name: str, keep: bool = True) -> str:
        """Add a reduction of floats along one axis."""
        shape = list(self.graph.shape(value))
        shape[axis : axis + 1] = [1] if keep else []
        inputs = [value, self.numbers(f"{name}_axis", [axis])]
        return self.graph.add(kind, inputs, self.graph.tensor(name, shape), _KEEP if keep else {})

    def reshaped(self, value: str, shape: Sequence[int], name: str) -> str:
        """Add a tensor in another shape; it keeps its numbers."""
        held = self._held.get(value)
        made = self.graph.tensor(name, shape, "int8" if held else "float32", held)
        if held:
            self._held[made] = held
        return self.graph.add("RESHAPE", [value, self.numbers(f"{name}_shape", shape)], made)

    def clipped(self, value: str, low: float, high: float, name: str) -> str:
        """Add floats within ``low`` and ``high``."""
        below = self.elementwise("MINIMUM", value, self.constant(f"{name}_high", high), f"{name}_below")
        return self.elementwise("MAXIMUM", below, self.constant(f"{name}_low", low), name)

    def integers(self, value: str, name: str) -> str:
        """The int8 tensor of a value, with the quantisation of the activations ``name``."""
        wanted, held = self.quantisation(name), self._held.get(value)
        if held is not None and (held.scale, held.zero) == (wanted.scale, wanted.zero):
            return value
        made = f"{value}_as_{name}"
        if made in self._held:  # nets side by side look at the same front
            return made
        self.graph.tensor(made, self.graph.shape(value), "int8", wanted)
        self._held[made] = wanted
        return self.graph.add("QUANTIZE", [value], made)

    def floats(self, value: str) -> str:
        """The float tensor of a value."""
        if value not in self._held:
            return value
        return self.graph.add("DEQUANTIZE", [value], self.graph.tensor(f"{value}_float", self.graph.shape(value)))

    def convolution(
        self, value: str, source: str, weight: str, bias: str, target: str, form: tuple[int, int], relu: bool,
        filters: npt.NDArray[Any],
    ) -> str:  # fmt: skip
        """Add a convolution along time, in 8 bits where the ONNX model's is.

        Args:
            value: [1, 1, sample, channel].
            source, weight, bias, target: names in the ONNX model.
            form: stride and dilation.
            relu: whether a ReLU follows.
            filters: [output, 1, kernel, channel], the weights: integers where the layer is quantised.
        """
        stride, dilation = form
        _, _, length, _ = self.graph.shape(value)
        shape = (1, 1, (length - (filters.shape[2] - 1) * dilation - 1) // stride + 1, len(filters))
        options = {
            0: ("Int8", _VALID), 1: ("Int32", stride), 2: ("Int32", 1), 3: ("Int8", _RELU if relu else 0),
            4: ("Int32", dilation), 5: ("Int32", 1),
        }  # fmt: skip
        if filters.dtype != np.int8:
            inputs = [self.floats(value), self.constant(weight, filters), self.constant(bias, self.values[bias])]
            return self.graph.add("CONV_2D", inputs, self.graph.tensor(f"{target}_real", shape), options)
        value = self.integers(value, source)
        scales = np.atleast_1d(self.values[f"{weight}_scale"])
        held = self._held[value]
        inputs = [
            value,
            self.graph.constant(weight, filters, Quantisation(scales)),
            self.graph.constant(
                bias, self.values[f"{bias}_quantized"].astype(np.int32), Quantisation(held.scale * scales)
            ),
        ]
        given = self.quantisation(target)
        made = self.graph.tensor(f"{target}_int8", shape, "int8", given)
        self._held[made] = given
        return self.graph.add("CONV_2D", inputs, made, options)

    def weights(self, name: str) -> npt.NDArray[Any]:
        """The weights of a layer: int8 where it is quantised, else float32."""
        return self.values.get(f"{name}_quantized", self.values.get(name, np.zeros(0)))

    def dense(
        self, value: str, source: str, weight: str, bias: str, target: str, relu: bool,
        rows: npt.NDArray[Any] | None = None,
    ) -> str:  # fmt: skip
        """Add a dense layer of ``value`` [1, 1, 1, input]; ``rows``: its weights [input, output] in another order."""
        found = self.weights(weight) if rows is None else rows
        filters = np.ascontiguousarray(found.T)[:, None, None, :]
        return self.convolution(value, source, weight, bias, target, (1, 1), relu, filters)


def _add_net(made: _Layers, net: ConvNet, name: str) -> str:
    """Add one net; returns the name of its output [1, output]."""
    value, source, length = "front_row", "front", net.samples
    for number, form in enumerate(net.convolutions):
        filters = np.ascontiguousarray(made.weights(f"{name}_w{number}").transpose(0, 2, 1))[:, None]
        names = f"{name}_w{number}", f"{name}_b{number}", f"{name}_relu{number}"
        value = made.convolution(value, source, *names, (form.stride, form.dilation), True, filters)
        source, length = f"{name}_relu{number}", form.length(length)
    rows = made.weights(f"{name}_wh")
    width = net.convolutions[-1].channels
    if net.average:
        value = made.reduced("MEAN", made.floats(value), 2, f"{name}_average")
    else:  # the ONNX model flattens [channel, time], this one [time, channel]
        rows = rows.reshape(width, length, -1).transpose(1, 0, 2).reshape(rows.shape)
        value = made.reshaped(value, (1, 1, 1, len(rows)), f"{name}_row")
    hidden = made.dense(value, f"{name}_flat", f"{name}_wh", f"{name}_bh", f"{name}_active", True, rows)
    hidden = made.reshaped(made.floats(hidden), (1, rows.shape[1]), f"{name}_hidden_row")
    last = [hidden, made.constant(f"{name}_wo", net.weights[-1].T), made.constant(f"{name}_bo", net.biases[-1])]
    return made.graph.add("FULLY_CONNECTED", last, made.graph.tensor(f"{name}_output", (1, net.weights[-1].shape[1])))


def _add_front(made: _Layers, front: Front, given: str) -> str:
    """Add what comes before the nets (``front_row`` [1, 1, sample, channel]); returns the name of whether all is known,
    or nothing."""
    known, samples = "", made.graph.shape(given)[1]
    if front.regimes is None:
        center, factor = made.constant("center", front.mean[0]), made.constant("factor", 1 / front.scale[0])
    else:
        known, regime = _add_regimes(made, front.regimes, given)
        center, factor = (
            made.graph.add(
                "GATHER",
                [made.constant(f"{name}s", table), regime],
                made.graph.tensor(name, (1, samples, table.shape[1])),
            )
            for name, table in (("center", front.mean), ("factor", 1 / front.scale))
        )
    value = _gathered(made, given, front.channels, "seen")
    value = made.elementwise("SUB", value, center, "centered")
    value = made.elementwise("MUL", value, factor, "standardised")
    if front.by_window:
        value = _add_level(made, value)
    if front.trends is not None:
        value = _add_trends(made, front.trends, value)
    _, length, width = made.graph.shape(value)
    value = made.clipped(value, -front.limit, front.limit, "clipped") if front.block == 1 else value
    value = made.reshaped(value, (1, 1, length, width), "front_row" if front.block == 1 else "sample_row")
    if front.block > 1:
        options = {
            0: ("Int8", _VALID),
            1: ("Int32", front.block),
            2: ("Int32", 1),
            3: ("Int32", front.block),
            4: ("Int32", 1),
        }
        shape = (1, 1, length // front.block, width)
        value = made.graph.add("AVERAGE_POOL_2D", [value], made.graph.tensor("blocks", shape), options)
        made.clipped(value, -front.limit, front.limit, "front_row")
    return known


def _gathered(made: _Layers, value: str, channels: Sequence[int], name: str) -> str:
    """Only some channels of [1, sample, channel]."""
    _, samples, count = made.graph.shape(value)
    if tuple(channels) == tuple(range(count)):
        return value
    inputs = [value, made.numbers(f"{name}_channels", channels)]
    return made.graph.add("GATHER", inputs, made.graph.tensor(name, (1, samples, len(channels))), {0: ("Int32", 2)})


def _add_regimes(made: _Layers, regimes: Regimes, given: str) -> tuple[str, str]:
    """Whether all samples are known [1, 1], and the regime of each [1, sample]."""
    samples, (count, width) = made.graph.shape(given)[1], regimes.centers.shape
    condition = _gathered(made, given, regimes.channels, "condition")
    each = made.reshaped(condition, (1, samples, 1, width), "condition_each")
    centers = made.constant("condition_centers", regimes.centers.reshape(1, 1, count, width))
    away = made.elementwise("SUB", each, centers, "away")
    squared = made.elementwise("MUL", away, away, "away_squared")
    distance = made.reduced("SUM", squared, 3, "distance", keep=False)
    regime = made.graph.tensor("regime", (1, samples), "int32")
    made.graph.add("ARG_MIN", [distance, made.numbers("regime_axis", [2])], regime, {0: ("Int8", 2)})
    nearest = made.reduced("REDUCE_MIN", distance, 2, "nearest", keep=False)
    farthest = made.reduced("REDUCE_MAX", nearest, 1, "farthest")
    known = made.graph.tensor("known", (1, 1), "bool")
    made.graph.add("LESS_EQUAL", [farthest, made.constant("reach", regimes.reach**2)], known)
    return known, regime


def _add_level(made: _Layers, value: str) -> str:
    """Each channel of a window at zero mean and unit root mean square."""
    around = made.elementwise("SUB", value, made.reduced("MEAN", value, 1, "level"), "around_zero")
    power = made.elementwise("MUL", around, around, "power")
    mean = made.elementwise("ADD", made.reduced("MEAN", power, 1, "mean_square"), made.constant("tiny", TINY), "raised")
    size = made.graph.add("SQRT", [mean], made.graph.tensor("size", made.graph.shape(mean)))
    return made.elementwise("DIV", around, size, "levelled")


def _add_trends(made: _Layers, trends: Trends, value: str) -> str:
    """The trends of each channel, [1, 1, trend], of [1, sample, channel]."""
    _, samples, width = made.graph.shape(value)
    turned = made.graph.tensor("by_channel", (1, width, samples))
    made.graph.add("TRANSPOSE", [value, made.numbers("turn", [0, 2, 1])], turned)
    rows = made.reshaped(turned, (width, samples), "channel_rows")
    each = made.graph.tensor("trend_each", (width, len(trends.shapes)))
    zero = made.constant("no_bias", np.zeros(len(trends.shapes)))
    made.graph.add("FULLY_CONNECTED", [rows, made.constant("shapes", trends.shapes), zero], each)
    row = made.reshaped(each, (1, 1, width * len(trends.shapes)), "trend_row")
    centered = made.elementwise("SUB", row, made.constant("trend_mean", trends.mean), "trend_centered")
    return made.elementwise("MUL", centered, made.constant("trend_factor", 1 / trends.scale), "trends")
