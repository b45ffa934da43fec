"""What a network reads and writes: named tensors, their quantisation, and how windows are fitted to them.

A quantised tensor q stands for ``(q - zero_point) * scale``: TensorFlow Lite's 8-bit quantisation specification and
ONNX's operator ``QuantizeLinear`` (which rounds halves to even, as numpy does).

Invariants:
    * What a quantised tensor cannot hold saturates; it never wraps.
    * A window with a value that is not a number never becomes a plausible one: see :func:`not_a_number`.

What this module does not do: run networks (:mod:`adapters.runtimes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.manifest.manifest import TensorSpec

__all__ = ["Tensor", "decode", "encode", "fitted", "not_a_number", "with_specs"]

_QUANTISED: Final = ("int8", "uint8", "int16", "uint16")
_FLOATS: Final = ("float32", "float16", "float64")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a network."""

    name: str
    shape: tuple[int | None, ...]
    """None: any."""
    dtype: str
    """Numpy's name."""
    scale: float = 0.0
    """0: not quantised, or not known to be."""
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether its values mean themselves and have fractions."""
        return self.dtype in _FLOATS


def with_specs(tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """``tensors``, quantised as ``specs`` says where their file does not.

    Raises:
        AgentError: ``runtime.tensors``: a spec is for a tensor that is not of 8 or 16 bits, or says something else than
        the file.
    """
    by_name = {spec.name: spec for spec in specs}
    made = []
    for tensor in tensors:
        spec = by_name.get(tensor.name)
        if spec is None:
            made.append(tensor)
            continue
        if tensor.dtype not in _QUANTISED:
            raise AgentError(
                "runtime.tensors", f"{tensor.name} is {tensor.dtype}; leave it out of the manifest's tensors"
            )
        limits = np.iinfo(tensor.dtype)
        if not limits.min <= spec.zero_point <= limits.max:
            text = f"{tensor.name} is {tensor.dtype} and cannot have the zero point {spec.zero_point}"
            raise AgentError("runtime.tensors", text)
        if tensor.scale and not (np.isclose(tensor.scale, spec.scale) and tensor.zero_point == spec.zero_point):
            raise AgentError("runtime.tensors", f"{tensor.name}: the manifest and the network's file disagree")
        made.append(replace(tensor, scale=spec.scale, zero_point=spec.zero_point))
    return tuple(made)


def fitted(tensor: Tensor, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in the shape of ``tensor``; dimensions of 1 may be more or fewer, so [n, 640] fits [1, 640, 1].

    Raises:
        AgentError: ``runtime.shape``.
    """
    if len(values.shape) == len(tensor.shape) and all(
        wanted is None or wanted == given for wanted, given in zip(tensor.shape, values.shape, strict=True)
    ):
        return values
    shape = tuple(tensor.shape)
    if shape and shape[0] is None and len(values.shape):
        shape = (values.shape[0], *shape[1:])  # the window is the first axis on both sides
    if None not in shape:
        wanted = tuple(length for length in shape if length is not None)
        # Of an axis that may have any length both sides are the same already; what is left are axes of 1.
        kept = slice(1, None) if tensor.shape[0] is None else slice(None)
        if [length for length in wanted[kept] if length != 1] == [
            length for length in values.shape[kept] if length != 1
        ]:
            return values.reshape(wanted)
    text = ", ".join("any" if length is None else str(length) for length in tensor.shape)
    raise AgentError("runtime.shape", f"{tensor.name} takes [{text}], not {list(values.shape)}")


def encode(tensor: Tensor, values: NDArray[np.float32]) -> NDArray[Any]:
    """Real values as ``tensor`` takes them; float32 for float32 is not copied. NaN becomes the zero point.

    Raises:
        AgentError: ``runtime.tensors``: how its integers stand for real values is not known.
    """
    if tensor.is_float:
        return np.asarray(values, dtype=tensor.dtype)
    if tensor.dtype in _QUANTISED:
        _require_scale(tensor)
        limits = np.iinfo(tensor.dtype)
        scaled = np.rint(np.divide(values, tensor.scale, dtype=np.float64))
        shifted = np.nan_to_num(scaled + tensor.zero_point, nan=tensor.zero_point)
        held: NDArray[Any] = np.clip(shifted, limits.min, limits.max).astype(tensor.dtype)
        return held
    whole = np.nan_to_num(np.asarray(values, dtype=np.float64))
    if tensor.dtype == "bool":
        return whole.astype(np.bool_)
    bounds = np.iinfo(tensor.dtype)
    high = float(bounds.max)
    if int(high) > bounds.max:  # float64 cannot hold the greatest 64-bit integer, and the cast of the next one wraps
        high = float(np.nextafter(high, 0.0))
    return np.clip(whole, float(bounds.min), high).astype(tensor.dtype)


def decode(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float32]:
    """What ``values`` of ``tensor`` stand for.

    Raises:
        AgentError: ``runtime.tensors``, as :func:`encode`.
    """
    if tensor.dtype in _QUANTISED:
        _require_scale(tensor)
        return (np.asarray(values, dtype=np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    return np.asarray(values, dtype=np.float32)


def _require_scale(tensor: Tensor) -> None:
    if not tensor.scale:
        text = f"{tensor.name} is {tensor.dtype} without a scale; name it in the manifest's tensors"
        raise AgentError("runtime.tensors", text)


def not_a_number(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which windows of ``values`` [window, …] hold a NaN: integers cannot say so, and their outputs must be NaN."""
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1))
