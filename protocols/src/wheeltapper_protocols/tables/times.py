"""What the times of a table say: the rate, how fine they are, and whether they rise. Pure: times are handed in.

Invariants:
    * Times that show another rate are refused, and the unit is named that would explain them.
    * Times that are coarser than the samples are noticed, and never throw samples away: rows then follow one another in
      their order, and only a gap longer than the resolution is one.
    * Times that go back more than :data:`MAX_STEPS_BACK` times are not in order, and are refused.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import PER_SECOND, malformed

__all__ = ["MAX_STEPS_BACK", "TimeLine", "is_settled", "likely_unit", "resolution", "shown_rate"]

MAX_STEPS_BACK: Final = 2
"""How often a clock may have been set back in one file."""
MAX_T_S: Final = 1e12
"""Greatest time, in seconds: what messages carry."""
RATE_FACTOR: Final = 1.5
"""A table whose times show a rate that differs by this factor is refused at once, however short."""
RATE_SHARE: Final = 0.08
"""Times that are fine and steady may differ from the declared rate by this share, as the oscillators of sensors do, and
by another two steps in all."""
_LEAST_STEPS: Final = 2
"""Steps from one time to another that are needed to say what they show."""
_STANDSTILL_SECONDS: Final = 1.0
"""Times may stand still for so long: whole seconds are the coarsest that a short table may have."""
_ENOUGH_STEPS: Final = 32
_COARSE_SHARE: Final = 0.01
"""If of this share of the rows the time does not show the step, times are coarse."""
_STEADY_SHARE: Final = 0.8
_STEADY: Final = 0.25
"""The steps of a table are steady if so many of them are so near to the median."""
_LONGER: Final = {"minutes": 60.0, "hours": 3600.0, "days": 86_400.0}

Times = NDArray[np.float64]


def is_settled(times_s: Times) -> bool:
    """Whether ``times_s`` [row] are enough to say what they show."""
    return int(np.count_nonzero(np.diff(times_s) > 0)) >= _ENOUGH_STEPS


def shown_rate(times_s: Times, samples: NDArray[np.floating[Any]]) -> float | None:
    """Return the rate that the times show, in Hz; None if they are too few or too irregular.

    Rows with the same time and other samples are rows of their own; equal rows are one that was written twice.

    Args:
        times_s: [row] in seconds.
        samples: [row, channel].
    """
    steps = np.diff(times_s)
    at = np.flatnonzero(steps > 0)
    if len(at) < _LEAST_STEPS:
        return None
    rises, middle = steps[at], float(np.median(steps[at]))
    if not _coarse_rows(times_s, samples):
        steady = np.abs(rises - middle) <= _STEADY * middle
        return 1 / float(rises[steady].mean()) if steady.mean() >= _STEADY_SHARE else None
    rows = np.diff(at)  # from one rise of the time to the next
    usual = rises[1:] <= 2.5 * middle
    return float(rows[usual].sum() / rises[1:][usual].sum()) if usual.any() else None


def resolution(times_s: Times, samples: NDArray[np.floating[Any]], rate_hz: float, tolerance_s: float) -> float:
    """Return how coarse the times are, in seconds; 0 if they are fine enough to place each sample.

    Args:
        times_s: [row] in seconds.
        samples: [row, channel].
        rate_hz: the declared rate.
        tolerance_s: how far a time may be off, as configured; 0: half a sample.
    """
    steps, period_s = np.diff(times_s), 1 / rate_hz
    rises = steps[steps > 0]
    if not len(rises):
        return 0.0
    least = float(rises.min())
    if not _coarse_rows(times_s, samples) and not (
        tolerance_s <= 0.5 * period_s and _is_power_of_ten(least) and _seem_missing(steps, rate_hz)
    ):
        return 0.0
    whole = np.abs(rises / least - np.round(rises / least)) <= 0.01 + 2 * np.spacing(times_s.max()) / least
    found = least if whole.all() else 1.2 * float(np.quantile(np.abs(rises - period_s), 0.98))
    return found * (1 + 1e-6) + 2 * float(np.spacing(np.abs(times_s).max()))


def likely_unit(shown_hz: float, rate_hz: float, unit: str) -> str:
    """Return what the times are likely in, if not in ``unit``: ``ms``, …, ``minutes``, …; empty if no unit explains
    the rate that they show."""
    for name, per_second in PER_SECOND.items():
        if name != unit and _near(shown_hz * per_second / PER_SECOND[unit], rate_hz):
            return name
    return next((name for name, s in _LONGER.items() if unit == "s" and _near(shown_hz / s, rate_hz)), "")


class TimeLine:
    """Follows the times of one file.

    Args:
        file: name of the file, for errors.
        rate_hz: the declared rate.
        tolerance_seconds: how far a time may be off; 0: half a sample. Raised by :meth:`begin` where times are coarse.
        unit: of times that are numbers; empty where they are not.
        notes: is told when times are coarse or go back.
    """

    def __init__(self, file: str, rate_hz: float, tolerance_seconds: float, unit: str, notes: Notes) -> None:
        self.tolerance_seconds = tolerance_seconds
        self._file, self._rate_hz, self._unit, self._notes = file, rate_hz, unit, notes
        self._rows = self._back = 0
        self._last_s: float | None = None
        self._offset_s = 0.0

    def begin(self, times_s: Times, samples: NDArray[np.floating[Any]]) -> None:
        """Look at the first rows of the file: see the invariants of the module.

        Raises:
            RecordingError: ``recording.mismatch``: another rate. ``recording.malformed``: the times do not move.
        """
        self._refuse_disorder(times_s)
        still_s = len(times_s) / self._rate_hz if len(times_s) and times_s.min() == times_s.max() else 0.0
        if len(times_s) > 2 * _ENOUGH_STEPS and still_s > _STANDSTILL_SECONDS:
            raise malformed(self._file, f"the first {len(times_s)} rows have one time, {times_s[0]:.10g}")
        coarse_s = resolution(times_s, samples, self._rate_hz, self.tolerance_seconds) or still_s
        shown_hz = shown_rate(times_s, samples)
        if shown_hz is not None and not _near(shown_hz, self._rate_hz, len(times_s), bool(coarse_s)):
            raise self._other_rate(shown_hz)
        if (longest := float(np.abs(times_s).max(initial=0.0))) > MAX_T_S:
            raise malformed(
                self._file, f"a time is {longest:.6g} s: set time_unit to the unit of the times (ms, us, ns)"
            )
        if len(times_s) and times_s[0] < 0:
            self._offset_s = -float(times_s[0])
            self._notes.add("begin", f"the times begin at {times_s[0]:.6g} s: they are counted from the first")
        if coarse_s > max(self.tolerance_seconds, 0.5 / self._rate_hz):
            self.tolerance_seconds = coarse_s
            self._notes.add(
                "coarse",
                f"the times have steps of {coarse_s:.4g} s, coarser than the samples ({1 / self._rate_hz:.4g} s): rows "
                f"are taken in their order, and a gap shorter than {coarse_s:.4g} s cannot be seen",
            )

    def follow(self, times_s: Times) -> tuple[Times, list[int]]:
        """Take the times of the next rows.

        Returns:
            The times from 0 on, and the indices at which a new time line begins, because the clock was set back.

        Raises:
            RecordingError: ``recording.malformed``: the times are not in order.
        """
        if not len(times_s):
            return times_s, []
        back = self._refuse_disorder(times_s)
        for index in back:
            text = f"{self._step(times_s, index)}: the clock was set, or the rows are not in order; a new window begins"
            self._notes.add("back", text)
        self._back += len(back)
        self._rows += len(times_s)
        self._last_s = float(times_s[-1])
        return times_s + self._offset_s, back

    def _refuse_disorder(self, times_s: Times) -> list[int]:
        """Return the indices where the time goes back; raise ``recording.malformed`` where it does so too often."""
        first_s = times_s[:1] if self._last_s is None else self._last_s
        steps = np.diff(times_s, prepend=first_s)
        back: list[int] = np.flatnonzero(steps < -max(0.5 / self._rate_hz, self.tolerance_seconds)).tolist()
        if (often := self._back + len(back)) > MAX_STEPS_BACK:
            where = self._step(times_s, back[0])
            raise malformed(
                self._file,
                f"the times do not rise: {where}, one of {often} times so far; sort the rows by time, keep one machine "
                "a file, leave time_column out if the rows follow one another, or raise tolerance_seconds if the times "
                "jitter",
            )
        return back

    def _step(self, times_s: Times, index: int) -> str:
        """A step back, in words."""
        before_s = times_s[index - 1] if index else self._last_s
        return f"row {self._rows + index + 1}: the time goes back from {before_s:.10g} to {times_s[index]:.10g} s"

    def _other_rate(self, shown_hz: float) -> RecordingError:
        """The error for times that show another rate."""
        text = f"sample_rate_hz is {self._rate_hz:g}, but the times in the file show {shown_hz:.4g} Hz"
        likely = likely_unit(shown_hz, self._rate_hz, self._unit) if self._unit else ""
        if likely in PER_SECOND:
            text += f": if they are in {likely}, set time_unit = '{likely}'"
        elif likely:
            text += f": they seem to be in {likely}; write them in seconds"
        return RecordingError("recording.mismatch", f"{self._file}: {text}")


def _near(shown_hz: float, rate_hz: float, rows: int = 0, coarse: bool = True) -> bool:
    """Whether two rates may be one: to :data:`RATE_FACTOR`, or as exactly as so many fine times can show."""
    most = RATE_FACTOR if coarse or rows < 2 else min(RATE_FACTOR, 1 + RATE_SHARE + 2 / (rows - 1))
    return 1 / most < shown_hz / rate_hz < most


def _coarse_rows(times_s: Times, samples: NDArray[np.floating[Any]]) -> bool:
    """Whether rows with different samples have the same time."""
    same = np.diff(times_s) == 0
    count = int(np.count_nonzero(same))
    if count < max(2, _COARSE_SHARE * len(same)):
        return False
    at = np.flatnonzero(same)
    differ = np.any(samples[at + 1] != samples[at], axis=1)
    return int(np.count_nonzero(differ)) >= max(2.0, _COARSE_SHARE * len(same))


def _seem_missing(steps: Times, rate_hz: float) -> bool:
    """Whether steps seem to have samples missing, of which most are not: there are as many rows as fit the time."""
    samples = steps * rate_hz
    seem = float(np.maximum(np.round(samples) - 1, 0).sum())
    are = max(0.0, float(samples.sum()) - len(steps))
    return seem >= max(2.0, _COARSE_SHARE * len(steps)) and are < 0.5 * seem


def _is_power_of_ten(seconds: float) -> bool:
    """Whether a step is what clocks and formats round to."""
    power = np.log10(seconds)
    return bool(abs(power - np.round(power)) < 1e-3)
