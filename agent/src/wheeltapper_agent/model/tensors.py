"""The input and output tensors of a model: their quantisation, and how windows are fitted to their shapes. Pure.

A quantised tensor q stands for the real value ``(q - zero_point) * scale``: TensorFlow Lite's 8-bit quantisation
specification and ONNX's operator ``QuantizeLinear``, which rounds halves to even as numpy does.

Invariants:
    * A real value beyond the range of a quantised tensor saturates; it never wraps around.
    * A window that holds a NaN gives NaN, never a plausible number: see :func:`holds_nan`.

What this module does not do: run models (:mod:`wheeltapper_agent.model.inference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError

if TYPE_CHECKING:  # for annotations only: what the manifest imports is not pure
    from wheeltapper_protocols.manifest.manifest import TensorSpec

__all__ = ["Tensor", "decode", "encode", "fitted", "holds_nan", "with_specs"]

_QUANTISED: Final = ("int8", "uint8", "int16", "uint16")
_FLOATS: Final = ("float32", "float16", "float64")
_FLOAT16_MAX: Final = 65504.0


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output of a model."""

    name: str
    shape: tuple[int | None, ...]
    """None: the axis may have any length."""
    dtype: str
    """Numpy's name of the element type."""
    scale: float = 0.0
    """0: the tensor is not quantised, or its scale is not known."""
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers, which need no conversion."""
        return self.dtype in _FLOATS


def with_specs(tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Return ``tensors`` with the scale and zero point of ``specs`` where their model file does not say them.

    Raises:
        AgentError: ``runtime.tensors``: a spec names a tensor that is not an integer of 8 or 16 bits, has an impossible
            zero point, or disagrees with the file.
    """
    by_name = {spec.name: spec for spec in specs}
    result = []
    for tensor in tensors:
        spec = by_name.get(tensor.name)
        if spec is None:
            result.append(tensor)
            continue
        if tensor.dtype not in _QUANTISED:
            raise AgentError(
                "runtime.tensors",
                f"{tensor.name} is {tensor.dtype}, which is not quantised; leave it out of the manifest's tensors",
            )
        limits = np.iinfo(tensor.dtype)
        if not limits.min <= spec.zero_point <= limits.max:
            text = f"{tensor.name} is {tensor.dtype} and cannot have the zero point {spec.zero_point}"
            raise AgentError("runtime.tensors", text)
        if tensor.scale and not (np.isclose(tensor.scale, spec.scale) and tensor.zero_point == spec.zero_point):
            raise AgentError(
                "runtime.tensors",
                f"{tensor.name}: the manifest and the model file give different scales or zero points",
            )
        result.append(replace(tensor, scale=spec.scale, zero_point=spec.zero_point))
    return tuple(result)


def fitted(tensor: Tensor, values: NDArray[Any]) -> NDArray[Any]:
    """Return ``values`` in the shape of ``tensor``.

    Axes of length 1 may be added or left out: [n, 640] fits [1, 640, 1] and [n, 640, 1].

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
        # The open first axis has the same length on both sides; the others must agree but for axes of 1.
        kept = slice(1, None) if tensor.shape[0] is None else slice(None)
        if [length for length in wanted[kept] if length != 1] == [
            length for length in values.shape[kept] if length != 1
        ]:
            return values.reshape(wanted)
    text = ", ".join("any" if length is None else str(length) for length in tensor.shape)
    raise AgentError("runtime.shape", f"{tensor.name} takes [{text}], not {list(values.shape)}")


def encode(tensor: Tensor, values: NDArray[np.float32]) -> NDArray[Any]:
    """Return real values as the elements that ``tensor`` takes; what is beyond their range saturates.

    Whole numbers are rounded. NaN becomes the zero point. Float32 for a float32 tensor is not copied.

    Raises:
        AgentError: ``runtime.tensors``: the tensor is quantised and its scale is not known.
    """
    if tensor.is_float:
        if tensor.dtype == "float16":
            values = np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX)
        return np.asarray(values, dtype=tensor.dtype)
    if tensor.dtype in _QUANTISED:
        _require_scale(tensor)
        limits = np.iinfo(tensor.dtype)
        scaled = np.rint(np.divide(values, tensor.scale, dtype=np.float64))
        shifted = np.nan_to_num(scaled + tensor.zero_point, nan=tensor.zero_point)
        quantised: NDArray[Any] = np.clip(shifted, limits.min, limits.max).astype(tensor.dtype)
        return quantised
    whole = np.rint(np.nan_to_num(np.asarray(values, dtype=np.float64)))
    if tensor.dtype == "bool":
        return whole.astype(np.bool_)
    bounds = np.iinfo(tensor.dtype)
    high = float(bounds.max)
    if int(high) > bounds.max:  # float64 rounds the greatest 64-bit integer up, and the cast of that wraps
        high = float(np.nextafter(high, 0.0))
    return np.clip(whole, float(bounds.min), high).astype(tensor.dtype)


def decode(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the real values that the elements ``values`` of ``tensor`` stand for, as float32.

    Raises:
        AgentError: ``runtime.tensors``: the tensor is quantised and its scale is not known.
    """
    if tensor.dtype in _QUANTISED:
        _require_scale(tensor)
        return (np.asarray(values, dtype=np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    return np.asarray(values, dtype=np.float32)


def _require_scale(tensor: Tensor) -> None:
    """Raise ``runtime.tensors`` if the scale of a quantised tensor is not known."""
    if not tensor.scale:
        text = f"{tensor.name} is {tensor.dtype} and its scale is not known; give its scale in the manifest's tensors"
        raise AgentError("runtime.tensors", text)


def holds_nan(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which windows of ``values`` [window, …] hold a NaN. Integers cannot hold one, so the caller sets the
    output of these windows to NaN."""
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1))
