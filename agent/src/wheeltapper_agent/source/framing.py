"""Cuts a continuous stream of samples into windows by their times. Pure: times are handed in.

Invariants:
    * Every sample is in the windows to which its place in the stream belongs, in order, however the stream was divided
      into chunks.
    * Nothing is interpolated. If time stamps show that samples are missing, a short gap is NaN in the window. At a
      longer gap the incomplete window is dropped, and the next one begins after the gap and reports the loss
      (``gap_samples``). Samples that come too late for their place are left out, and the present window reports how
      many and how late.
    * A clock that is set restarts the time line and never stops the stream. No gap is longer than the time in which its
      samples can have been lost.
    * Time stamps that show a wrong rate for long enough are reported (``wrong_rate_hz``). Jitter, bursts, loss and
      repetition are not mistaken for that.

What this module does not do: cut samples that follow one another (:mod:`wheeltapper_agent.source.cutter`); measure the
rate (:mod:`wheeltapper_agent.source.timing`); wait, retry, or drop windows that nobody takes
(:mod:`wheeltapper_agent.source.stream`).
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.cutter import MAX_GAP_SAMPLES, Cutter, Framing
from wheeltapper_agent.source.timing import LatenessEstimator, RateMonitor

__all__ = ["MAX_T_S", "Framer"]

MAX_T_S: Final = 1e12
"""Greatest time of a window that messages carry, in seconds."""
_JITTER_SECONDS: Final = 0.01
"""Least tolerance of the time of a chunk."""
_JITTER_SHARE: Final = 0.01
"""Tolerance of the time of a chunk, as a share of the duration of the chunk before."""
_DELAY_LEAK: Final = 1e-3
"""How fast the least delay is forgotten, in seconds a second: faster than any two clocks drift apart."""
_CLOCK_SECONDS: Final = 5.0
"""If a time stamp is so much further ahead than the least delay so far allows, the clock was set."""
_CLOCK_BREAK_SECONDS: Final = 3600.0
"""The same after a break of the connection: the delay may be another, and the source may send much that it kept."""
_BACK_CHUNKS: Final = 4
_BACK_SECONDS: Final = 1.0
"""If :data:`_BACK_CHUNKS` chunks in a row are too late for their place, for so long and at the pace of the stream, the
clock was set back. Chunks that are sent again come faster."""
_TAIL_SAMPLES: Final = 4
"""Number of samples by which a repeated chunk is recognised."""
_PIECES: Final = 8
"""Many samples with a time each are taken in so many pieces, so that a short file is enough to show its rate."""
_SLEW_SHARE: Final = 0.01
"""Without time stamps, the times of the windows follow the wall clock by this share of the difference, chunk by
chunk."""
_SLEW_LIMIT_SECONDS: Final = 60.0
"""Without time stamps, a difference above this means that the wall clock was set."""


class Framer:
    """Cuts one stream into windows.

    Example:
        >>> framer = Framer(Framing(sample_rate_hz=1000.0, channels=1, window_samples=256))
        >>> windows = framer.push(samples, at_s=clock.now(), monotonic_s=clock.monotonic(), t_s=None)
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._cutter = Cutter(framing)
        self._next_t_s: float | None = None
        """Time at which the next sample is due, by the clock of the stream."""
        self._timed = False
        self._last_chunk = 0
        self._tail: NDArray[np.floating[Any]] | None = None
        """The last samples of the chunk before, kept while samples are left out."""
        self._lateness = LatenessEstimator(framing.sample_rate_hz)
        self._rate = RateMonitor(framing.sample_rate_hz, framing.tolerance_seconds)
        self._unclassified = 0
        """Samples of the present payload that were left out, while it is not known whether they came before."""
        self._backward: tuple[int, float, float] | None = None
        """Number of chunks in a row that are too late for their place, when the first of them came, and its time."""
        self._restarted = False
        self._least_delay_s: float | None = None
        self._least_delay_at_s = 0.0
        self._after_break = False
        self.late_samples = 0
        """Total number of samples left out because they were too late for their place."""

    @property
    def wrong_rate_hz(self) -> float | None:
        """The rate that the time stamps show, if it is not the declared one; see :class:`RateMonitor`."""
        return self._rate.wrong_hz

    def push(
        self,
        samples: NDArray[np.floating[Any]],
        *,
        at_s: float,
        monotonic_s: float | None,
        t_s: float | None = None,
        counted: bool = False,
    ) -> list[Window]:
        """Take the next samples; return the windows that are now complete.

        Args:
            samples: [sample, channel] in physical units; NaN where one is missing.
            at_s: Unix time when they came. It gives the windows their times where ``t_s`` is None.
            monotonic_s: the same moment by a clock that never jumps; None for recorded samples, which cannot be late.
            t_s: time of the first sample by the clock of the source; None if it does not say.
            counted: whether ``t_s`` was not measured, but counted on from the samples before.

        Raises:
            ValueError: the samples do not have the stream's channels, or ``t_s`` is not from 0 to :data:`MAX_T_S`.
        """
        self._check(samples, t_s)
        if len(samples) == 0:
            return []
        tolerance = self._framing.tolerance_seconds or max(
            _JITTER_SECONDS, _JITTER_SHARE * self._last_chunk / self._framing.sample_rate_hz
        )
        return self._push(samples, at_s, monotonic_s, t_s, tolerance, counted=counted)

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
            at_s: as for :meth:`push`.
            monotonic_s: as for :meth:`push`.

        Raises:
            ValueError: as for :meth:`push`, or a time is not from 0 to :data:`MAX_T_S`.
        """
        self._check(samples, None)
        if times_s.shape != (len(samples),) or not bool(np.all((times_s >= 0) & (times_s <= MAX_T_S))):
            raise ValueError(f"each sample must have a time from 0 to {MAX_T_S:g} s")
        if len(samples) == 0:
            return []
        piece = max(self._rate.span_samples, -(-len(samples) // _PIECES))
        if len(samples) <= piece:
            return self._push_piece(samples, times_s, at_s, monotonic_s)
        found: list[Window] = []
        for at in range(0, len(samples), piece):
            left_s = max(0, len(samples) - at - piece) / self._framing.sample_rate_hz
            came_s = None if monotonic_s is None else monotonic_s - left_s
            part, part_s = samples[at : at + piece], times_s[at : at + piece]
            found += self._push_piece(part, part_s, at_s, came_s, counted=at > 0)
        return found

    def _push_piece(
        self,
        samples: NDArray[np.floating[Any]],
        times_s: NDArray[np.float64],
        at_s: float,
        monotonic_s: float | None,
        counted: bool = False,
    ) -> list[Window]:
        """Take samples with a time each, divided where the step from one time to the next is not a sample period."""
        period_s = 1 / self._framing.sample_rate_hz
        tolerance = self._framing.tolerance_seconds
        steps_s = np.diff(times_s)
        breaks = np.flatnonzero(np.abs(steps_s - period_s) > max(0.5 * period_s, tolerance)) + 1
        edges = [0, *breaks.tolist(), len(samples)]
        found: list[Window] = []
        since = 0
        for first, end in itertools.pairwise(edges):
            began_s, ended_s = float(times_s[first]), float(times_s[end - 1]) + period_s
            spread = tolerance or 0.5 * period_s
            came_s = None if monotonic_s is None else monotonic_s - (len(samples) - end) * period_s
            part, counted = samples[first:end], counted or first > 0
            found += self._push(part, at_s, came_s, began_s, spread, ended_s, counted=counted)
            if self._restarted:
                since = first
        self._rate.add_times(times_s[since:], steps_s[since:])
        return found

    def shift(self, seconds: float) -> None:
        """The clock of the time stamps was set forward by ``seconds`` (negative: back); nothing was lost by that."""
        if self._next_t_s is not None:
            self._next_t_s += seconds
        if self._least_delay_s is not None:
            self._least_delay_s -= seconds
        self._backward = None
        self._rate.reset()

    def begin_anew(self) -> None:
        """The next samples do not follow on from those before, nor do their times: no window spans both."""
        self._restart_timeline(0)
        self._next_t_s = None

    def restart(self) -> None:
        """The connection broke: samples may be missing.

        With time stamps, these will show what is missing. Without them, the arrival of the next sample shows how long
        the break was.
        """
        self._after_break = True
        self._lateness.reset()

    def _check(self, samples: NDArray[np.floating[Any]], t_s: float | None) -> None:
        """Raise ValueError if the samples or their time cannot be of this stream."""
        if samples.ndim != 2 or samples.shape[1] != self._framing.channels:
            raise ValueError(
                f"samples must have the shape [sample, {self._framing.channels}], not {list(samples.shape)}"
            )
        if t_s is not None and not 0 <= t_s <= MAX_T_S:
            raise ValueError(f"the time of a sample must be from 0 to {MAX_T_S:g} s, not {t_s}")

    def _push(
        self,
        samples: NDArray[np.floating[Any]],
        at_s: float,
        monotonic_s: float | None,
        t_s: float | None,
        tolerance_s: float,
        ended_s: float | None = None,
        *,
        counted: bool = False,
    ) -> list[Window]:
        """Take samples that follow one another, of which only the first has a time.

        Args:
            tolerance_s: how far ``t_s`` may be off before samples count as missing or late.
            ended_s: measured time after the last sample; None if only the first has a time.
        """
        rate_hz = self._framing.sample_rate_hz
        found: list[Window] = []
        given, began_s, lost, self._restarted = samples, t_s, 0, False
        if t_s is None:
            self._place_untimed(len(samples), at_s)
        else:
            off = (t_s - self._next_t_s) * rate_hz if self._next_t_s is not None and self._timed else 0.0
            if abs(off) > max(0.5, tolerance_s * rate_hz):
                samples, t_s, found = self._realign(samples, t_s, off, monotonic_s, counted)
            elif off > 0 and self._last_chunk:
                lost = round(off / self._last_chunk) * self._last_chunk  # whole chunks, within the tolerance
            self._timed = True
        if ended_s is None and self._timed:
            self._update_rate(given, len(samples), None if counted else began_s, lost)
        if len(samples) == 0:
            return found
        if t_s is not None:
            self._next_t_s = t_s
        self._backward = None
        self._last_chunk = len(samples)
        if monotonic_s is not None:
            self._note_lateness(len(samples), monotonic_s)
        self._after_break = False
        found += self._write(samples)
        if ended_s is not None:
            self._next_t_s = ended_s
        return found

    def _update_rate(self, given: NDArray[np.floating[Any]], kept: int, t_s: float | None, lost: int) -> None:
        """Show the rate monitor a chunk with one time.

        Args:
            given: the samples of the chunk.
            kept: how many of them, counted from the last, were not left out.
            t_s: measured time of the first one; None for a later part of a payload.
            lost: samples that may be missing before the chunk.
        """
        if t_s is not None and self._unclassified:
            self._rate.add_chunk(None, self._unclassified)
            self._unclassified = 0
        left_out = len(given) - kept
        if left_out:
            self._unclassified = 0 if self._repeats(given) else self._unclassified + left_out
        self._rate.add_chunk(t_s, len(given), left_out, lost)
        if self.late_samples and kept:
            self._tail = given[-_TAIL_SAMPLES:].copy()

    def _repeats(self, samples: NDArray[np.floating[Any]]) -> bool:
        """Return whether the chunk before ended within ``samples``: they overlap on purpose, or were sent again."""
        tail = self._tail
        if tail is None:
            return False
        for last in np.flatnonzero(samples[:, 0] == tail[-1, 0]).tolist():
            count = min(last + 1, len(tail))
            if np.array_equal(samples[last + 1 - count : last + 1], tail[-count:], equal_nan=True):
                return True
        return False

    def _place_untimed(self, count: int, at_s: float) -> None:
        """Give a chunk without a time stamp its time, by its arrival. Only after a break does that make a gap."""
        began_s = max(0.0, at_s - count / self._framing.sample_rate_hz)
        if self._next_t_s is None:
            self._next_t_s = began_s
            return
        off_s = began_s - self._next_t_s
        if self._after_break:
            self._cutter.drop_partial(min(MAX_GAP_SAMPLES, max(0, round(off_s * self._framing.sample_rate_hz))))
            self._next_t_s = began_s
        elif abs(off_s) > _SLEW_LIMIT_SECONDS:
            self._next_t_s = began_s  # the wall clock was set
        else:
            self._next_t_s += _SLEW_SHARE * off_s

    def _realign(
        self, samples: NDArray[np.floating[Any]], t_s: float, off: float, monotonic_s: float | None, counted: bool
    ) -> tuple[NDArray[np.floating[Any]], float, list[Window]]:
        """Handle samples whose time does not follow on from the last ones.

        Args:
            off: how many samples too late (positive: some are missing) or too early (negative) their time is.

        Returns:
            The samples that still count, the time of the first one, and the windows that a short gap completes.
        """
        rate_hz = self._framing.sample_rate_hz
        if off > 0:
            missing = min(MAX_GAP_SAMPLES, max(1, round(min(off, MAX_GAP_SAMPLES))))
            if (possible := self._possible_gap(samples, t_s, monotonic_s)) is not None:
                self._restart_timeline(min(missing, possible))
                return samples, t_s, []
            self._rate.add_missing(missing)
            if missing <= self._framing.window_samples:
                return samples, t_s, self._write(np.full((missing, samples.shape[1]), np.nan, np.float32))
            self._cutter.drop_partial(missing)
            return samples, t_s, []
        old = round(min(-off, MAX_GAP_SAMPLES))
        if old > self._framing.window_samples + len(samples) or (
            old >= len(samples)
            and monotonic_s is not None
            and not counted  # only the time of a payload's first samples is measured
            and self._clock_was_set_back(t_s, monotonic_s)
        ):
            self._restart_timeline(0)
            return samples, t_s, []
        old = min(old, len(samples))
        self.late_samples += old
        self._cutter.note_late(-off / rate_hz, old)
        return samples[old:], t_s + old / rate_hz, []

    def _possible_gap(self, samples: NDArray[np.floating[Any]], t_s: float, monotonic_s: float | None) -> int | None:
        """Return how many samples can have been lost before ``samples``, if these claim to be of the future.

        None: their time is possible.
        """
        if monotonic_s is None or self._least_delay_s is None or self._next_t_s is None:
            return None
        newest_s = monotonic_s - self._least_delay_s
        if t_s <= newest_s + (_CLOCK_BREAK_SECONDS if self._after_break else _CLOCK_SECONDS):
            return None
        rate_hz = self._framing.sample_rate_hz
        lost = (newest_s - self._next_t_s) * rate_hz - len(samples)
        return round(min(MAX_GAP_SAMPLES, max(0.0, lost)))

    def _clock_was_set_back(self, t_s: float, monotonic_s: float) -> bool:
        """Note one more chunk that is too late for its place; return whether a clock that was set back explains them
        all."""
        count, began_s, first_s = self._backward or (0, monotonic_s, t_s)
        self._backward = (count + 1, began_s, first_s)
        passed_s = monotonic_s - began_s
        return count + 1 >= _BACK_CHUNKS and passed_s >= _BACK_SECONDS and 0 < t_s - first_s <= 2 * passed_s

    def _restart_timeline(self, missing: int) -> None:
        """Begin a new time line, because the clock was set; ``missing`` samples were lost before it."""
        self._cutter.drop_partial(missing)
        self._least_delay_s, self._backward, self._restarted = None, None, True
        self._rate.reset()

    def _note_lateness(self, count: int, monotonic_s: float) -> None:
        """Note how much later than the quickest chunk the last of ``count`` samples came."""
        if not self._timed:
            self._cutter.note_late(self._lateness.late_seconds(count, monotonic_s))
            return
        delay_s = monotonic_s - (self._next_t_s or 0.0) - count / self._framing.sample_rate_hz
        if self._least_delay_s is None or self._after_break:
            least_s = delay_s
        else:
            least_s = min(delay_s, self._least_delay_s + _DELAY_LEAK * (monotonic_s - self._least_delay_at_s))
        self._least_delay_s, self._least_delay_at_s = least_s, monotonic_s
        self._cutter.note_late(delay_s - least_s)

    def _write(self, samples: NDArray[np.floating[Any]]) -> list[Window]:
        """Append samples that follow on from the last ones."""
        t_s = self._next_t_s or 0.0
        self._next_t_s = t_s + len(samples) / self._framing.sample_rate_hz
        return self._cutter.append(samples, t_s)
