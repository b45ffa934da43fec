"""One sensor stream: source → features → network → score → decision, in a thread of its own.

Invariants:
    * Each window that the source gives is judged once, at once, and goes into the :mod:`ledger`, scored or not.
    * A disk that refuses does not stop the scoring; an alert of a window that was dropped for it is raised again by a
      later one.
    * Windows that are ready together are scored in one call. Where they come fast and the source keeps them, the
      pipeline waits ``gather_seconds`` for some: waking up for each costs more than its score. A source that is behind
      is never made to wait.
    * A model is swapped between two windows; none is lost and none is scored twice.
    * Nothing that a model does ends the stream: a window that cannot be scored is recorded without a score.
    * A window with a missing sample (NaN) is recorded without a score. That is the data's fault, not the model's: it
      says nothing of its health, and the decision waits as it was.

What this module does not do: write anything down (:mod:`ledger`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock, StopEvent
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.liveness import Pulse
from wheeltapper_agent.model.bundle import MAX_BATCH, Bundle, Evaluation, check_input
from wheeltapper_agent.pipeline.ledger import Judged, Ledger, observed
from wheeltapper_agent.pipeline.observation import Observation, Observer
from wheeltapper_agent.records.port import Records
from wheeltapper_agent.source.base import Source, SourceSpec, Window, pending_windows, source_room
from wheeltapper_protocols.decision.decision import SCORE_LIMIT, DecisionState, Verdict, carried_over
from wheeltapper_protocols.signal.quality import complete
from wheeltapper_protocols.wire.messages import PipelineStatus

__all__ = ["MAX_BATCH", "Captured", "Health", "Pipeline"]

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0

_Row: TypeAlias = tuple[Evaluation, int, float, int]
"""A window's row of an evaluation, the milliseconds that it took, and the number of the call."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the present model did since it was put in: windows scored, in how many calls, the code of the first error."""

    windows: int = 0
    error: str = ""
    calls: int = 0


@dataclass(slots=True)
class Captured:
    """A capture under way. ``done`` is called once with the windows: when ``wanted`` are there, or with fewer when the
    source ends or :meth:`Pipeline.end_captures_due` finds that it is later than ``expires_at`` (Unix seconds)."""

    wanted: int
    done: Callable[[list[Window]], None]
    expires_at: float = math.inf
    windows: list[Window] = field(default_factory=list)


