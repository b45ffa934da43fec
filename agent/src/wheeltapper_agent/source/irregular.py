"""Cuts a stream whose samples come at no fixed rate into windows, such as values that are sent when they change. Pure.

Invariants:
    * Samples are in the windows in the order of their times; a window is as many samples as it has, however far apart.
    * The time of a window is the time of its first sample, as it came. Nothing is interpolated and no gap is assumed.
    * A sample that is older than the one before is left out, and counted. Where four of them in a row are, with rising
      times, the clock was set back: the incomplete window is dropped and the time line starts anew.

What this module does not do: windows of a stream with a rate (:mod:`wheeltapper_agent.source.framing`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.cutter import MAX_GAP_SAMPLES, Framing
from wheeltapper_agent.source.framing import MAX_T_S

__all__ = ["IrregularFramer"]

_BACK_SAMPLES: Final = 4


class IrregularFramer:
    """Cuts one stream into windows; its methods are those of :class:`~wheeltapper_agent.source.framing.Framer`.

    Example:
        >>> framer = IrregularFramer(Framing(sample_rate_hz=1.0, channels=1, window_samples=1))
        >>> framer.push(np.array([[21.5]]), at_s=100.0, monotonic_s=0.0, t_s=99.5)[0].t_s
        99.5
    """

    wrong_rate_hz: Final[float | None] = None
    """There is no rate that could be wrong."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._rows: list[NDArray[np.float32]] = []
        self._times: list[float] = []
        self._skip = 0
        self._last_s = 0.0
        self._older: list[float] = []
        self._left_out = 0
        self._gap = 0
        self.late_samples = 0
        """Total number of samples left out because they were older than the one before."""

    def push(
        self,
        samples: NDArray[np.floating[Any]],
        *,
        at_s: float,
        monotonic_s: float | None,
        t_s: float | None = None,
        counted: bool = False,
    ) -> list[Window]:
        """Take samples that have one time together; return the windows that are now complete.

        Args:
            samples: [sample, channel] in physical units; NaN where one is missing.
            at_s: Unix time when they came; it is their time where ``t_s`` is None.
            monotonic_s: not used.
            t_s: their time by the clock of the source; None if it does not say.
            counted: not used.

        Raises:
            ValueError: the samples do not have the stream's channels, or their time is not from 0 to :data:`MAX_T_S`.
        """
        return self.push_times(
            samples, np.full(len(samples), at_s if t_s is None else t_s), at_s=at_s, monotonic_s=monotonic_s
        )

    def push_times(
        self,
        samples: NDArray[np.floating[Any]],
        times_s: NDArray[np.float64],
        *,
        at_s: float,
        monotonic_s: float | None,
    ) -> list[Window]:
        """Take samples that have a time each; otherwise like :meth:`push`.

        Args:
            samples: as for :meth:`push`.
            times_s: [sample] in seconds.
            at_s: not used.
            monotonic_s: not used.

        Raises:
            ValueError: as for :meth:`push`.
        """
        if samples.ndim != 2 or samples.shape[1] != self._framing.channels:
            raise ValueError(
                f"samples must have the shape [sample, {self._framing.channels}], not {list(samples.shape)}"
            )
        if times_s.shape != (len(samples),) or not bool(np.all((times_s >= 0) & (times_s <= MAX_T_S))):
            raise ValueError(f"each sample must have a time from 0 to {MAX_T_S:g} s")
        found: list[Window] = []
        for row, t_s in zip(samples, times_s.tolist(), strict=True):
            if self._is_in_order(t_s) and (window := self._take(row, t_s)) is not None:
                found.append(window)
        return found

    def shift(self, seconds: float) -> None:
        """The clock of the time stamps was set forward by ``seconds`` (negative: back)."""
        self._last_s += seconds

    def begin_anew(self) -> None:
        """The next samples do not follow on from those before: no window spans both."""
        self._gap = min(MAX_GAP_SAMPLES, self._gap + len(self._rows))
        self._rows, self._times, self._skip, self._last_s = [], [], 0, 0.0

    def restart(self) -> None:
        """The connection broke. What was not sent meanwhile cannot be known."""

    def _is_in_order(self, t_s: float) -> bool:
        """Whether a sample is not older than the one before; an older one is counted."""
        if t_s >= self._last_s:
            self._older = []
            self._last_s = t_s
            return True
        self._older = [*self._older, t_s] if not self._older or t_s >= self._older[-1] else [t_s]
        if len(self._older) >= _BACK_SAMPLES:
            self.begin_anew()
            self._older, self._last_s = [], t_s
            return True
        self.late_samples += 1
        self._left_out += 1
        return False

    def _take(self, row: NDArray[np.floating[Any]], t_s: float) -> Window | None:
        """Take a sample; return the window that it completes."""
        if self._skip:
            self._skip -= 1
            return None
        window, hop = self._framing.window_samples, self._framing.hop
        self._rows.append(np.array(row, dtype=np.float32))
        self._times.append(t_s)
        if len(self._rows) < window:
            return None
        made = Window(
            np.stack(self._rows), self._times[0], self._gap, late_samples=min(self._left_out, MAX_GAP_SAMPLES)
        )
        self._rows, self._times, self._skip = self._rows[hop:], self._times[hop:], max(0, hop - window)
        self._gap = self._left_out = 0
        return made
