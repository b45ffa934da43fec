"""Builds an ONNX model node by node; each node has the name of what it gives.

Example:
    >>> graph = Graph()
    >>> graph.constant("two", 2.0)
    >>> graph.add("Mul", ["input", "two"], "output")
    >>> content = graph.model(["n", 3], ["n", 3])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Graph"]

_OPSET: Final = 17
_TREES: Final = ("ai.onnx.ml", 3)
"""The operators of tree ensembles, and their version."""


class Graph:
    """Collects nodes and constants; the model has one input ``input`` and one output ``output``, both float32."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: npt.ArrayLike, dtype: Any = np.float32) -> str:
        """Add a constant; returns its name."""
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def model(self, taken: Sequence[int | str], given: Sequence[int | str]) -> bytes:
        """The serialised, checked model; ``taken`` and ``given`` are the shapes of its input and output."""
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(taken))]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(given))]
        made = helper.make_graph(self._nodes, "wheeltapper", inputs, outputs, self._constants)
        operators = [helper.make_opsetid("", _OPSET)]
        if any(node.domain == _TREES[0] for node in self._nodes):
            operators.append(helper.make_opsetid(*_TREES))
        model = helper.make_model(made, opset_imports=operators, producer_name="wheeltapper")
        model.ir_version = 8
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
