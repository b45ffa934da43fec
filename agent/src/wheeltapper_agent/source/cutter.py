"""Samples that follow on from each other, cut into windows.

Invariants:
    * A sample is copied once, into the block that its windows are views of; where windows overlap, the shared tail is
      copied once more a block. Windows that do not overlap own their block.
    * Each window says what was lost before it and what came late since the window before.

What this module does not do: say which samples follow on from each other (:mod:`core.framing`).
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
_OVERLAP_BLOCK_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut.

    Args:
        sample_rate_hz: nominal.
        channels: how many.
        window_samples: length of a window.
        hop_samples: from the start of a window to the start of the next; below ``window_samples`` they overlap, above
            it samples between them are left out; 0: as ``window_samples``.
        tolerance_seconds: how far a time stamp may be off before samples count as missing or late. 0: half a sample
            where each sample has its time; for a chunk with one time the greatest of that, 10 ms and 1 % of the chunk
            before.
    """

    sample_rate_hz: float
    channels: int
    window_samples: int
    hop_samples: int = 0
    tolerance_seconds: float = 0.0

    @property
    def hop(self) -> int:
        """Samples from window to window."""
        return self.hop_samples or self.window_samples


class Cutter:
    """Cuts samples into windows."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        window, hop = framing.window_samples, framing.hop
        self._overlaps = hop < window
        self._block_samples = window + (_OVERLAP_BLOCK_WINDOWS - 1) * hop if self._overlaps else window
        self._gap = 0
        self._late_s = 0.0
        self._late_samples = 0
        self._open()

    def write(self, samples: NDArray[np.floating[Any]], t_s: float) -> list[Window]:
        """Append samples, [sample, channel], of which the first is of ``t_s``; returns the windows that they
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
            self._fresh += count
            at += count
            if self._filled == end:
                found.append(self._take(self._block[self._start : end], t_s + (at - window) / rate_hz))
                self._advance(window, hop)
        return found

    def give_up(self, missing: int) -> None:
        """Drop the window begun; the next one says that it and ``missing`` samples were lost before it."""
        self._gap = min(MAX_GAP_SAMPLES, self._gap + missing + self._fresh)
        self._open()

    def note_late(self, seconds: float, samples: int = 0) -> None:
        """Have the window under way say that something came so late, and how many samples were left out for it."""
        self._late_s = max(self._late_s, seconds)
        self._late_samples += samples

    def _open(self) -> None:
        self._block: NDArray[np.float32] = np.empty((self._block_samples, self._framing.channels), np.float32)
        self._filled = 0
        self._start = 0
        self._fresh = 0
        """Samples in the block that no window has given yet."""
        self._skip = 0

    def _take(self, view: NDArray[np.float32], t_s: float) -> Window:
        if self._overlaps:
            view.flags.writeable = False
        late_s = self._late_s if math.isfinite(self._late_s) else 0.0
        made = Window(view, max(0.0, t_s), self._gap, late_s, min(self._late_samples, MAX_GAP_SAMPLES))
        self._gap, self._late_s, self._late_samples, self._fresh = 0, 0.0, 0, 0
        return made

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
