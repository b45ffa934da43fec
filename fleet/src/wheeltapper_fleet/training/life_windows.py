"""Cuts standardised lives into windows, finds what is usual in each regime and which channels say anything, and says
which shapes along time are looked at.

Invariant: pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.convnet_onnx import Front, Regimes

__all__ = ["Windows", "cut", "informative", "nearing_end", "standard_front", "trend_shapes"]

Array = npt.NDArray[np.float32]
_LIMIT: Final = 6.0
"""Means of blocks are clipped here, in standard deviations of a sample."""
_LEAST_SCALE: Final = 1e-4
"""Of a channel within a regime, of its deviation over all regimes: with less it does not move there."""
_SAYS: Final = 0.02
"""Share of a channel's variance that the remaining life explains, from which on the channel is looked at."""
_SCALES: Final = (3 / 32, 3 / 16, 3 / 8, 5 / 8, 1.0)
"""Of a window, up to its end: the times over which levels and, but for the shortest, slopes are looked at."""
_FIRST: Final = 3 / 16
"""Of a window, from its beginning: the time over which the first level is taken."""
_BEYOND: Final = 0.15
"""Of a machine's windows whose life is below the cap: so many of those before it count as nearing the end, too."""
_LEVELS: Final = 12
"""Levels of remaining life among which a channel's means are compared."""


@dataclass(frozen=True)
class Windows:
    """Windows of some machines.

    Args:
        samples: [window, sample, channel], standardised over all samples.
        remaining: [window] float32, the life that remained at its end.
        machine: [window], the number of its machine.
        machines: how many there are.
    """

    samples: Array
    remaining: Array
    machine: npt.NDArray[np.int64]
    machines: int


def cut(samples: Array, remaining: Array, lengths: Sequence[int], window: int, least: int, most: int) -> Windows:
    """Cut lives into windows that end at every sample, or at every n-th so that there are at most about ``most``.

    Args:
        samples: [sample, channel], life after life.
        remaining: [sample].
        lengths: of each life, in samples.
        window: samples of a window.
        least: samples that a life must have had; what lacks of its first windows is its first sample.
    """
    step = max(1, -(-sum(max(0, length - least + 1) for length in lengths) // most))
    edges = np.cumsum([0, *lengths])
    cuts, left, machine = [], [], []
    for number, (first, stop) in enumerate(pairwise(edges.tolist())):
        if stop - first < least:
            continue
        life = np.concatenate([np.repeat(samples[first : first + 1], window - least, axis=0), samples[first:stop]])
        ends = np.arange(stop - first - least, -1, -step)[::-1]  # the last window is that of the end
        cuts.append(np.lib.stride_tricks.sliding_window_view(life, window, axis=0)[ends].transpose(0, 2, 1))
        left.append(remaining[first:stop][least - 1 :][ends])
        machine.append(np.full(len(ends), number))
    return Windows(
        np.ascontiguousarray(np.concatenate(cuts)), np.concatenate(left), np.concatenate(machine), len(lengths)
    )


def standard_front(samples: Array, regimes: Regimes | None, block: int) -> Front:
    """What is usual in each regime.

    Args:
        samples: [sample, channel], standardised over all samples.
        regimes: None: there is one.
        block: samples of which the nets see the mean.
    """
    parts = [samples] if regimes is None else _by_regime(samples, regimes)
    mean = np.array([part.mean(axis=0, dtype=np.float64) for part in parts], dtype=np.float32)
    scale = np.array([part.std(axis=0, dtype=np.float64) for part in parts], dtype=np.float32)
    scale = np.where(scale < _LEAST_SCALE, np.float32(1), scale)
    return Front(mean, scale, block, _LIMIT, tuple(range(samples.shape[1])), regimes)


def _by_regime(samples: Array, regimes: Regimes) -> list[Array]:
    """The samples of each regime."""
    regime = regimes.find(samples[None])[0][0]
    return [samples[regime == each] for each in range(len(regimes.centers))]


def informative(samples: Array, remaining: npt.NDArray[Any], lengths: Sequence[int], front: Front) -> list[int]:
    """The channels whose means differ with the life that remains.

    Args:
        samples: [sample, channel], life after life.
        remaining: [sample], 0 to 1.
        lengths: of each life.
        front: standardises; its block is the length over which a channel is averaged first.
    """
    single = Front(front.mean, front.scale, 1, np.inf, front.channels, front.regimes)
    values = single.apply(samples[None])[0][0].astype(np.float64)
    means, levels = [], []
    for first, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
        count = (stop - first) // front.block
        tail = slice(stop - count * front.block, stop)
        means.append(values[tail].reshape(count, front.block, values.shape[1]).mean(axis=1))
        levels.append(remaining[tail].reshape(count, front.block).mean(axis=1))
    mean, level = np.concatenate(means), np.minimum((np.concatenate(levels) * _LEVELS).astype(int), _LEVELS - 1)
    counts = np.bincount(level, minlength=_LEVELS)
    sums = np.array([np.bincount(level, column, _LEVELS) for column in mean.T])
    between = (counts * (sums / np.maximum(counts, 1) - mean.mean(axis=0)[:, None]) ** 2).sum(axis=1) / len(mean)
    total = mean.var(axis=0)
    return [i for i in range(mean.shape[1]) if total[i] > 0 and between[i] >= _SAYS * total[i]]


def nearing_end(windows: Windows) -> npt.NDArray[np.bool_]:
    """Which windows are of machines that near their end: [window]; all, where none is.

    Errors are small where a machine lives far longer than the cap, since all such lives count as the cap. An interval
    calibrated with them would be too narrow for machines that wear.
    """
    found = np.zeros(len(windows.remaining), dtype=bool)
    for rows in np.split(np.arange(len(found)), np.flatnonzero(np.diff(windows.machine)) + 1):
        capped = int(np.sum(windows.remaining[rows] >= 1))
        found[rows[max(0, capped - round(_BEYOND * (len(rows) - capped))) :]] = len(rows) > capped
    return found if found.any() else ~found


def trend_shapes(samples: int) -> Array:
    """What each channel of a window is multiplied with: levels and slopes at several scales, each of unit length, so
    that white noise moves all alike; [shape, sample].

    Args:
        samples: of a window; at least 16.
    """
    found = []
    for number, scale in enumerate(_SCALES):
        count = max(2, round(scale * samples))
        found.append(np.concatenate([np.zeros(samples - count), np.full(count, count**-0.5)]))
        if number:
            line = np.arange(count) - (count - 1) / 2
            found.append(np.concatenate([np.zeros(samples - count), line / np.sqrt((line * line).sum())]))
    first = max(2, round(_FIRST * samples))
    found.append(np.concatenate([np.full(first, first**-0.5), np.zeros(samples - first)]))
    return np.array(found, dtype=np.float32)
