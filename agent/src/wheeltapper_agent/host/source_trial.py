"""Tries the source of a pipeline, and says what it gives: for ``wheeltapper-agent source try``.

Invariants:
    * No model, no fleet, and nothing of the agent's state: what a source would keep goes to a temporary folder.
    * It ends by itself: after the time that it was given, or with the recording.
    * Memory is bounded: of all windows but the first only sums are kept.

What this module does not do: print for people what :func:`try_source` returns
(:mod:`wheeltapper_agent.host.source_trial_text`).
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.source.base import Source, SourceSpec, Window, checked_window, malformed_payloads, source_faults
from wheeltapper_agent.source.deferred import as_agent_error
from wheeltapper_agent.source.opening import make_source
from wheeltapper_agent.source.recorded import ReplayConfig
from wheeltapper_agent.source.stream_config import StreamConfig
from wheeltapper_protocols.signal.quality import DataQuality, window_quality

__all__ = ["PLOT_POINTS", "choose_pipeline", "try_source"]

PLOT_POINTS: Final = 60
"""Points of a channel's plot."""
_FIRST_VALUES: Final = 8
_AT_FULL_SPEED_HZ: Final = 1e6
_PARTS: Final = 8
"""A signal whose windows take longer than this part of the time is cut into shorter ones, so that values are shown."""
_MAX_LINES: Final = 50
_JOIN_SECONDS: Final = 6.0
_LOOK_SECONDS: Final = 0.1
_AROUND: Final = re.compile(
    r"^(pipeline [^:]*: )?(the source failed: |the replay stopped: |the recording [^:]*: )?"
    r"(.*?)( \[[a-z_.]+\])?(; trying again)?$",
    re.DOTALL,
)
"""What a line of the log has around the reason."""
_RATE_FACTOR: Final = 2.0
"""Windows whose times show another rate than this are not of one continuous signal."""


def choose_pipeline(pipelines: tuple[PipelineConfig, ...], name: str) -> PipelineConfig:
    """Return the pipeline with this name, or the only one if ``name`` is empty.

    Raises:
        AgentError: ``config.pipeline``.
    """
    names = [pipeline.name for pipeline in pipelines]
    if not name and len(pipelines) == 1:
        return pipelines[0]
    for pipeline in pipelines:
        if pipeline.name == name:
            return pipeline
    known = f"the configuration has {', '.join(names)}" if names else "the configuration has none"
    raise AgentError("config.pipeline", f"name a pipeline with --pipeline: {known}")


def try_source(pipeline: PipelineConfig, seconds: float, clock: Clock) -> dict[str, Any]:
    """Take windows from the source of a pipeline for a while.

    Args:
        pipeline: its configuration.
        seconds: how long, at most.
        clock: measures the time.

    Returns:
        What came, as JSON can hold it; ``error`` is None, or the ``code`` and ``message`` of what is wrong.

    Raises:
        AgentError: ``source.*``, ``config.*``: there is no source. ``RecordingError`` likewise.
    """
    config = _shortened(pipeline.source, seconds)
    with tempfile.TemporaryDirectory(prefix="wheeltapper-try-") as folder, _heard() as lines:
        source = make_source(pipeline.name, config, Path(folder), clock)
        taken = _Taken(source, pipeline)
        began_s = clock.monotonic()
        thread = threading.Thread(target=taken.run, args=(clock,), name="source-try", daemon=True)
        source.model_ready()
        thread.start()
        while clock.monotonic() - began_s < seconds and not taken.ended.wait(_LOOK_SECONDS):
            if isinstance(config, ReplayConfig) and "." in source.state:
                break  # a file does not get better within seconds
        state = source.state
        passed_s = clock.monotonic() - began_s
        source.close()
        thread.join(_JOIN_SECONDS)
        report = taken.report(state, passed_s)
    shorter = getattr(config, "window_samples", 0) != getattr(pipeline.source, "window_samples", 0)
    said = list(dict.fromkeys(_reason(text) for text in [*lines, *(fault.text for fault in source_faults(source))]))
    return {
        "pipeline": pipeline.name,
        "kind": pipeline.source.kind,
        **report,
        "shortened_from": pipeline.source.window_samples if shorter else None,
        "said": said[:_MAX_LINES],
        "error": taken.error(state, passed_s, said),
    }


