"""Writes small TFLite files, table by table, so that tests need neither training nor a converter.

Field numbers, enums and the file identifier are those of TensorFlow Lite's ``schema.fbs`` (version 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import flatbuffers
import numpy as np
from numpy.typing import NDArray

FULLY_CONNECTED: Final = 9
ADD: Final = 0
CUSTOM: Final = 32
IF: Final = 118
VAR_HANDLE: Final = 142
READ_VARIABLE: Final = 143
ASSIGN_VARIABLE: Final = 144
RESOURCE: Final = 13
_TYPES: Final = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}
_OPTIONS: Final = {ADD: 11, FULLY_CONNECTED: 8, IF: 92, VAR_HANDLE: 111, READ_VARIABLE: 112, ASSIGN_VARIABLE: 113}
"""The member of the union BuiltinOptions that belongs to each operator."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: constant where it has ``data``; quantised where it has a ``scale``."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: NDArray[Any] | None = None
    scale: float = 0.0
    zero_point: int = 0
    signature: tuple[int, ...] = ()
    """The shape with -1 for dimensions that may change; None: none may."""
    type_number: int | None = None


@dataclass(frozen=True)
class Operator:
    """An operator; its tensors are indices into the list of the net."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: str = ""


@dataclass(frozen=True)
class Net:
    """One subgraph: its tensors, operators, inputs and outputs."""

    tensors: Sequence[TensorEntry]
    operators: Sequence[Operator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = field(default="main")


class _Writer:
    """A FlatBuffers builder with the vectors and tables of the schema. Children are written before their parents."""

    def __init__(self) -> None:
        self.builder: Any = flatbuffers.Builder(1024)

    def table(self, slots: dict[int, tuple[str, Any]]) -> int:
        """Write a table with the fields ``slots``: {field number: (kind, value)}."""
        self.builder.StartObject(max(slots, default=-1) + 1)
        for number, (kind, value) in slots.items():
            if kind == "offset":
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
            else:
                getattr(self.builder, f"Prepend{kind}Slot")(number, value, 0)
        return int(self.builder.EndObject())

    def offsets(self, entries: Sequence[int]) -> tuple[str, int]:
        self.builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            self.builder.PrependUOffsetTRelative(entry)
        return "offset", self.builder.EndVector()

    def numbers(self, values: Any, dtype: str) -> tuple[str, int]:
        return "offset", self.builder.CreateNumpyVector(np.asarray(values, dtype=dtype))

    def data(self, content: bytes) -> tuple[str, int]:
        """Write bytes at an address that is a multiple of 16."""
        self.builder.StartVector(1, len(content), 16)
        self.builder.head -= len(content)
        self.builder.Bytes[self.builder.head : self.builder.head + len(content)] = content
        return "offset", self.builder.EndVector()

    def text(self, value: str) -> tuple[str, int]:
        return "offset", self.builder.CreateString(value)

    def tensor(self, entry: TensorEntry, buffer: int) -> int:
        number = _TYPES[entry.dtype] if entry.type_number is None else entry.type_number
        slots = {
            0: self.numbers(entry.shape, "int32"),
            1: ("Int8", number),
            2: ("Uint32", buffer),
            3: self.text(entry.name),
        }
        if entry.scale:
            scale, zero = self.numbers([entry.scale], "float32"), self.numbers([entry.zero_point], "int64")
            slots[4] = ("offset", self.table({2: scale, 3: zero}))
        if entry.signature:
            slots[7] = self.numbers(entry.signature, "int32")
        return self.table(slots)

    def operator(self, entry: Operator, opcode: int) -> int:
        slots: dict[int, tuple[str, Any]] = {0: ("Uint32", opcode)}
        if entry.code in _OPTIONS:
            options = {0: self.text("container"), 1: self.text("state")} if entry.code == VAR_HANDLE else {}
            slots[4] = ("offset", self.table(options))
            slots[3] = ("Uint8", _OPTIONS[entry.code])
        slots[1] = self.numbers(entry.inputs, "int32")
        slots[2] = self.numbers(entry.outputs, "int32")
        return self.table(slots)

    def code(self, entry: Operator) -> int:
        slots: dict[int, tuple[str, Any]] = {
            0: ("Int8", min(entry.code, 127)),
            2: ("Int32", 1),
            3: ("Int32", entry.code),
        }
        if entry.custom:
            slots[1] = self.text(entry.custom)
        return self.table(slots)

    def signature(self, entry: Signature) -> int:
        maps = [
            self.offsets([self.table({0: self.text(name), 1: ("Uint32", index)}) for name, index in names.items()])
            for names in (entry.inputs, entry.outputs)
        ]
        return self.table({0: maps[0], 1: maps[1], 2: self.text(entry.key), 4: ("Uint32", entry.subgraph)})


@dataclass(frozen=True)
class Signature:
    """A signature of a file: its key, its subgraph, and its names for tensors (by their indices)."""

    key: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


def write(*nets: Net, signatures: Sequence[Signature] = ()) -> bytes:
    """The bytes of a TFLite file; each net is a subgraph. Every tensor with data has a buffer; buffer 0 is empty."""
    writer = _Writer()
    contents = [b""]
    graphs = []
    all_operators = [entry for net in nets for entry in net.operators]
    for net in nets:
        tensors = []
        for entry in net.tensors:
            number = 0
            if entry.data is not None:
                number = len(contents)
                contents.append(np.ascontiguousarray(entry.data).tobytes())
            tensors.append(writer.tensor(entry, number))
        operators = [writer.operator(entry, all_operators.index(entry)) for entry in net.operators]
        graphs.append(
            writer.table(
                {
                    0: writer.offsets(tensors),
                    1: writer.numbers(net.inputs, "int32"),
                    2: writer.numbers(net.outputs, "int32"),
                    3: writer.offsets(operators),
                    4: writer.text(net.name),
                }
            )
        )
    buffers = [writer.table({0: writer.data(content)} if content else {}) for content in contents]
    codes = [writer.code(entry) for entry in all_operators]
    slots: dict[int, tuple[str, Any]] = {
        0: ("Uint32", 3),
        1: writer.offsets(codes),
        2: writer.offsets(graphs),
        4: writer.offsets(buffers),
    }
    if signatures:
        slots[7] = writer.offsets([writer.signature(entry) for entry in signatures])
    model = writer.table(slots)
    writer.builder.Finish(model, file_identifier=b"TFL3")
    return bytes(writer.builder.Output())


def gain_net(width: int, gain: float = 0.5, dtype: str = "float32", limit: float = 16.0) -> bytes:
    """output [1, width] = gain * input [1, width], as a fully connected layer.

    Args:
        width: number of features.
        gain: the weight of each feature in its own output.
        dtype: float32, or int8: then input and output are quantised over ±``limit``.
    """
    quantised = dtype != "float32"
    scale = limit / 127.0 if quantised else 0.0
    if quantised:
        weights = TensorEntry("weights", (width, width), "int8", np.eye(width, dtype="int8") * 127, scale=gain / 127.0)
    else:
        weights = TensorEntry("weights", (width, width), data=np.eye(width, dtype="float32") * np.float32(gain))
    signature = (-1, width)
    return write(
        Net(
            [
                TensorEntry("serving_input", (1, width), dtype, scale=scale, signature=signature),
                weights,
                TensorEntry("serving_output", (1, width), dtype, scale=scale, signature=signature),
            ],
            [Operator(FULLY_CONNECTED, (0, 1, -1), (2,))],
            inputs=(0,),
            outputs=(2,),
        )
    )


def two_signatures(width: int, apart: bool = True) -> bytes:
    """``label`` = 0.1 * input, and ``score`` = input + input with the output ``other`` = 0.1 * input before it.

    ``apart``: each signature has a subgraph of its own; otherwise both are in the main one.
    """
    weights = np.eye(width, dtype="float32") * np.float32(0.1)
    tenth = [
        TensorEntry("a_in", (1, width)),
        TensorEntry("w", (width, width), data=weights),
        TensorEntry("a_out", (1, width)),
    ]
    small = Operator(FULLY_CONNECTED, (0, 1, -1), (2,))
    both = [*tenth, TensorEntry("b_out", (1, width))]
    double = Net(both, [small, Operator(ADD, (0, 0), (3,))], inputs=(0,), outputs=(2, 3), name="double")
    label = Signature("label", 0, {"x": 0}, {"y": 2})
    if not apart:
        return write(double, signatures=[label, Signature("score", 0, {"x": 0}, {"other": 2, "twice": 3})])
    first = Net(tenth, [small], inputs=(0,), outputs=(2,))
    return write(first, double, signatures=[label, Signature("score", 1, {"x": 0}, {"other": 2, "twice": 3})])


def sum_net(width: int) -> bytes:
    """Two inputs, two outputs: ``total`` = left + right, ``twice`` = total + total."""
    names = ("left", "right", "total", "twice")
    tensors = [TensorEntry(name, (1, width)) for name in names]
    operators = [Operator(ADD, (0, 1), (2,)), Operator(ADD, (2, 2), (3,))]
    return write(Net(tensors, operators, inputs=(0, 1), outputs=(2, 3)))


def counting_net(width: int) -> bytes:
    """A net that adds all its inputs so far in a resource variable, and returns the sum."""
    tensors = [
        TensorEntry("input", (1, width)),
        TensorEntry("handle", (1,), type_number=RESOURCE),
        TensorEntry("before", (1, width)),
        TensorEntry("output", (1, width)),
    ]
    operators = [
        Operator(VAR_HANDLE, (), (1,)),
        Operator(READ_VARIABLE, (1,), (2,)),
        Operator(ADD, (0, 2), (3,)),
        Operator(ASSIGN_VARIABLE, (1, 3), ()),
    ]
    return write(Net(tensors, operators, inputs=(0,), outputs=(3,)))


def custom_net(width: int) -> bytes:
    """A net with an operator that no runtime knows."""
    tensors = [TensorEntry("input", (1, width)), TensorEntry("output", (1, width))]
    return write(Net(tensors, [Operator(CUSTOM, (0,), (1,), custom="Wheeltap")], inputs=(0,), outputs=(1,)))


def bottomless_net(width: int) -> bytes:
    """A net with a branch that calls itself: well-formed, but loading it overflows the stack of the process."""
    tensors = [
        TensorEntry("input", (1, width)),
        TensorEntry("output", (1, width)),
        TensorEntry("always", (1,), "bool", np.array([True])),
    ]
    return write(Net(tensors, [Operator(IF, (2, 0), (1,))], inputs=(0,), outputs=(1,)))
