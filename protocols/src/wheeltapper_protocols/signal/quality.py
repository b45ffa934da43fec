"""Data quality: counts of what is wrong with the samples themselves. Nothing is repaired.

:func:`window_quality` counts one window as a :class:`DataQuality`. Counts of windows, hours, devices or sites merge by
addition.

Invariants:
    * Pure, numpy only. A window with nothing wrong is read in one pass.
    * ``a + b == b + a`` and ``(a + b) + c == a + (b + c)``, exactly: counts are integers.
    * Where windows overlap, a sample counts once in each window that holds it. Shares such as ``missing / values`` stay
      right.

What this module does not do: decide how much is too much; fill, drop or interpolate samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

__all__ = ["STUCK_SAMPLES", "DataQuality", "StuckRunCounter", "is_complete", "window_quality"]

_MAX_COUNT: Final = 2**53
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_COUNT)]
STUCK_SAMPLES: Final = 64
"""Default number of equal values in a row that means a stuck sensor. The noise of a vibration sensor changes its last
bits every few samples; a slow signal (temperature at 1 Hz) needs another number."""


class DataQuality(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts over some windows. A value is one sample of one channel."""

    windows: _Count = 0
    """Windows that were counted."""
    values: _Count = 0
    """Values in them: samples times channels."""
    missing: _Count = 0
    """Values that are not finite: lost in transit, or sent as NaN or infinity by the sensor."""
    incomplete: _Count = 0
    """Windows with at least one missing value; they are not scored."""
    stuck: _Count = 0
    """Values in runs of equal values that are too long for a working sensor."""
    clipped: _Count = 0
    """Values at or beyond the full scale of their channel."""
    late: _Count = 0
    """Windows whose last sample arrived later than tolerated."""
    gaps: _Count = 0
    """Places where samples were lost between two windows."""
    gap_samples: _Count = 0
    """Samples lost in these places."""
    dropped: _Count = 0
    """Whole windows that were skipped because the pipeline was too slow."""
    late_samples: _Count = 0
    """Samples discarded because they arrived twice, or after later ones had been used."""
    malformed: _Count = 0
    """Payloads that could not be read; their samples are lost."""

    def __add__(self, other: DataQuality) -> DataQuality:
        """The counts of both together; each is at most 2**53."""
        if not isinstance(other, DataQuality):
            return NotImplemented
        most = _MAX_COUNT  # field by field: this runs once a window
        return DataQuality(
            windows=min(self.windows + other.windows, most),
            values=min(self.values + other.values, most),
            missing=min(self.missing + other.missing, most),
            incomplete=min(self.incomplete + other.incomplete, most),
            stuck=min(self.stuck + other.stuck, most),
            clipped=min(self.clipped + other.clipped, most),
            late=min(self.late + other.late, most),
            gaps=min(self.gaps + other.gaps, most),
            gap_samples=min(self.gap_samples + other.gap_samples, most),
            dropped=min(self.dropped + other.dropped, most),
            late_samples=min(self.late_samples + other.late_samples, most),
            malformed=min(self.malformed + other.malformed, most),
        )


def window_quality(
    samples: npt.NDArray[np.floating[Any]],
    *,
    full_scale: Sequence[float] = (),
    stuck_samples: int = STUCK_SAMPLES,
    gap_samples: int = 0,
    late: bool = False,
    dropped: int = 0,
    late_samples: int = 0,
    whole: bool = False,
) -> DataQuality:
    """The counts of one window.

    Args:
        samples: [sample, channel] float in physical units; NaN where a value is missing.
        full_scale: [channel], the greatest absolute value that the sensor can give, in its unit. Empty: unknown, and
            clipping is not counted.
        stuck_samples: number of equal values in a row that means a stuck sensor, at least 2. 0: not counted.
        gap_samples: samples lost between the window before and this one.
        late: whether the window arrived later than tolerated.
        dropped: whole windows skipped before this one.
        late_samples: samples discarded before this window ended.
        whole: whether the caller knows that no value is missing, so that none is searched for.

    Raises:
        ValueError: ``samples`` is not [sample, channel], or ``full_scale`` is not one number a channel.
    """
    if samples.ndim != 2 or (len(full_scale) and len(full_scale) != samples.shape[1]):
        raise ValueError("samples must be [sample, channel], and full_scale one number a channel")
    missing = 0 if whole else _missing(samples)
    return DataQuality(
        windows=1,
        values=samples.size,
        missing=missing,
        incomplete=int(missing > 0),
        stuck=_stuck(samples, stuck_samples) if stuck_samples else 0,
        clipped=_clipped(samples, full_scale) if len(full_scale) else 0,
        late=int(late),
        gaps=int(gap_samples > 0),
        gap_samples=max(0, gap_samples),
        dropped=max(0, dropped),
        late_samples=max(0, late_samples),
    )


