"""Data quality: what was wrong with the samples themselves, counted and never repaired.

:func:`window_quality` looks at one window and gives a :class:`DataQuality`; the counts of windows, hours, devices or
sites are merged by addition.

Invariants:
    * Pure, numpy only; one pass over the window where nothing is wrong with it.
    * ``a + b == b + a`` and ``(a + b) + c == a + (b + c)``, exactly: counts are integers.
    * Where windows overlap, a sample counts once in each window that holds it, so that shares (``missing / values``)
      stay true.

What this module does not do: decide what is too much; fill, drop or interpolate anything.
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
"""So many equal values in a row are a stuck sensor, where nothing else is configured: a vibration sensor's noise alone
moves its last bits every few samples. A slow signal (temperature at 1 Hz) wants another number."""


class DataQuality(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts over some windows. A value is one sample of one channel."""

    windows: _Count = 0
    """Windows looked at."""
    values: _Count = 0
    """Values in them: samples times channels."""
    missing: _Count = 0
    """Values that are not a number: lost on the way, or given as NaN or infinity by the sensor."""
    incomplete: _Count = 0
    """Windows with at least one missing value; they are not scored."""
    stuck: _Count = 0
    """Values in a run of equal ones that is too long for a living sensor."""
    clipped: _Count = 0
    """Values at or beyond the full scale of their channel."""
    late: _Count = 0
    """Windows whose last sample came later than tolerated."""
    gaps: _Count = 0
    """Places where samples were lost between two windows."""
    gap_samples: _Count = 0
    """Samples lost there."""
    dropped: _Count = 0
    """Whole windows that were skipped because the pipeline was too slow."""
    late_samples: _Count = 0
    """Samples left out because they came twice, or when their place in the stream had passed."""
    malformed: _Count = 0
    """Payloads that could not be read; what they held is lost."""

    def __add__(self, other: DataQuality) -> DataQuality:
        """The counts of both; one that would pass 2**53 stays there."""
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
        samples: [sample, channel] float in physical units; NaN where one is missing.
        full_scale: [channel], largest absolute value that the sensor can give, in its unit; empty: unknown, so that
            clipping cannot be seen.
        stuck_samples: length from which a run of equal values is a stuck sensor, at least 2; 0: never.
        gap_samples: samples lost between the window before and this one.
        late: whether it came later than tolerated.
        dropped: whole windows skipped before this one.
        late_samples: samples left out before this window ended.
        whole: whether it is known already that no value is missing, so that none need be looked for.

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
    """Runs of equal values over windows that are shorter than such a run must be; else :func:`window_quality` does.

    Args:
        stuck_samples: as there.
    """

    def __init__(self, stuck_samples: int) -> None:
        self._length = stuck_samples
        self._last: npt.NDArray[np.floating[Any]] | None = None
        self._runs: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    def count(self, samples: npt.NDArray[np.floating[Any]], fresh: int, gap: bool = False) -> int:
        """Values of this window that belong to a run which is long enough by now.

        Args:
            samples: [sample, channel], not empty.
            fresh: how many of them, the last ones, the window before did not have.
            gap: whether samples were lost since that window.
        """
        same = samples[1:] == samples[:-1]
        # How many values at the end are equal; a missing one is equal to nothing.
        ends = np.where(same.all(axis=0), len(samples), 1 + np.argmin(same[::-1], axis=0) if len(same) else 1)
        if self._last is not None and not gap:
            goes_on = (ends == len(samples)) & (samples[0] == self._last)
            self._runs = np.where(goes_on, self._runs + fresh, ends)
        else:
            self._runs = ends
        self._last = samples[-1].copy()
        return int(ends[(self._runs >= self._length) & np.isfinite(samples[-1])].sum())


def is_complete(samples: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether no value is missing: all are finite numbers."""
    return _missing(samples) == 0


def _missing(samples: npt.NDArray[np.floating[Any]]) -> int:
    # The sum of finite numbers is finite, short of an overflow: then the careful count finds none missing.
    with np.errstate(over="ignore", invalid="ignore"):
        total = samples.sum()
    return 0 if np.isfinite(total) else int(samples.size - np.count_nonzero(np.isfinite(samples)))


def _clipped(samples: npt.NDArray[np.floating[Any]], full_scale: Sequence[float]) -> int:
    if samples.size == 0:
        return 0
    least = samples.dtype.type(min(full_scale))
    # A comparison with NaN is false, so that a window with NaN takes the careful way.
    if samples.max() < least and samples.min() > -least:
        return 0
    with np.errstate(invalid="ignore"):
        beyond = np.abs(samples) >= np.asarray(full_scale, dtype=samples.dtype)
    return int(np.count_nonzero(beyond & np.isfinite(samples)))


def _stuck(samples: npt.NDArray[np.floating[Any]], stuck_samples: int) -> int:
    length = max(2, stuck_samples)
    if len(samples) < length:
        return 0
    # A run of that length covers at least one of the blocks of half of it, whose ends then are equal: a cheap question
    # that a living sensor's window answers with no.
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
