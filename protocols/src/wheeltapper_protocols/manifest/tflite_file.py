"""Reads from a TFLite file what the inputs and outputs of each of its signatures are. Pure.

A TFLite file is a FlatBuffers table ``Model``; the field numbers below are those of TensorFlow Lite's ``schema.fbs``
(version 3), the layout is that of https://flatbuffers.dev/internals/. Neither a runtime nor ``flatbuffers`` is needed:
the fleet service has neither.

What this module does not do: check that the model can be run.
"""

from __future__ import annotations

import struct
from typing import Final

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor

__all__ = ["MAIN", "has_external_buffers", "read_tflite"]

MAIN: Final = ""
"""The key of the main subgraph in the answer of :func:`read_tflite`, for a file without signatures."""
_IDENTIFIER: Final = b"TFL3"
_MAX_ENTRIES: Final = 1_000_000
_TYPES: Final = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4",
)  # fmt: skip
"""``TensorType``, in the order of its numbers."""


def read_tflite(content: bytes) -> dict[str, ModelGraph]:
    """Return the inputs and outputs of each signature by its key; of the main subgraph (:data:`MAIN`) without any.

    Raises:
        WireError: ``runtime.load``: the bytes are no TFLite file.
    """
    try:
        model = _root(content)
        subgraphs = model.tables(2)
        signatures = {entry.text(2): _signature(entry, subgraphs) for entry in model.tables(7)}
        return signatures or {MAIN: _main(subgraphs[0])}
    except (struct.error, IndexError) as error:
        raise _malformed() from error


def has_external_buffers(content: bytes) -> bool:
    """Return whether the model has weights in other files (``Model.external_buffers``).

    Raises:
        WireError: ``runtime.load``: the bytes are no TFLite file.
    """
    try:
        model = _root(content)
        return bool(model.tables(8) or model.tables(9))
    except (struct.error, IndexError) as error:
        raise _malformed() from error


class _Table:
    """A FlatBuffers table at the position ``at`` of ``content``."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at
        self._vtable = at - self._read("<i", at)
        self._vtable_bytes = self._read("<H", self._vtable)

    def _read(self, form: str, at: int) -> int:
        if at < 0:
            raise IndexError(at)
        return int(struct.unpack_from(form, self._content, at)[0])

    def _field(self, number: int) -> int:
        """Return the position of a field; 0 where it is absent."""
        entry = 4 + 2 * number
        if entry + 2 > self._vtable_bytes:
            return 0
        offset = self._read("<H", self._vtable + entry)
        return self._at + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        """Return an integer field, 0 where it is absent."""
        at = self._field(number)
        return self._read(form, at) if at else 0

    def _target(self, number: int) -> int:
        at = self._field(number)
        return at + self._read("<I", at) if at else 0

    def table(self, number: int) -> _Table | None:
        """Return the table in a field."""
        at = self._target(number)
        return _Table(self._content, at) if at else None

    def _vector(self, number: int) -> tuple[int, int]:
        """Return the position of a vector's first entry and the number of its entries."""
        at = self._target(number)
        count = self._read("<I", at) if at else 0
        if count > _MAX_ENTRIES:
            raise IndexError(count)
        return at + 4, count

    def tables(self, number: int) -> list[_Table]:
        """Return the tables in a vector field."""
        at, count = self._vector(number)
        places = range(at, at + 4 * count, 4)
        return [_Table(self._content, place + self._read("<I", place)) for place in places]

    def numbers(self, number: int, form: str) -> tuple[float, ...]:
        """Return the numbers in a vector field."""
        at, count = self._vector(number)
        return struct.unpack_from(f"<{count}{form}", self._content, at) if count else ()

    def text(self, number: int) -> str:
        """Return the text in a field."""
        at, count = self._vector(number)
        return self._content[at : at + count].decode(errors="replace") if count else ""


def _root(content: bytes) -> _Table:
    if content[4:8] != _IDENTIFIER:
        raise _malformed()
    return _Table(content, struct.unpack_from("<I", content)[0])


def _main(subgraph: _Table) -> ModelGraph:
    tensors = subgraph.tables(0)
    inputs, outputs = (
        tuple(_tensor(tensors, int(index), "") for index in subgraph.numbers(field, "i")) for field in (1, 2)
    )
    return ModelGraph(inputs, outputs)


def _signature(signature: _Table, subgraphs: list[_Table]) -> ModelGraph:
    subgraph = signature.number(4, "<I")
    tensors = subgraphs[subgraph].tables(0)
    inputs, outputs = (
        tuple(_tensor(tensors, entry.number(1, "<I"), entry.text(0)) for entry in signature.tables(field))
        for field in (0, 1)
    )
    return ModelGraph(inputs, outputs, signature.text(2), subgraph)


def _tensor(tensors: list[_Table], index: int, alias: str) -> ModelTensor:
    tensor = tensors[index]
    kind = tensor.number(1, "<b")
    fixed = tensor.numbers(0, "i")
    signature = tensor.numbers(7, "i")
    shape = tuple(None if length < 0 else int(length) for length in (signature or fixed))
    scale, zero_point = 0.0, 0
    quantization = tensor.table(4)
    if quantization is not None:
        scales, zero_points = quantization.numbers(2, "f"), quantization.numbers(3, "q")
        scale = float(scales[0]) if len(scales) == 1 else 0.0
        zero_point = int(zero_points[0]) if len(zero_points) == 1 else 0
    dtype = _TYPES[kind] if 0 <= kind < len(_TYPES) else "unknown"
    return ModelTensor(tensor.text(3), dtype, shape, scale, zero_point, index, alias)


def _malformed() -> WireError:
    return WireError("runtime.load", "the model is not a TFLite file, or it is cut off or damaged; export it again")
