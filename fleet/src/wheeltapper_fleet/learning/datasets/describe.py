"""What a recording or a table looks like: statistics of its channels, and hashes by which its windows are found again.

Cost: two passes over the values, in blocks; a recording of 2,800 windows of 5,120 values takes 0.6 s of a core.

What this module does not do: judge (:mod:`~wheeltapper_fleet.learning.datasets.checks`).
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.datasets.manifest import ChannelStatistics, Item, Label, Value
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["item_of"]

_BLOCK_VALUES: Final = 2**21
_KEPT: Final = 8
"""Windows whose hashes are kept, of each kind."""
_LEAST_VALUES: Final = 16
"""Windows with fewer values are not told apart; :data:`_ROWS` of them together are."""
_ROWS: Final = 64
_SHAPE_VALUES: Final = 4096
_RUN: Final = 3
"""So many equal extreme values in a row are clipped."""
_LEVELS: Final = 32
"""A signal with fewer values in its first :data:`_LOOKED_AT` has levels, no ends."""
_LOOKED_AT: Final = 8192

Values = npt.NDArray[Any]


def item_of(
    content: Recording | DataTable,
    sha256: str,
    length: int,
    *,
    machine: str,
    source: str,
    labels: list[Label],
    condition: dict[str, Value],
    split: str = "",
) -> Item:
    """Describe a content as the whole item that it becomes."""
    given: dict[str, Any] = {
        "sha256": sha256,
        "bytes": length,
        "machine": machine,
        "source": source,
        "labels": labels,
        "condition": condition,
        "split": split,
    }
    if isinstance(content, Recording):
        window_s = content.window_samples / content.sample_rate_hz
        return Item(
            **given,
            kind="recording",
            count=content.snapshots,
            start=float(content.t_s[0]),
            stop=float(content.t_s[-1]) + window_s,
            sample_rate_hz=content.sample_rate_hz,
            window_samples=content.window_samples,
            channels=list(content.channels),
            units=list(content.units),
            statistics=_recording_statistics(content),
            windows=_lowest(_windows(content)),
            shapes=_shapes(content),
        )
    numbers = [column for column in content.columns.values() if column.dtype.kind in "fi"]
    blocks = _blocks(np.stack(numbers, axis=1).astype(np.float32)) if numbers else []
    return Item(
        **given,
        kind="table",
        count=content.rows,
        channels=list(content.columns),
        units=[content.units.get(name, "") for name in content.columns],
        statistics=[_column_statistics(column) for column in content.columns.values()],
        windows=_lowest(iter(blocks)),
    )


def _recording_statistics(recording: Recording) -> list[ChannelStatistics]:
    """Statistics of each channel of a recording."""
    samples = recording.samples
    count, channels = samples.shape[0] * samples.shape[1], samples.shape[2]
    total, squares = np.zeros(channels), np.zeros(channels)
    first = samples[0, 0].astype(np.float64)
    rows = samples.reshape(-1, channels)
    low, high = rows.min(axis=0), rows.max(axis=0)
    for block in _sliced(samples):
        values = block.reshape(-1, channels).astype(np.float64) - first
        total += values.sum(axis=0)
        squares += np.einsum("ij,ij->j", values, values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    clipped = _clipped(samples, low, high)
    is_counts = samples.dtype == np.int16
    found = []
    for channel, scale in enumerate(recording.scale.tolist()):
        ends = sorted((float(low[channel]) * scale, float(high[channel]) * scale))
        found.append(
            ChannelStatistics(
                mean=float(mean[channel] + first[channel]) * scale,
                std=float(std[channel]) * abs(scale),
                low=ends[0],
                high=ends[1],
                clipped=float(clipped[channel]) / count,
                step=abs(scale) if is_counts else 0.0,
            )
        )
    return found


def _clipped(samples: Values, low: Values, high: Values) -> Values:
    """How many values of each channel lie in runs at its lowest or highest value, [channel].

    0 is no end, since counters and rectified signals rest there; nor has a signal of few levels ends.
    """
    found = np.zeros(samples.shape[2])
    for channel in range(samples.shape[2]):
        if len(np.unique(samples[:, :, channel].reshape(-1)[:_LOOKED_AT])) < _LEVELS:
            continue
        for end in {low[channel].item(), high[channel].item()} - {0}:
            for block in _sliced(samples):
                series = block[:, :, channel]
                series = series.reshape(1, -1) if series.shape[1] < _RUN else series
                found[channel] += _in_runs(series == end)
    return found


def _in_runs(equal: Values) -> int:
    """How many values [row, value] lie in runs of at least :data:`_RUN` along a row."""
    if equal.shape[1] < _RUN:
        return 0
    if not equal.any():
        return 0
    begins = equal[:, : equal.shape[1] - _RUN + 1].copy()
    for shift in range(1, _RUN):
        begins &= equal[:, shift : shift + begins.shape[1]]
    if not begins.any():
        return 0
    inside = np.zeros_like(equal)
    for shift in range(_RUN):
        inside[:, shift : shift + begins.shape[1]] |= begins
    return int(inside.sum())


def _column_statistics(column: Values) -> ChannelStatistics:
    if column.dtype.kind not in "fi":
        return ChannelStatistics(missing=float(np.mean(column == "")))
    values = column.astype(np.float64)
    there = values[np.isfinite(values)]
    missing = 1.0 - len(there) / len(values)
    if not len(there):
        return ChannelStatistics(missing=1.0)
    low, high = float(there.min()), float(there.max())
    return ChannelStatistics(mean=float(there.mean()), std=float(there.std()), low=low, high=high, missing=missing)


def _sliced(samples: Values) -> Iterator[Values]:
    step = max(1, _BLOCK_VALUES // (samples.shape[1] * samples.shape[2]))
    for begin in range(0, len(samples), step):
        yield samples[begin : begin + step]


def _windows(recording: Recording) -> Iterator[Values]:
    """The windows of a recording in physical values; of small ones :data:`_ROWS` at a time."""
    samples = recording.samples
    if samples.shape[1] * samples.shape[2] < _LEAST_VALUES:
        physical = recording.physical(slice(None))
        yield from _blocks(physical.reshape(len(physical), -1))
        return
    step = max(1, _BLOCK_VALUES // (samples.shape[1] * samples.shape[2]))
    for begin in range(0, len(samples), step):
        yield from recording.physical(slice(begin, begin + step))


def _blocks(rows: Values) -> list[Values]:
    return [rows[begin : begin + _ROWS] for begin in range(0, len(rows) - _ROWS + 1, _ROWS)]


def _lowest(windows: Iterator[Values]) -> list[str]:
    """The lowest hashes of windows; one that is constant or has missing values is like too many others."""
    hashes = (
        hashlib.sha256(np.ascontiguousarray(window, dtype="<f4").tobytes()).hexdigest()[:16]
        for window in windows
        if np.isfinite(window).all() and (window != window.reshape(-1)[0]).any()
    )
    return sorted(heapq.nsmallest(_KEPT, set(hashes)))


def _shapes(recording: Recording) -> list[str]:
    """The signs of projections of windows that are spread over a recording."""
    if recording.samples.shape[1] * recording.samples.shape[2] < _LEAST_VALUES:
        return []
    chosen = np.unique(np.linspace(0, recording.snapshots - 1, _KEPT).astype(int))
    windows = np.concatenate([recording.physical(slice(index, index + 1)) for index in chosen])
    rows = windows.reshape(len(windows), -1)[:, :_SHAPE_VALUES].astype(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    spread = rows.std(axis=1)
    kept = rows[spread > 1e-12] / spread[spread > 1e-12, None]
    bits = (kept @ _directions(rows.shape[1]) > 0).astype(np.uint8)
    return [np.packbits(row).tobytes().hex() for row in bits]


@functools.lru_cache(maxsize=4)
def _directions(values: int) -> npt.NDArray[np.float64]:
    """64 directions of +1 and -1, [value, 64]: the same on every machine and with every version of numpy."""
    drawn = np.frombuffer(hashlib.shake_256(b"wheeltapper window shapes 1").digest(values * 8), np.uint8)
    return np.unpackbits(drawn).reshape(values, 64).astype(np.float64) * 2.0 - 1.0
