"""A continuous stream of samples, cut into windows. Pure: times are handed in.

Invariants:
    * Every sample is in the windows that its place in the stream gives it, in order, however the stream was chopped
      into chunks.
    * Nothing is interpolated or held. Where the time stamps say that samples are missing, they are NaN in the window
      (a short gap), or the window begun is given up and the next one begins after the gap and says how many samples
      were lost (``gap_samples``). Samples that come when their place has passed are left out, and the window under way
      says how many they were and how late.
    * A clock that was set starts the stream anew and never stops it. No gap is longer than the time in which its
      samples can have been lost.
    * Time stamps that show for long that the rate is not the declared one are reported (``wrong_rate_hz``); jitter,
      bursts, loss and repetition are not taken for that.

What this module does not do: cut what follows on from each other (:mod:`core.cutter`), watch the rate
(:mod:`core.timing`), wait, retry, drop windows that nobody takes (see ``adapters/sources/stream.py``).
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
"""Largest time of a window that the wire takes, in seconds."""
_JITTER_SECONDS: Final = 0.01
_JITTER_SHARE: Final = 0.01
_DELAY_LEAK: Final = 1e-3
"""How fast the least delay is forgotten, in seconds a second: above the drift of any two clocks."""
_CLOCK_SECONDS: Final = 5.0
"""A time stamp that is further ahead of what the quickest way allows is of a clock that was set."""
_CLOCK_BREAK_SECONDS: Final = 3600.0
"""The same after a break, when the way may be another and a source may have much to tell."""
_BACK_CHUNKS: Final = 4
_BACK_SECONDS: Final = 1.0
"""So many chunks in a row whose place has passed, for so long and at the stream's pace: the clock was set back. What is
sent again comes quicker."""
_TAIL_SAMPLES: Final = 4
_PIECES: Final = 8
"""Many samples with a time each are taken in so many pieces, so that a short file shows its rate."""
_SLEW_SHARE: Final = 0.01
_SLEW_LIMIT_SECONDS: Final = 60.0


class Framer:
    """Cuts one stream; see the module."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._cutter = Cutter(framing)
        self._next_t_s: float | None = None
        """When the next sample is due, by the stream's own clock."""
        self._timed = False
        self._last_chunk = 0
        self._tail: NDArray[np.floating[Any]] | None = None
        """The last samples of the chunk before, where some are left out."""
        self._arrivals = LatenessEstimator(framing.sample_rate_hz)
        self._rate = RateMonitor(framing.sample_rate_hz, framing.tolerance_seconds)
        self._unsure = 0
        """Samples of the payload under way that were left out; what follows in it says whether they were known."""
        self._back: tuple[int, float, float] | None = None
        """Chunks in a row whose place had passed, when the first of them came, and its time."""
        self._anew = False
        self._least_delay_s: float | None = None
        self._least_delay_at_s = 0.0
        self._resume = False
        self.late_samples = 0
        """Samples left out because they came when their place had passed, in all."""

    @property
    def wrong_rate_hz(self) -> float | None:
        """The rate that the time stamps show, where it is not the declared one; see :class:`RateMonitor`."""
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
        """Take the next samples; returns the windows that they complete, perhaps none.

        Args:
            samples: [sample, channel] in physical units; NaN where one is missing.
            at_s: Unix time when they came; gives the stream its times where ``t_s`` is None.
            monotonic_s: the same moment by a clock that never jumps; None: they were recorded, and cannot be late.
            t_s: time of the first sample by the source's clock, if it says.
            counted: ``t_s`` was not measured, but counted on from the samples before.

        Raises:
            ValueError: not [sample, channel] of this stream, or ``t_s`` is not within 0 to :data:`MAX_T_S`.
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
        """Take samples that each have a time, [sample] in seconds; else as :meth:`push`.

        Raises:
            ValueError: as :meth:`push`, or a time is not within 0 to :data:`MAX_T_S`.
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
            if self._anew:
                since = first
        self._rate.each(times_s[since:], steps_s[since:])
        return found

    def shift(self, seconds: float) -> None:
        """The clock of the time stamps was set forward by ``seconds`` (back: negative): nothing was lost by that."""
        if self._next_t_s is not None:
            self._next_t_s += seconds
        if self._least_delay_s is not None:
            self._least_delay_s -= seconds
        self._back = None
        self._rate.begin()

    def restart(self) -> None:
        """The stream broke off. With time stamps nothing is lost by that alone: they will say. Without, the next
        sample's arrival says how long the break was."""
        self._resume = True
        self._arrivals.begin()

    def _check(self, samples: NDArray[np.floating[Any]], t_s: float | None) -> None:
        if samples.ndim != 2 or samples.shape[1] != self._framing.channels:
            raise ValueError(f"samples must be [sample, {self._framing.channels}], not {samples.shape}")
        if t_s is not None and not 0 <= t_s <= MAX_T_S:
            raise ValueError(f"the time of a sample must be within 0 to {MAX_T_S:g} s, not {t_s}")

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
        rate_hz = self._framing.sample_rate_hz
        found: list[Window] = []
        given, began_s, lost, self._anew = samples, t_s, 0, False
        if t_s is None:
            self._untimed(len(samples), at_s)
        else:
            off = (t_s - self._next_t_s) * rate_hz if self._next_t_s is not None and self._timed else 0.0
            if abs(off) > max(0.5, tolerance_s * rate_hz):
                samples, t_s, found = self._out_of_place(samples, t_s, off, monotonic_s, counted)
            elif off > 0 and self._last_chunk:
                lost = round(off / self._last_chunk) * self._last_chunk  # whole chunks, within the tolerance
            self._timed = True
        if ended_s is None and self._timed:
            self._watch(given, len(samples), None if counted else began_s, lost)
        if len(samples) == 0:
            return found
        if t_s is not None:
            self._next_t_s = t_s
        self._back = None
        self._last_chunk = len(samples)
        if monotonic_s is not None:
            self._note_lateness(len(samples), monotonic_s)
        self._resume = False
        found += self._write(samples)
        if ended_s is not None:
            self._next_t_s = ended_s
        return found

    def _watch(self, given: NDArray[np.floating[Any]], kept: int, t_s: float | None, lost: int) -> None:
        """Show the rate watch a chunk with one time, or what follows in its payload, of which the last were kept."""
        if t_s is not None and self._unsure:
            self._rate.chunk(None, self._unsure)
            self._unsure = 0
        left_out = len(given) - kept
        if left_out:
            self._unsure = 0 if self._repeats(given) else self._unsure + left_out
        self._rate.chunk(t_s, len(given), left_out, lost)
        if self.late_samples and kept:
            self._tail = given[-_TAIL_SAMPLES:].copy()

    def _repeats(self, samples: NDArray[np.floating[Any]]) -> bool:
        """Whether the chunk before ended within ``samples``: then they overlap on purpose, or were sent again."""
        tail = self._tail
        if tail is None:
            return False
        for last in np.flatnonzero(samples[:, 0] == tail[-1, 0]).tolist():
            count = min(last + 1, len(tail))
            if np.array_equal(samples[last + 1 - count : last + 1], tail[-count:], equal_nan=True):
                return True
        return False

    def _untimed(self, count: int, at_s: float) -> None:
        """Where a chunk without time stamp stands, by its arrival; only a break makes that a gap."""
        began_s = max(0.0, at_s - count / self._framing.sample_rate_hz)
        if self._next_t_s is None:
            self._next_t_s = began_s
            return
        off_s = began_s - self._next_t_s
        if self._resume:
            self._cutter.give_up(min(MAX_GAP_SAMPLES, max(0, round(off_s * self._framing.sample_rate_hz))))
            self._next_t_s = began_s
        elif abs(off_s) > _SLEW_LIMIT_SECONDS:
            self._next_t_s = began_s  # the wall clock was set
        else:
            self._next_t_s += _SLEW_SHARE * off_s

    def _out_of_place(
        self, samples: NDArray[np.floating[Any]], t_s: float, off: float, monotonic_s: float | None, counted: bool
    ) -> tuple[NDArray[np.floating[Any]], float, list[Window]]:
        """What of ``samples`` still counts, from when, and the windows that a short gap completes."""
        rate_hz = self._framing.sample_rate_hz
        if off > 0:
            missing = min(MAX_GAP_SAMPLES, max(1, round(min(off, MAX_GAP_SAMPLES))))
            if (possible := self._possible_gap(samples, t_s, monotonic_s)) is not None:
                self._begin_anew(min(missing, possible))
                return samples, t_s, []
            self._rate.miss(missing)
            if missing <= self._framing.window_samples:
                return samples, t_s, self._write(np.full((missing, samples.shape[1]), np.nan, np.float32))
            self._cutter.give_up(missing)
            return samples, t_s, []
        old = round(min(-off, MAX_GAP_SAMPLES))
        if old > self._framing.window_samples + len(samples) or (
            old >= len(samples)
            and monotonic_s is not None
            and not counted  # of a payload only the first samples tell
            and self._set_back(t_s, monotonic_s)
        ):
            self._begin_anew(0)
            return samples, t_s, []
        old = min(old, len(samples))
        self.late_samples += old
        self._cutter.note_late(-off / rate_hz, old)
        return samples[old:], t_s + old / rate_hz, []

    def _possible_gap(self, samples: NDArray[np.floating[Any]], t_s: float, monotonic_s: float | None) -> int | None:
        """Where ``samples`` claim to be of a time that is still to come: how many can have been lost before them."""
        if monotonic_s is None or self._least_delay_s is None or self._next_t_s is None:
            return None
        newest_s = monotonic_s - self._least_delay_s
        if t_s <= newest_s + (_CLOCK_BREAK_SECONDS if self._resume else _CLOCK_SECONDS):
            return None
        rate_hz = self._framing.sample_rate_hz
        lost = (newest_s - self._next_t_s) * rate_hz - len(samples)
        return round(min(MAX_GAP_SAMPLES, max(0.0, lost)))

    def _set_back(self, t_s: float, monotonic_s: float) -> bool:
        """Whether chunks whose place has passed come as a clock that was set back would have them; another one did."""
        count, began_s, first_s = self._back or (0, monotonic_s, t_s)
        self._back = (count + 1, began_s, first_s)
        passed_s = monotonic_s - began_s
        return count + 1 >= _BACK_CHUNKS and passed_s >= _BACK_SECONDS and 0 < t_s - first_s <= 2 * passed_s

    def _begin_anew(self, missing: int) -> None:
        """The time stamps have no longer to do with those before; so many samples were lost meanwhile."""
        self._cutter.give_up(missing)
        self._least_delay_s, self._back, self._anew = None, None, True
        self._rate.begin()

    def _note_lateness(self, count: int, monotonic_s: float) -> None:
        """How much later than the quickest the last of ``count`` samples came."""
        if not self._timed:
            self._cutter.note_late(self._arrivals.late_seconds(count, monotonic_s))
            return
        delay_s = monotonic_s - (self._next_t_s or 0.0) - count / self._framing.sample_rate_hz
        if self._least_delay_s is None or self._resume:
            least_s = delay_s
        else:
            least_s = min(delay_s, self._least_delay_s + _DELAY_LEAK * (monotonic_s - self._least_delay_at_s))
        self._least_delay_s, self._least_delay_at_s = least_s, monotonic_s
        self._cutter.note_late(delay_s - least_s)

    def _write(self, samples: NDArray[np.floating[Any]]) -> list[Window]:
        """Append samples that follow on from the last ones."""
        t_s = self._next_t_s or 0.0
        self._next_t_s = t_s + len(samples) / self._framing.sample_rate_hz
        return self._cutter.write(samples, t_s)