class StuckRunCounter:
    """Counts stuck values of a stream whose windows are shorter than ``stuck_samples``.

    Such runs span windows, so a counter keeps the run at the end of the last window. For longer windows use
    :func:`window_quality`.

    Args:
        stuck_samples: number of equal values in a row that means a stuck sensor.
    """

    def __init__(self, stuck_samples: int) -> None:
        self._length = stuck_samples
        self._last: npt.NDArray[np.floating[Any]] | None = None
        self._runs: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    def count(self, samples: npt.NDArray[np.floating[Any]], fresh: int, gap: bool = False) -> int:
        """Number of values in this window that belong to a run of at least ``stuck_samples``.

        Args:
            samples: [sample, channel], not empty.
            fresh: number of samples at the end that the window before did not have.
            gap: whether samples were lost since that window.
        """
        same = samples[1:] == samples[:-1]
        # Number of equal values at the end, by channel; NaN is equal to nothing.
        ends = np.where(same.all(axis=0), len(samples), 1 + np.argmin(same[::-1], axis=0) if len(same) else 1)
        if self._last is not None and not gap:
            goes_on = (ends == len(samples)) & (samples[0] == self._last)
            self._runs = np.where(goes_on, self._runs + fresh, ends)
        else:
            self._runs = ends
        self._last = samples[-1].copy()
        return int(ends[(self._runs >= self._length) & np.isfinite(samples[-1])].sum())


def is_complete(samples: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether every value of ``samples`` [sample, channel] is finite."""
    return _missing(samples) == 0


def _missing(samples: npt.NDArray[np.floating[Any]]) -> int:
    # A finite sum means that every value is finite. Where the sum overflows, the slower count finds none missing.
    with np.errstate(over="ignore", invalid="ignore"):
        total = samples.sum()
    return 0 if np.isfinite(total) else int(samples.size - np.count_nonzero(np.isfinite(samples)))


def _clipped(samples: npt.NDArray[np.floating[Any]], full_scale: Sequence[float]) -> int:
    if samples.size == 0:
        return 0
    least = samples.dtype.type(min(full_scale))
    # Comparisons with NaN are false, so a window with NaN is counted value by value.
    if samples.max() < least and samples.min() > -least:
        return 0
    with np.errstate(invalid="ignore"):
        beyond = np.abs(samples) >= np.asarray(full_scale, dtype=samples.dtype)
    return int(np.count_nonzero(beyond & np.isfinite(samples)))


def _stuck(samples: npt.NDArray[np.floating[Any]], stuck_samples: int) -> int:
    length = max(2, stuck_samples)
    if len(samples) < length:
        return 0
    # A run of ``length`` covers at least one block of half that length, whose first and last value are then equal. This
    # is cheap to check, and a working sensor has no such block.
    block = (length + 1) // 2
    last = samples[block - 1 :: block]
    if not np.count_nonzero(samples[::block][: len(last)] == last):
        return 0
    same = samples[1:] == samples[:-1]
    if np.count_nonzero(same) < length - 1:
        return 0
    same &= np.isfinite(samples[1:])  # a missing value is not stuck
    stuck = 0
    for channel in range(samples.shape[1]):
        edges = np.flatnonzero(np.diff(same[:, channel], prepend=False, append=False))
        pairs = edges[1::2] - edges[::2]  # a run of n equal values has n - 1 equal pairs
        stuck += int((pairs[pairs >= length - 1] + 1).sum())
    return stuck
