"""Reads from an ONNX file what its inputs and outputs are, and which weights lie outside of it. Pure.

An ONNX file is a Protocol Buffers message ``ModelProto``; the field numbers below are those of ``onnx.proto`` (ONNX IR
version 3 and later), the encoding is that of https://protobuf.dev/programming-guides/encoding/. Only what is asked for
is read, so neither ``onnx`` nor a runtime is needed: the fleet service has neither.

Invariant: every tensor of the file is visited, also those in subgraphs, attributes, functions and training graphs.

What this module does not do: check that the model can be run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor

__all__ = ["external_files", "read_onnx"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH: Final = 64
_EXTERNAL: Final = 1
"""``TensorProto.DataLocation.EXTERNAL``."""
_TYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
"""``TensorProto.DataType``."""
_NO_TENSORS: Final = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse_tensor", 9: "optional"}
"""Members of ``TypeProto.value`` other than ``tensor_type`` (1)."""

_Value = int | memoryview


def read_onnx(content: bytes) -> ModelGraph:
    """Return the inputs and outputs of the main graph. Weights are not among the inputs.

    Raises:
        WireError: ``runtime.load``: the bytes are no ONNX file.
    """
    inputs: list[ModelTensor] = []
    outputs: list[ModelTensor] = []
    weights: set[str] = set()
    for graph in _messages(memoryview(content), 7):
        for number, value in _fields(graph):
            if not isinstance(value, memoryview):
                continue
            if number == 11:
                inputs.append(_tensor(value))
            elif number == 12:
                outputs.append(_tensor(value))
            elif number == 5:
                weights.add(_text(value, 8))
            elif number == 15:
                weights.update(_text(inner, 8) for inner in _messages(value, 1))
    return ModelGraph(tuple(tensor for tensor in inputs if tensor.name not in weights), tuple(outputs))


def external_files(content: bytes) -> tuple[str, ...]:
    """Return the names of the files, as the model gives them, that hold weights outside of the model's file.

    Raises:
        WireError: ``runtime.load``: the bytes are no ONNX file.
    """
    found: list[str] = []
    model = memoryview(content)
    for number, value in _fields(model):
        if not isinstance(value, memoryview):
            continue
        if number == 7:
            _search_graph(value, found, 0)
        elif number == 20:  # training_info: initialization, algorithm
            for graph in (*_messages(value, 1), *_messages(value, 2)):
                _search_graph(graph, found, 0)
        elif number == 25:  # functions: nodes, default attributes
            for node in _messages(value, 7):
                _search_node(node, found, 0)
            for attribute in _messages(value, 11):
                _search_attribute(attribute, found, 0)
    return tuple(dict.fromkeys(found))


def _search_graph(graph: memoryview, found: list[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _malformed("its graphs are nested too deeply")
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _search_node(value, found, depth)
        elif number == 5:
            _search_tensor(value, found)
        elif number == 15:
            _search_sparse(value, found)


def _search_node(node: memoryview, found: list[str], depth: int) -> None:
    for attribute in _messages(node, 5):
        _search_attribute(attribute, found, depth)


def _search_attribute(attribute: memoryview, found: list[str], depth: int) -> None:
    for number, value in _fields(attribute):
        if not isinstance(value, memoryview):
            continue
        if number in (5, 10):
            _search_tensor(value, found)
        elif number in (6, 11):
            _search_graph(value, found, depth + 1)
        elif number in (22, 23):
            _search_sparse(value, found)


def _search_sparse(sparse: memoryview, found: list[str]) -> None:
    for tensor in (*_messages(sparse, 1), *_messages(sparse, 2)):
        _search_tensor(tensor, found)


def _search_tensor(tensor: memoryview, found: list[str]) -> None:
    location, external = "", False
    for number, value in _fields(tensor):
        if number == 14 and value == _EXTERNAL:
            external = True
        elif number == 13 and isinstance(value, memoryview):
            external = True
            if _text(value, 1) == "location":
                location = _text(value, 2)
    if external:
        found.append(location or _text(tensor, 8) or "?")


def _tensor(info: memoryview) -> ModelTensor:
    """Return the input or output that a ``ValueInfoProto`` describes."""
    dtype, shape = "unknown", list[int | None]()
    for kind in _messages(info, 2):
        for number, value in _fields(kind):
            if number in _NO_TENSORS:
                dtype = _NO_TENSORS[number]
            elif number == 1 and isinstance(value, memoryview):
                element = [inner for field, inner in _fields(value) if field == 1 and isinstance(inner, int)]
                dtype = _TYPES.get(element[-1] if element else 0, "unknown")
                shape = [_length(axis) for described in _messages(value, 2) for axis in _messages(described, 1)]
    return ModelTensor(_text(info, 1), dtype, tuple(shape))


def _length(dimension: memoryview) -> int | None:
    """Return the length in a ``TensorShapeProto.Dimension``; None where it is a name or absent."""
    for number, value in _fields(dimension):
        if number == 1 and isinstance(value, int) and value < 1 << 63:
            return value
    return None


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the inner messages in the field ``wanted``."""
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _text(message: memoryview, wanted: int) -> str:
    """Return the text in the field ``wanted``; the last one counts."""
    texts = list(_messages(message, wanted))
    return bytes(texts[-1]).decode(errors="replace") if texts else ""


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """Yield the fields of a message: number, and the integer or the bytes of the value."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        value: _Value
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = int.from_bytes(message[at : at + size], "little"), at + size
        else:
            raise _malformed("it has a field of a kind that ONNX does not use")
        if at > end or not number:
            raise _malformed("it is cut off or damaged")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at ``at`` and where the next field begins."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            break
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise _malformed("it is cut off or damaged")


def _malformed(why: str) -> WireError:
    return WireError("runtime.load", f"the model is not an ONNX file, or {why}; export it again")