class Pipeline:
    """Runs a source in a thread of its own.

    Args:
        name: of the pipeline.
        source: of its windows.
        records: where what is said of them goes.
        clock: time.
        observers: what else looks at each window when it is written down, in this order.
        wait_seconds: how long a window that nobody need hear of may wait to be written down with others.
        gather_seconds: how long windows may wait to be scored together; 0: not at all.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        records: Records,
        clock: Clock,
        observers: Sequence[Observer] = (),
        wait_seconds: float = 0.0,
        gather_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self._ledger = Ledger(name, records, clock, observers, wait_seconds)
        self._live: list[Observer] = []
        self._source = source
        self._clock = clock
        self._gather_seconds = gather_seconds
        self._turn_at = clock.monotonic()
        self._lock = threading.Lock()
        self._bundle: Bundle | None = None
        self._next: tuple[Bundle | None] | None = None
        self._state = DecisionState()
        self._scored = 0
        self._call = self._calls = 0
        self._first_error = ""
        self._captures: list[Captured] = []
        self._windows = 0
        self._last: Verdict | None = None
        self._error = ""
        self._broken: set[str] = set()
        self._over = False
        self._why_none = ""
        self.pulse = Pulse(clock)
        self._stopping = StopEvent()
        self._thread = threading.Thread(target=self._run, name=f"pipeline-{name}", daemon=True)

    @property
    def spec(self) -> SourceSpec:
        """What the windows look like."""
        return self._source.spec

    def alive(self) -> bool:
        """Whether the thread runs, or ended as it should: with its source, or because it was stopped."""
        return self._thread.is_alive() or self._stopping.is_set() or self._source.state == "ended"

    def start(self) -> None:
        """Begin to take windows."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the stream after the window under way."""
        self._stopping.set()
        self._source.close()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def swap(self, bundle: Bundle | None, why_none: str = "") -> None:
        """Run ``bundle`` from the next window on; its health starts anew. ``why_none``: a code for the status."""
        with self._lock:
            self._why_none = why_none
            self._next = (bundle.for_one_stream() if bundle is not None else None,)
            self._scored, self._first_error, self._calls = 0, "", 0
        if bundle is not None:
            self._source.model_ready()

    def health(self) -> Health:
        """How the model last swapped in is doing."""
        with self._lock:
            return Health(self._scored, self._first_error, self._calls)

    def add_observer(self, observer: Observer) -> None:
        """Let ``observer`` look at each window from the next one on as soon as it is judged."""
        with self._lock:
            self._live = [*self._live, observer]

    def remove_observer(self, observer: Observer) -> None:
        """End that; a window under way may still be shown to it."""
        with self._lock:
            self._live = [one for one in self._live if one is not observer]

    def settle_due(self) -> None:
        """Write down what waited long enough: for a source that fell silent. From any thread but the pipeline's."""
        self._ledger.settle_due()

    def capture(self, captured: Captured) -> None:
        """Collect the next windows."""
        with self._lock:
            self._captures.append(captured)
        if self._source.state == "ended":
            self._end_captures()

    def end_captures_due(self, now: float) -> None:
        """End the captures that had until before ``now`` (Unix seconds): a source may be silent. From any thread."""
        self._end_captures(lambda captured: captured.expires_at < now)

    def status(self) -> PipelineStatus:
        """What runs now."""
        with self._lock:
            bundle = self._next[0] if self._next is not None else self._bundle
            manifest = bundle.manifest if bundle else None
            return PipelineStatus(
                model=manifest.model if manifest else None,
                release=manifest.release if manifest else None,
                windows=self._windows,
                dropped_windows=self._source.dropped + self._ledger.dropped,
                source=("spool.storage" if self._ledger.storage_failed else "")
                or self._error
                or self._why_none
                or self._source.state,
                runtime=bundle.model.provider[:80] if bundle else "",
            )

    @property
    def last(self) -> Verdict | None:
        """What the newest window came to; None where it was not scored."""
        return self._last

    @property
    def bundle(self) -> Bundle | None:
        """What runs, or will from the next window on."""
        with self._lock:
            return self._next[0] if self._next is not None else self._bundle

    @property
    def budget_p95_ms(self) -> float | None:
        """What the manifest of the present model allows it; None without a model."""
        bundle = self.bundle
        return bundle.manifest.budget.latency_p95_ms if bundle is not None else None

    @property
    def source_state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""
        return self._source.state

    @property
    def over(self) -> bool:
        """Whether the source ended by itself and its last window was judged."""
        return self._over

    def _run(self) -> None:
        try:
            first = self._ledger.begin()
            self._state = carried_over(self._ledger.open_alert)
            stream = self._source.windows(first)
            for window in stream:
                with self.pulse:
                    batch = self._ready(window, stream)
                    self._take(batch)
                if self._gather_seconds:
                    self._gather(len(batch))
                if self._stopping.is_set():
                    return
        except Exception:  # noqa: BLE001  # logged; the agent must outlive it
            _LOG.exception("pipeline %s: source.failed: the stream ended", self.name)
            self._error = "source.failed"
        finally:
            self._over = self._source.state == "ended" and not self._stopping.is_set()
            observed(self._live, None, self.name, self._broken)
            self._ledger.end()
        self._end_captures()
        while self._ledger.waits and not self._stopping.wait(_RETRY_SECONDS):
            self._ledger.settle_due()

    def _ready(self, window: Window, stream: Iterator[Window]) -> list[Window]:
        """``window`` and those after it that the source has already: they are scored in one call."""
        batch = [window]
        while (
            len(batch) < MAX_BATCH and pending_windows(self._source) and (following := next(stream, None)) is not None
        ):
            batch.append(following)
        return batch

    def _gather(self, count: int) -> None:
        """Let windows come together, after ``count`` of them."""
        now = self._clock.monotonic()
        interval, self._turn_at = (now - self._turn_at) / count, now
        wait = min(self._gather_seconds, interval * min(MAX_BATCH, source_room(self._source)) / 2)
        if wait > 2 * interval and not pending_windows(self._source):
            self._stopping.wait(wait)

    def _take(self, batch: list[Window]) -> None:
        """Judge windows that follow each other."""
        with self._lock:
            if self._next is not None:
                (self._bundle,), self._next = self._next, None
                self._state = carried_over(self._state.severity)
                self._check_input()
            bundle, live = self._bundle, self._live
        index, call = self._ledger.following, self._call
        rows = self._evaluate(batch, bundle) if bundle is not None else [None] * len(batch)
        judged = [
            self._judge(index + place, window, bundle, row)
            for place, (window, row) in enumerate(zip(batch, rows, strict=True))
        ]
        if live:
            for each in judged:
                each.said += observed(live, each.seen, self.name, self._broken)
        again = self._ledger.add(judged)
        if again is not None:
            self._state = again
        with self._lock:
            self._windows += len(batch)
            self._last = judged[-1].seen.verdict
            if self._next is None:
                self._scored += sum(each.seen.verdict is not None for each in judged)
                self._calls += self._call - call
        if self._captures:
            for window in batch:
                self._feed_captures(window)

    def _check_input(self) -> None:
        """Let go of a model that was made for other windows: what a source gives may only be known when it is there.
        The lock is held."""
        if self._bundle is None:
            return
        try:
            check_input(self._bundle.manifest, self._source.spec)
        except AgentError as error:
            _LOG.error("pipeline %s: %s cannot run here: %s", self.name, self._bundle.manifest.release, error)
            self._bundle, self._why_none = None, error.code

    def _evaluate(self, batch: Sequence[Window], bundle: Bundle) -> list[_Row | None]:
        """What the model makes of windows; None where it fails, or where samples are missing and it would not show."""
        rows: list[_Row | None] = [None] * len(batch)
        usable = [row for row, each in enumerate(batch) if bundle.propagates_nan or complete(each.samples)]
        if not usable:
            return rows
        began = self._clock.monotonic()
        try:
            found = bundle.evaluate(_stacked([batch[row].samples for row in usable]))
        except Exception as error:  # noqa: BLE001  # the stream goes on and probation hears of it
            if len(usable) == 1:
                self._failed(bundle, error)
                return rows
            for row in usable:  # one of them spoils the call for all
                rows[row] = self._evaluate((batch[row],), bundle)[0]
            return rows
        latency_ms = (self._clock.monotonic() - began) * 1e3 / len(usable)
        self._call += 1
        for place, row in enumerate(usable):
            rows[row] = (found, place, latency_ms, self._call)
        return rows

    def _judge(self, index: int, window: Window, bundle: Bundle | None, row: _Row | None) -> Judged:
        """Take a window into account."""
        before = self._state
        manifest = bundle.manifest if bundle is not None else None
        if bundle is not None and row is not None:
            found, place, latency_ms, call = row
            try:
                state, verdict = bundle.decide(before, found, place)
                if verdict.value is not None and not math.isfinite(verdict.value):
                    raise AgentError("probation.not_finite", "what remains is not a number")
                if verdict.valid:
                    self._state, self._error = state, ""
                    score = max(-SCORE_LIMIT, min(float(found.scores.score[place]), SCORE_LIMIT))
                    return Judged(
                        Observation(
                            self.name, index, window, manifest, found.features[place], score, verdict, latency_ms, call
                        ),
                        before,
                    )
                if not bundle.propagates_nan or complete(window.samples):
                    raise AgentError("probation.not_finite", "the score is not a number")
            except Exception as error:  # noqa: BLE001  # the stream goes on and probation hears of it
                self._failed(bundle, error)
        return Judged(Observation(self.name, index, window, manifest), before)

    def _failed(self, bundle: Bundle, error: Exception) -> None:
        code = getattr(error, "code", "runtime.run")
        if self._error != code:
            _LOG.error("pipeline %s: %s cannot score: %s", self.name, bundle.manifest.release, error)
        with self._lock:
            if self._next is None and not self._first_error:
                self._first_error = code
        self._error = code

    def _feed_captures(self, window: Window) -> None:
        with self._lock:
            for captured in self._captures:
                captured.windows.append(window)
        self._end_captures(lambda captured: len(captured.windows) >= captured.wanted)

    def _end_captures(self, over: Callable[[Captured], bool] = lambda _: True) -> None:
        with self._lock:
            ended = [captured for captured in self._captures if over(captured)]
            self._captures = [captured for captured in self._captures if not over(captured)]
        for captured in ended:
            captured.done(captured.windows)


def _stacked(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """[window, sample, channel]; a single window is not copied."""
    return samples[0][None] if len(samples) == 1 else np.stack(samples)
