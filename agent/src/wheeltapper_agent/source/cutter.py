"""Cuts samples that follow one another into windows. Pure.

Invariants:
    * A sample is copied once, into the block of which its windows are views. If windows overlap, the shared end of a
      block is copied once more. Windows that do not overlap own their block.
    * Each window says how many samples were lost before it, and how many came late since the window before.

What this module does not do: decide which samples follow one another (:mod:`wheeltapper_agent.source.framing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window

__all__ = ["MAX_GAP_SAMPLES", "Cutter", "Framing"]

MAX_GAP_SAMPLES: Final = 2**53
"""Greatest number of lost samples that a window reports."""
_OVERLAP_BLOCK_WINDOWS: Final = 4
"""Number of overlapping windows in a block."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut into windows.

    Args:
        sample_rate_hz: the declared rate.
        channels: number of channels.
        window_samples: length of a window.
        hop_samples: from the start of a window to the start of the next. Below ``window_samples`` windows overlap;
            above it, samples between them are left out; 0: the same as ``window_samples``.
        tolerance_seconds: how far a time stamp may be off before samples count as missing or late. 0: half a sample
            where each sample has its time; for a chunk with one time, the greatest of half a sample, 10 ms and 1 % of
            the chunk before.
        irregular: whether samples come at no fixed rate; ``sample_rate_hz`` is then only the usual one.
    """

    sample_rate_hz: float
    channels: int
    window_samples: int
    hop_samples: int = 0
    tolerance_seconds: float = 0.0
    irregular: bool = False

    @property
    def hop(self) -> int:
        """Samples from the start of a window to the start of the next."""
        return self.hop_samples or self.window_samples


class Cutter:
    """Cuts one stream into windows.

    Example:
        >>> cutter = Cutter(Framing(sample_rate_hz=1000.0, channels=1, window_samples=256))
        >>> windows = cutter.append(np.zeros((600, 1)), t_s=0.0)  # two windows, of 0.0 s and 0.256 s
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        window, hop = framing.window_samples, framing.hop
        self._overlaps = hop < window
        self._block_samples = window + (_OVERLAP_BLOCK_WINDOWS - 1) * hop if self._overlaps else window
        self._gap = 0
        self._late_s = 0.0
        self._late_samples = 0
        self._open()

    def append(self, samples: NDArray[np.floating[Any]], t_s: float) -> list[Window]:
        """Append samples [sample, channel], the first of which has the time ``t_s``; return the windows that are now
        complete."""
        window, hop, rate_hz = self._framing.window_samples, self._framing.hop, self._framing.sample_rate_hz
        at, found = 0, []
        while at < len(samples):
            if self._skip:
                passed = min(self._skip, len(samples) - at)
                self._skip -= passed
                at += passed
                continue
            end = self._start + window
            count = min(end - self._filled, len(samples) - at)
            self._block[self._filled : self._filled + count] = samples[at : at + count]
            self._filled += count
            self._new_samples += count
            at += count
            if self._filled == end:
                found.append(self._take(self._block[self._start : end], t_s + (at - window) / rate_hz))
                self._advance(window, hop)
        return found

    def drop_partial(self, missing: int) -> None:
        """Drop the incomplete window. The next window reports it, and ``missing`` further samples, as lost."""
        self._gap = min(MAX_GAP_SAMPLES, self._gap + missing + self._new_samples)
        self._open()

    def note_late(self, seconds: float, samples: int = 0) -> None:
        """Note for the present window that samples came ``seconds`` late, and that ``samples`` of them were
        left out."""
        self._late_s = max(self._late_s, seconds)
        self._late_samples += samples

    def _open(self) -> None:
        """Begin a block."""
        self._block: NDArray[np.float32] = np.empty((self._block_samples, self._framing.channels), np.float32)
        self._filled = 0
        self._start = 0
        self._new_samples = 0
        """Samples in the block that are in no window yet."""
        self._skip = 0

    def _take(self, view: NDArray[np.float32], t_s: float) -> Window:
        """Return the complete window ``view``, with what was lost or late since the window before."""
        if self._overlaps:
            view.flags.writeable = False
        late_s = self._late_s if math.isfinite(self._late_s) else 0.0
        result = Window(view, max(0.0, t_s), self._gap, late_s, min(self._late_samples, MAX_GAP_SAMPLES))
        self._gap, self._late_s, self._late_samples, self._new_samples = 0, 0.0, 0, 0
        return result

    def _advance(self, window: int, hop: int) -> None:
        """Go to the next window; a full block is left to its windows."""
        if hop >= window:
            self._open()
            self._skip = hop - window
            return
        self._start += hop
        if self._start + window > self._block_samples:
            tail = self._block[self._start : self._filled]
            self._open()
            self._block[: len(tail)] = tail
            self._filled = len(tail)