def _shortened(config: Any, seconds: float) -> Any:
    """Return a configuration that gives windows soon: a recording at once, a stream with windows that are short enough
    for the time."""
    if isinstance(config, ReplayConfig):
        return dataclasses.replace(config, rate_hz=_AT_FULL_SPEED_HZ, hold_until_model=False)
    if isinstance(config, StreamConfig) and config.framing.hop / config.sample_rate_hz > seconds / _PARTS:
        window = max(1, int(config.sample_rate_hz * seconds / _PARTS))
        return dataclasses.replace(config, window_samples=min(window, config.window_samples), hop_samples=0)
    return config


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Give the warnings that the agent's code logs meanwhile, instead of writing them."""
    lines: list[str] = []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(lines) < _MAX_LINES:
                lines.append(record.getMessage())

    log, listener = logging.getLogger("wheeltapper_agent"), _Listener(logging.WARNING)
    log.addHandler(listener)
    before, log.propagate = log.propagate, False
    try:
        yield lines
    finally:
        log.propagate = before
        log.removeHandler(listener)


def _reason(line: str) -> str:
    """What a line of the log says, without the names around it, which the report has."""
    found = _AROUND.match(line)
    return found[3] if found else line


class _Taken:
    """What the windows of a source were; :meth:`run` takes them in a thread of its own."""

    def __init__(self, source: Source, pipeline: PipelineConfig) -> None:
        self._source, self._quality = source, pipeline.quality
        self.ended = threading.Event()
        self._failure: AgentError | None = None
        self._total = DataQuality()
        self._first: Window | None = None
        self._last_t_s = 0.0
        self._arrived_s: tuple[float, float] | None = None
        self._samples = 0
        """Samples from the first window to the last, with those that are known to be missing in between."""
        self._sums: NDArray[np.float64] | None = None
        """[sum, count, sum of squares, least, greatest] by channel."""

    def run(self, clock: Clock) -> None:
        """Take windows until the source ends, is closed or raises."""
        try:
            for given in self._source.windows(0):
                self._take(checked_window(given), clock.monotonic())
        except Exception as error:  # noqa: BLE001  # a plug-in may raise anything; it is what the trial found
            self._failure = as_agent_error(error)
        finally:
            self.ended.set()

    def _take(self, window: Window, now_s: float) -> None:
        """Count one window."""
        spec = self._source.spec
        if self._first is None:
            self._first = window
            self._arrived_s = (now_s, now_s)
        else:
            self._samples += (spec.hop_samples or len(window.samples)) + window.gap_samples
            self._arrived_s = (self._arrived_s[0] if self._arrived_s else now_s, now_s)
        self._last_t_s = window.t_s
        stuck = self._quality.stuck_samples
        self._total += window_quality(
            window.samples,
            full_scale=spec.full_scale,
            stuck_samples=stuck if len(window.samples) >= stuck else 0,
            gap_samples=window.gap_samples,
            late=window.late_seconds > self._quality.late_seconds,
            late_samples=window.late_samples,
        )
        self._sums = _summed(self._sums, window.samples.astype(np.float64))

    def report(self, state: str, passed_s: float) -> dict[str, Any]:
        """What came in ``passed_s`` seconds."""
        quality = msgspec.structs.replace(
            self._total, dropped=self._source.dropped, malformed=malformed_payloads(self._source)
        )
        spec = self._spec()
        return {
            "state": state,
            "seconds": round(passed_s, 3),
            "windows": quality.windows,
            "window_samples": spec.window_samples if spec else None,
            "rate_hz": {"declared": spec.sample_rate_hz if spec else None} | self._rates(),
            "window_every_s": self._window_every_s(),
            "first_t_s": self._first.t_s if self._first else None,
            "channels": self._channels(spec) if spec else [],
            "quality": msgspec.to_builtins(quality) | {"values": quality.values, "windows": quality.windows},
        }

    def error(self, state: str, passed_s: float, said: list[str]) -> dict[str, str] | None:
        """What is wrong, if the source gave nothing or ended in an error."""
        if self._failure is not None:
            return {"code": self._failure.code, "message": self._failure.message}
        if "." in state:
            return {"code": state, "message": said[0] if said else f"the source is in the state {state}"}
        if self._first is not None:
            return None
        if said:
            return {"code": "source.no_window", "message": f"no window came: {said[0]}"}
        spec = self._spec()
        length = f"; one takes {spec.window_samples / spec.sample_rate_hz:.3g} s: see --seconds" if spec else ""
        return {"code": "source.no_window", "message": f"no window came in {passed_s:.1f} s{length}"}

    def _spec(self) -> SourceSpec | None:
        try:
            return self._source.spec
        except Exception:  # noqa: BLE001  # unknown until the device is there; the error is the state
            return None

    def _rates(self) -> dict[str, float | None]:
        """Samples a second by the times of the windows, and by when they came."""
        found: dict[str, float | None] = {"by_times": None, "by_arrival": None}
        if self._first is None or not self._samples or self._arrived_s is None:
            return found
        if (length_s := self._last_t_s - self._first.t_s) > 0:
            rate_hz, declared_hz = self._samples / length_s, self._source.spec.sample_rate_hz
            if 1 / _RATE_FACTOR < rate_hz / declared_hz < _RATE_FACTOR:
                found["by_times"] = rate_hz
        if (length_s := self._arrived_s[1] - self._arrived_s[0]) > 0:
            found["by_arrival"] = self._samples / length_s
        return found

    def _window_every_s(self) -> float | None:
        """Seconds from one window to the next, by their times."""
        if self._first is None or self._total.windows < 2:
            return None
        return (self._last_t_s - self._first.t_s) / (self._total.windows - 1)

    def _channels(self, spec: SourceSpec) -> list[dict[str, Any]]:
        """What each channel gave."""
        if self._first is None or self._sums is None:
            return [{"name": name, "unit": unit} for name, unit in zip(spec.channels, spec.units, strict=True)]
        found = []
        for index, (name, unit) in enumerate(zip(spec.channels, spec.units, strict=True)):
            total, count, squares, least, greatest = self._sums[:, index].tolist()
            values = self._first.samples[:, index]
            known = {"least": least, "greatest": greatest, "mean": total / count, "rms": (squares / count) ** 0.5}
            found.append(
                {"name": name, "unit": unit, "values": int(count)}
                | (known if count else {})
                | {"first": _finite(values[:_FIRST_VALUES]), "plot": _finite(_plotted(values))}
            )
        return found


def _summed(sums: NDArray[np.float64] | None, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a window [sample, channel] to the sums of :class:`_Taken`."""
    known = np.isfinite(samples)
    zeroed = np.where(known, samples, 0.0)
    least = np.where(known, samples, np.inf).min(axis=0)
    greatest = np.where(known, samples, -np.inf).max(axis=0)
    new = np.stack([zeroed.sum(axis=0), known.sum(axis=0), (zeroed**2).sum(axis=0), least, greatest])
    if sums is None:
        return new
    together: NDArray[np.float64] = sums + new
    together[3], together[4] = np.minimum(sums[3], new[3]), np.maximum(sums[4], new[4])
    return together


def _plotted(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """At most :data:`PLOT_POINTS` points of a window: of each part the value that is farthest from the middle, so that
    a peak is seen."""
    parts = np.array_split(values.astype(np.float64), min(PLOT_POINTS, len(values)))
    finite = values[np.isfinite(values)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    points = []
    for part in parts:
        known = part[np.isfinite(part)]
        points.append(known[np.argmax(np.abs(known - middle))] if len(known) else np.nan)
    return np.array(points)


def _finite(values: NDArray[Any]) -> list[float | None]:
    """Numbers for JSON; None where one is missing."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]
