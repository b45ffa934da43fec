"""Builds a TFLite model tensor by tensor and operator by operator, for one window a call.

Field numbers, operators and the file identifier are those of TensorFlow Lite's ``schema.fbs`` (version 3); the form of
quantised tensors is that of its 8-bit quantisation specification: activations per tensor with a zero point, weights
symmetric and per channel.

Example:
    >>> graph = TfliteGraph()
    >>> given = graph.tensor("input", (1, 3))
    >>> one = graph.constant("one", np.ones((1, 3), np.float32))
    >>> graph.add("ADD", [given, one], graph.tensor("output", (1, 3)))
    >>> content = graph.model(given, "output")

Invariant: the same calls give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt

__all__ = ["Quantisation", "TfliteGraph"]

_IDENTIFIER: Final = b"TFL3"
_VERSION: Final = 3
_TYPES: Final = {"float32": 0, "int32": 2, "int64": 4, "bool": 6, "int8": 9}
_KERNELS: Final[dict[str, tuple[int, int, int]]] = {
    "ADD": (0, 1, 11),
    "AVERAGE_POOL_2D": (1, 1, 5),
    "CONV_2D": (3, 3, 1),
    "FULLY_CONNECTED": (9, 1, 8),
    "MUL": (18, 1, 21),
    "RESHAPE": (22, 1, 17),
    "GATHER": (36, 1, 23),
    "TRANSPOSE": (39, 1, 26),
    "MEAN": (40, 1, 27),
    "SUB": (41, 1, 28),
    "DIV": (42, 1, 29),
    "MAXIMUM": (55, 1, 39),
    "ARG_MIN": (79, 1, 57),
    "MINIMUM": (57, 1, 39),
    "LESS_EQUAL": (63, 1, 46),
    "DEQUANTIZE": (6, 2, 38),
    "SUM": (74, 1, 27),
    "SQRT": (75, 1, 0),
    "REDUCE_MAX": (82, 1, 27),
    "REDUCE_MIN": (89, 1, 27),
    "QUANTIZE": (114, 1, 89),
    "SELECT_V2": (123, 1, 98),
}
"""Of each operator: its number, the version of its kernel, and its member of the union ``BuiltinOptions``."""


@dataclass(frozen=True)
class Quantisation:
    """How the integers of a tensor stand for real values: ``(value - zero) * scale``.

    Args:
        scale: one for the tensor, or one for each channel.
        zero: 0 where there is one scale for each channel.
        axis: of the channels.
    """

    scale: npt.NDArray[np.float32]
    zero: int = 0
    axis: int = 0


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    quantisation: Quantisation | None


class TfliteGraph:
    """Collects tensors and operators; tensors are known by their names."""

    def __init__(self) -> None:
        self._tensors: dict[str, _Tensor] = {}
        self._buffers: list[bytes] = [b""]
        self._operators: list[tuple[str, list[str], str, dict[int, tuple[str, Any]]]] = []

    def tensor(
        self, name: str, shape: Sequence[int], dtype: str = "float32", quantisation: Quantisation | None = None
    ) -> str:
        """Add a tensor that an operator gives, or the input; returns its name."""
        return self._add(_Tensor(name, tuple(shape), dtype, 0, quantisation))

    def constant(self, name: str, value: npt.NDArray[Any], quantisation: Quantisation | None = None) -> str:
        """Add a constant, of the array's type; returns its name."""
        self._buffers.append(np.ascontiguousarray(value).tobytes())
        number = len(self._buffers) - 1
        return self._add(_Tensor(name, value.shape, value.dtype.name, number, quantisation))

    def _add(self, tensor: _Tensor) -> str:
        if tensor.name in self._tensors:
            raise ValueError(f"there are two tensors {tensor.name!r}")
        self._tensors[tensor.name] = tensor
        return tensor.name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def add(
        self, kind: str, inputs: Sequence[str], output: str, options: dict[int, tuple[str, Any]] | None = None
    ) -> str:
        """Add an operator; returns the name of its output.

        Args:
            kind: its name in the schema.
            inputs, output: tensors.
            options: fields of the operator's options table, each with its kind (``Int8``, ``Bool``, …) and value.
        """
        self._operators.append((kind, list(inputs), output, options or {}))
        return output

    def model(self, given: str, output: str) -> bytes:
        """The bytes of the model with one input and one output."""
        return _Writer(list(self._tensors.values()), self._buffers, self._operators).write(given, output)


