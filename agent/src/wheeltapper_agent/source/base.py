"""What a source of windows is and what it gives; the names that plug-ins implement. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import FaultCount

__all__ = [
    "Source",
    "SourceContext",
    "SourceKind",
    "SourceSpec",
    "Window",
    "checked_window",
    "malformed_payloads",
    "pending_windows",
    "source_detail",
    "source_faults",
    "source_room",
    "window_seconds",
]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """The form of a source's windows."""

    sample_rate_hz: float
    window_samples: int
    channels: tuple[str, ...]
    units: tuple[str, ...]
    full_scale: tuple[float, ...] = ()
    """Largest absolute value that the sensor can give, for each channel, in its unit; it clips beyond that. Empty:
    unknown."""
    hop_samples: int = 0
    """From the start of a window to the start of the next. 0: the same as ``window_samples``, or the stream is not
    continuous."""
    irregular: bool = False
    """Whether samples come at no fixed rate; ``sample_rate_hz`` is then only the usual one."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of samples.

    ``samples`` is [sample, channel] float32 in the units of the spec; a missing sample is NaN, and nothing is
    interpolated. ``t_s`` is the time of the first sample in seconds, by the clock of the source.
    """

    samples: NDArray[np.float32]
    t_s: float
    gap_samples: int = 0
    """Samples that the source lost between the window before and this one."""
    late_seconds: float = 0.0
    """How much later than due the last sample came."""
    late_samples: int = 0
    """Samples that the source left out since the window before, because they came twice or too late for their place."""

    @property
    def wire_t_s(self) -> float:
        """``t_s`` as messages carry it: 0 for a time that is not finite or negative, at most 1e12."""
        return min(max(0.0, self.t_s), 1e12) if math.isfinite(self.t_s) else 0.0


class Source(Protocol):
    """Gives windows.

    A source that can have several windows ready may also have the property ``pending``; one that keeps windows while
    nobody takes them, ``room``; one that reads payloads, ``malformed_payloads``; one that knows why values are missing,
    ``faults``; one whose windows do not come at the hop of its spec, ``interval_seconds``. See :func:`pending_windows`,
    :func:`source_room`, :func:`malformed_payloads`, :func:`source_faults` and :func:`window_seconds`.
    """

    @property
    def spec(self) -> SourceSpec:
        """The form of the windows."""

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""

    @property
    def dropped(self) -> int:
        """Number of windows that were skipped because nobody took them in time."""

    def windows(self, first: int) -> Iterator[Window]:
        """Give the windows ``first``, ``first + 1``, … as they become due; end when the source is closed or has no
        more.

        A live source begins with the present window whatever ``first`` is. A recording begins with window ``first``.
        """

    def model_ready(self) -> None:
        """A model is active; a source that was configured to wait for one begins."""

    def close(self) -> None:
        """End :meth:`windows` soon; any thread may call it."""


def pending_windows(source: Source) -> int:
    """Return how many windows ``source`` gives without waiting, beside the one that it gave last; 0 if it cannot say.

    A reader may take so many at once and score them in one call. The number falls only when windows are taken.
    """
    return int(getattr(source, "pending", 0))


def source_room(source: Source) -> int:
    """Return how many windows ``source`` keeps without loss while nobody takes them; 0 if it cannot say."""
    return int(getattr(source, "room", 0))


def malformed_payloads(source: Source) -> int:
    """Return how many payloads ``source`` could not read; 0 if it cannot say."""
    return int(getattr(source, "malformed_payloads", 0))


def source_faults(source: Source) -> list[FaultCount]:
    """Return what went wrong with ``source`` since the agent started, by kind, the newest first; empty if it cannot
    say."""
    return list(getattr(source, "faults", ()))


def source_detail(source: Source) -> str:
    """Return why ``source`` gives no windows now, or none with a value, by its own word; empty if it does or cannot
    say."""
    if not source.state.startswith("source."):
        return ""
    return next((fault.text[:500] for fault in source_faults(source) if not fault.over), "")


def window_seconds(source: Source) -> float:
    """Return the declared time from one window to the next, in seconds; at least the hop of its spec says."""
    declared = getattr(source, "interval_seconds", None)
    if declared:
        return float(declared)
    spec = source.spec
    return (spec.hop_samples or spec.window_samples) / spec.sample_rate_hz


def checked_window(given: object) -> Window:
    """Return what a source gave as a window with float32 samples.

    Raises:
        ValueError: it is no window; the reason.
    """
    if not isinstance(given, Window):
        raise ValueError(f"it is a {type(given).__name__}")
    samples = given.samples
    if not isinstance(samples, np.ndarray) or samples.ndim != 2:
        raise ValueError(f"its samples are {_described(samples)}, not an array [sample, channel]")
    if not type(given.t_s) is type(given.late_seconds) is float or not (
        type(given.gap_samples) is type(given.late_samples) is int
    ):
        given = _with_plain_numbers(given)
    if not (given.gap_samples >= 0 and given.late_samples >= 0 and math.isfinite(given.late_seconds)):
        raise ValueError("its lateness is not finite, or a count of its samples is negative")
    if samples.dtype == np.float32:
        return given
    if samples.dtype.kind not in "fiu":
        raise ValueError(f"its samples are {_described(samples)}, not numbers")
    with np.errstate(over="ignore"):
        return replace(given, samples=samples.astype(np.float32))


def _with_plain_numbers(window: Window) -> Window:
    """``window`` with Python's own numbers in the place of numpy's: no record can be made of others.

    Raises:
        ValueError: something is no number.
    """
    numbers = (window.t_s, window.late_seconds, window.gap_samples, window.late_samples)
    if not all(isinstance(number, int | float | np.number) and not isinstance(number, bool) for number in numbers):
        raise ValueError("its time, lateness or lost samples are no numbers")
    try:
        return replace(
            window,
            t_s=float(window.t_s),
            late_seconds=float(window.late_seconds),
            gap_samples=int(window.gap_samples),
            late_samples=int(window.late_samples),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its time, lateness or lost samples are no numbers: {error}") from error


def _described(samples: object) -> str:
    """The type of ``samples``, with shape and type of the entries where it is an array."""
    if isinstance(samples, np.ndarray):
        return f"an array {list(samples.shape)} of {samples.dtype}"
    return f"a {type(samples).__name__}"


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is told of the agent that makes it."""

    pipeline: str
    """Name of its pipeline."""
    state_dir: Path
    """Folder where the source may keep a file of its own, named after the pipeline."""
    clock: Clock


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source: the value of an entry point of the group ``wheeltapper.sources``, whose name is the kind.

    Args:
        config: a frozen dataclass with a field ``kind`` (``kind: Literal["x"] = "x"``) and fields of the types that a
            configuration can hold: str, bool, int, float, Path, Literal, another such dataclass, a tuple of one of
            these, or one of these or None. Its ``__post_init__`` may raise ``AgentError`` to refuse a value.
        make: returns the source for a configuration.
        exclusive: whether only one pipeline of a device may have this kind.
        exclusive_by: name of a field of ``config`` in which the pipelines of a device that have this kind must differ;
            empty: none.
    """

    config: type[Any]
    make: Callable[[Any, SourceContext], Source]
    exclusive: bool = False
    exclusive_by: str = ""
