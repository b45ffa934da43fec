"""ONNX models for the tests of the runtimes. Import this only where ``onnx`` is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT8, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64, TensorProto.BOOL


def value(name: str, shape: Sequence[int | str | None], kind: int = FLOAT) -> Any:
    """The description of a model's input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def net(nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> bytes:
    """An ONNX model of opset 17."""
    initial = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, initial)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def int8_net(width: int, batch: int | None = None) -> bytes:
    """A model with int8 input (scale 0.5, zero point 3) and output (scale 0.25, zero point -5): output = 2 * input."""
    nodes = [
        helper.make_node("DequantizeLinear", ["samples", "s_in", "z_in"], ["real"]),
        helper.make_node("Mul", ["real", "two"], ["doubled"]),
        helper.make_node("QuantizeLinear", ["doubled", "s_out", "z_out"], ["result"]),
    ]
    inputs, outputs = [value("samples", [batch, width], INT8)], [value("result", [batch, width], INT8)]
    f32, i8 = np.float32, np.int8
    return net(nodes, inputs, outputs, s_in=f32(0.5), z_in=i8(3), two=f32(2), s_out=f32(0.25), z_out=i8(-5))


def sum_net(width: int) -> bytes:
    """Two inputs, two outputs: total = left + right, twice = total + total."""
    nodes = [
        helper.make_node("Add", ["left", "right"], ["total"]),
        helper.make_node("Add", ["total", "total"], ["twice"]),
    ]
    names = ("left", "right", "total", "twice")
    left, right, total, twice = (value(name, [None, width]) for name in names)
    return net(nodes, [left, right], [total, twice])


def fixed_net(width: int, batch: int) -> bytes:
    """output = 2 * input, for ``batch`` windows at once."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return net(nodes, [value("x", [batch, width])], [value("y", [batch, width])])


def unknown_net() -> bytes:
    """A model with an operator that no runtime knows."""
    nodes = [helper.make_node("Wheeltap", ["input"], ["output"], domain="org.nowhere")]
    graph = helper.make_graph(nodes, "net", [value("input", [None, None])], [value("output", [None, None])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.nowhere", 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content


def endless_net() -> bytes:
    """output = input after 10^12 rounds of a loop."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["carried", "one"], ["carried_on"]),
        ],
        "body",
        [value("round", [], INT64), value("go", [], BOOL), value("carried", [])],
        [value("go_on", [], BOOL), value("carried_on", [])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    nodes = [
        helper.make_node("Loop", ["rounds", "yes", "zero"], ["counted"], body=body),
        helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
        helper.make_node("Add", ["input", "nothing"], ["output"]),
    ]
    ends = [value("input", [None, None])], [value("output", [None, None])]
    return net(nodes, *ends, rounds=np.int64(10**12), yes=np.bool_(True), zero=np.float32(0))


def greedy_net(gigabytes: int) -> bytes:
    """A model that needs ``gigabytes`` GB: output = input + the minimum of that many ones - 1.

    The size depends on that of the input, so that the runtime does not compute it while loading.
    """
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Mul", ["shape", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "length"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["big"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("ReduceMin", ["big"], ["least"], keepdims=0),
        helper.make_node("Sub", ["least", "one"], ["nothing"]),
        helper.make_node("Add", ["input", "nothing"], ["output"]),
    ]
    ends = [value("input", [None, None])], [value("output", [None, None])]
    length = np.array([gigabytes * 2**14, 2**14], dtype=np.int64)
    return net(nodes, *ends, none=np.int64(0), length=length, one=np.float32(1))


def load_tensor(content: bytes) -> Any:
    """The array in a ``TensorProto``."""
    return numpy_helper.to_array(onnx.load_tensor_from_string(content))