class _Writer:
    """A FlatBuffers builder; children are written before their parents."""

    def __init__(
        self,
        tensors: list[_Tensor],
        buffers: list[bytes],
        operators: list[tuple[str, list[str], str, dict[int, tuple[str, Any]]]],
    ) -> None:
        self._builder: Any = flatbuffers.Builder(1024)
        self._tensors, self._buffers, self._operators = tensors, buffers, operators
        self._index = {tensor.name: number for number, tensor in enumerate(tensors)}
        self._kinds = list(dict.fromkeys(kind for kind, _, _, _ in operators))

    def write(self, given: str, output: str) -> bytes:
        """The bytes of the file."""
        tensors = [self._tensor(each) for each in self._tensors]
        operators = [self._operator(*each) for each in self._operators]
        graph = self._table(
            {
                0: self._offsets(tensors),
                1: self._numbers([self._index[given]], "int32"),
                2: self._numbers([self._index[output]], "int32"),
                3: self._offsets(operators),
                4: self._text("main"),
            }
        )
        buffers = [self._table({0: self._data(each)} if each else {}) for each in self._buffers]
        codes = [self._code(kind) for kind in self._kinds]
        slots = {
            0: ("Uint32", _VERSION),
            1: self._offsets(codes),
            2: self._offsets([graph]),
            3: self._text("wheeltapper"),
            4: self._offsets(buffers),
        }
        self._builder.Finish(self._table(slots), file_identifier=_IDENTIFIER)
        return bytes(self._builder.Output())

    def _table(self, slots: dict[int, tuple[str, Any]]) -> int:
        """Write a table with the fields ``slots``: {field number: (kind, value)}."""
        self._builder.StartObject(max(slots, default=-1) + 1)
        for number, (kind, value) in slots.items():
            if kind == "offset":
                self._builder.PrependUOffsetTRelativeSlot(number, value, 0)
            else:
                getattr(self._builder, f"Prepend{kind}Slot")(number, value, 0)
        return int(self._builder.EndObject())

    def _offsets(self, entries: Sequence[int]) -> tuple[str, int]:
        self._builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            self._builder.PrependUOffsetTRelative(entry)
        return "offset", self._builder.EndVector()

    def _numbers(self, values: npt.ArrayLike, dtype: str) -> tuple[str, int]:
        return "offset", self._builder.CreateNumpyVector(np.asarray(values, dtype=dtype))

    def _data(self, content: bytes) -> tuple[str, int]:
        """Write bytes at an address that is a multiple of 16."""
        self._builder.StartVector(1, len(content), 16)
        self._builder.head -= len(content)
        self._builder.Bytes[self._builder.head : self._builder.head + len(content)] = content
        return "offset", self._builder.EndVector()

    def _text(self, value: str) -> tuple[str, int]:
        return "offset", self._builder.CreateString(value)

    def _tensor(self, tensor: _Tensor) -> int:
        slots: dict[int, tuple[str, Any]] = {
            0: self._numbers(tensor.shape, "int32"),
            1: ("Int8", _TYPES[tensor.dtype]),
            2: ("Uint32", tensor.buffer),
            3: self._text(tensor.name),
        }
        if (found := tensor.quantisation) is not None:
            scales = np.atleast_1d(found.scale)
            scale, zero = self._numbers(scales, "float32"), self._numbers([found.zero] * len(scales), "int64")
            slots[4] = ("offset", self._table({2: scale, 3: zero, 6: ("Int32", found.axis)}))
        return self._table(slots)

    def _operator(self, kind: str, inputs: list[str], output: str, options: dict[int, tuple[str, Any]]) -> int:
        _, _, union = _KERNELS[kind]
        vectors = {
            field: self._numbers(value, "int32") if slot == "numbers" else (slot, value)
            for field, (slot, value) in options.items()
        }
        slots: dict[int, tuple[str, Any]] = {0: ("Uint32", self._kinds.index(kind))}
        if union:
            slots[4] = ("offset", self._table(vectors))
            slots[3] = ("Uint8", union)
        slots[1] = self._numbers([self._index[name] for name in inputs], "int32")
        slots[2] = self._numbers([self._index[output]], "int32")
        return self._table(slots)

    def _code(self, kind: str) -> int:
        number, version, _ = _KERNELS[kind]
        return self._table({0: ("Int8", min(number, 127)), 2: ("Int32", version), 3: ("Int32", number)})
