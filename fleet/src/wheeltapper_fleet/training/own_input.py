"""How the input of somebody's model fits the windows of a sensor, by their shapes alone. Pure.

A model's input is ``[n, …]``: the first axis is the window, axes of length 1 do not count. It may be the samples of a
window (as one row, by sample or by channel) or the default features of one.

Invariant: nothing is chosen here. Every reading that fits is returned, and the caller asks where there are several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor

__all__ = ["Layout", "Placement", "placements", "shape_text", "tasks_of", "usable_outputs"]

Layout: TypeAlias = Literal["flat", "sample_channel", "channel_sample"]
_READABLE = ("float32", "float16", "float64", "int8", "uint8", "int16", "uint16")


@dataclass(frozen=True)
class Placement:
    """One way to give a window to the model."""

    kind: Literal["raw", "features"]
    window_samples: int
    layout: Layout = "sample_channel"

    def text(self) -> str:
        """For people, and the value of the option ``--input``."""
        return "features" if self.kind == "features" else self.layout


def placements(shape: tuple[int | None, ...], samples: int, channels: int, features: int) -> list[Placement]:
    """Every way in which a window fits the model's input; where none does, those in which a part of it does.

    Args:
        shape: of the model's input, with the axis of the window; None: any length.
        samples: in a window of the data. Where no reading fits, a model may take shorter windows, cut from these.
        channels: in the data.
        features: number of default features of a window.

    Example:
        >>> [each.text() for each in placements((None, 1, 4096), 4096, 1, 14)]
        ['channel_sample']
    """
    axes = tuple(length for length in shape[1:] if length != 1)
    found: list[Placement] = []
    if axes == (features,) or axes == (None,):
        found.append(Placement("features", samples))
    for layout, length in (*_one_axis(shape, axes, samples, channels), *_two_axes(axes, samples, channels)):
        if 1 <= length <= samples:
            found.append(Placement("raw", length, layout))
    return [each for each in found if each.window_samples == samples] or found


def _one_axis(
    shape: tuple[int | None, ...], axes: tuple[int | None, ...], samples: int, channels: int
) -> list[tuple[Layout, int]]:
    """Readings of an input with one axis besides the window: layout and samples.

    Of one channel, the layout is the one with the axes of the input, so that a reconstruction has its input's shape.
    """
    if len(axes) > 1:
        return []
    values = axes[0] if axes else 1
    if values is None:
        values = samples * channels
    if values % channels:
        return []
    layout: Layout = "flat"
    if channels == 1 and len(shape) == 3:
        layout = "channel_sample" if shape[1] == 1 else "sample_channel"
    return [(layout, values // channels)]


def _two_axes(axes: tuple[int | None, ...], samples: int, channels: int) -> list[tuple[Layout, int]]:
    """Readings of an input with two axes besides the window."""
    if len(axes) != 2:
        return []
    found: list[tuple[Layout, int]] = []
    first, second = axes
    if second in (channels, None):
        found.append(("sample_channel", samples if first is None else first))
    if first in (channels, None):
        found.append(("channel_sample", samples if second is None else second))
    return found


def usable_outputs(graph: ModelGraph) -> list[ModelTensor]:
    """The outputs that a device can read: numbers, not whole labels or maps."""
    return [tensor for tensor in graph.outputs if tensor.dtype in _READABLE]


def tasks_of(given: tuple[int | None, ...], output: tuple[int | None, ...]) -> list[str]:
    """The tasks that an output of this shape can serve: ``reconstruction`` and ``score`` (anomaly), ``classification``,
    ``remaining_life``.

    Args:
        given: the shape of the model's input.
        output: the shape of its output.
    """
    axes = tuple(length for length in output[1:] if length != 1)
    wanted = tuple(length for length in given[1:] if length != 1)
    if not axes:
        return ["score", "remaining_life"]
    found = []
    if len(axes) == len(wanted) and all(a == b or a is None or b is None for a, b in zip(axes, wanted, strict=True)):
        found.append("reconstruction")
    if len(axes) == 1 and len(output) == 2:
        found.append("classification")
    if axes == (None,) and len(output) <= 2:
        found += ["score", "remaining_life"]
    return found


def shape_text(tensor: ModelTensor) -> str:
    """For people: name, type and shape."""
    axes = ", ".join("n" if length is None else str(length) for length in tensor.shape)
    return f"{tensor.label} {tensor.dtype}[{axes}]"
