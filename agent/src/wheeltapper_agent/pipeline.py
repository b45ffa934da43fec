"""One sensor stream: source → features → network → score → decision → records.

Invariants:
    * Each window that the source gives becomes exactly one telemetry record, scored or not; indices have no gaps.
    * A disk that refuses does not stop the scoring: up to :data:`MAX_PENDING` windows wait for it, further ones are
      counted as dropped and take no index; an alert of such a window is raised again by a later one.
    * A model is swapped between two windows; none is lost and none is scored twice.
    * Nothing that a model does ends the stream: a window that cannot be scored is recorded without a score.
    * A window with a missing sample (NaN) is recorded without a score. That is the data's fault, not the model's: it
      says nothing of its health, and the decision waits as it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import msgspec
import numpy as np

from wheeltapper_agent.bundle import Bundle, Evaluation
from wheeltapper_agent.errors import AgentError
from wheeltapper_agent.liveness import Pulse
from wheeltapper_agent.ports import (
    NO_EPOCH,
    Clock,
    Observation,
    Observer,
    Records,
    Source,
    SourceSpec,
    Window,
    pending_windows,
)
from wheeltapper_protocols.decision import DecisionState, Verdict
from wheeltapper_protocols.manifest import Manifest
from wheeltapper_protocols.messages import Alert, PipelineStatus, Report, TelemetryRecord
from wheeltapper_protocols.quality import complete

__all__ = ["MAX_BATCH", "MAX_PENDING", "Captured", "Health", "Pipeline"]

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0
Item: TypeAlias = TelemetryRecord | Alert | Report
MAX_BATCH: Final = 32
"""Windows that are scored in one call."""
MAX_PENDING: Final = 600
"""Windows whose records wait for the spool."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the present model did since it was put in: windows scored, and the code of the first error."""

    windows: int = 0
    error: str = ""


@dataclass(slots=True)
class Captured:
    """A capture under way. ``done`` is called in the pipeline's thread with the windows when ``wanted`` are there, or
    with fewer at the
    end of the source."""

    wanted: int
    done: Callable[[list[Window]], None]
    windows: list[Window] = field(default_factory=list)


@dataclass(slots=True)
class _Judged:
    """A window on its way through :meth:`Pipeline._take`: its record, what observers see, an alert, the decision after
    it."""

    record: TelemetryRecord
    seen: Observation
    alert: Alert | None = None
    state: DecisionState | None = None

    def items(self) -> tuple[Item, ...]:
        """What to append of it."""
        return (self.record,) if self.alert is None else (self.record, self.alert)


class Pipeline:
    """Runs a source in a thread of its own.

    Args:
        name: of the pipeline.
        source: of its windows.
        records: where what is said of them goes.
        clock: time.
        observers: what else looks at each window, in this order.
    """

    def __init__(
        self, name: str, source: Source, records: Records, clock: Clock, observers: Sequence[Observer] = ()
    ) -> None:
        self.name = name
        self._observers = list(observers)
        self._source = source
        self._records = records
        self._clock = clock
        self._lock = threading.Lock()
        self._bundle: Bundle | None = None
        self._next: tuple[Bundle | None] | None = None
        self._state = DecisionState()
        self._health = Health()
        self._captures: list[Captured] = []
        self._windows = 0
        self._dropped = 0
        self._pending: list[tuple[Item, ...]] = []
        self._storage_failed = False
        self._error = ""
        self._broken: set[str] = set()
        self.pulse = Pulse(clock)
        self._stopping = threading.Event()
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

    def swap(self, bundle: Bundle | None) -> None:
        """Run ``bundle`` from the next window on; its health starts anew."""
        with self._lock:
            self._next = (bundle,)
            self._health = Health()
        if bundle is not None:
            self._source.model_ready()

    def health(self) -> Health:
        """How the model last swapped in is doing."""
        with self._lock:
            return self._health

    def add_observer(self, observer: Observer) -> None:
        """Let ``observer`` look at the windows from the next one on."""
        with self._lock:
            self._observers = [*self._observers, observer]

    def remove_observer(self, observer: Observer) -> None:
        """End that; a window under way may still be shown to it."""
        with self._lock:
            self._observers = [one for one in self._observers if one is not observer]

    def capture(self, captured: Captured) -> None:
        """Collect the next windows."""
        with self._lock:
            self._captures.append(captured)
        if self._source.state == "ended":
            self._end_captures()

    def status(self) -> PipelineStatus:
        """What runs now."""
        with self._lock:
            bundle = self._next[0] if self._next is not None else self._bundle
            manifest = bundle.manifest if bundle else None
            return PipelineStatus(
                model=manifest.model if manifest else None,
                release=manifest.release if manifest else None,
                windows=self._windows,
                dropped_windows=self._source.dropped + self._dropped,
                source=("spool.storage" if self._storage_failed else "") or self._error or self._source.state,
                runtime=bundle.model.provider[:80] if bundle else "",
            )

    @property
    def budget_p95_ms(self) -> float | None:
        """What the manifest of the present model allows it; None without a model."""
        with self._lock:
            bundle = self._next[0] if self._next is not None else self._bundle
        return bundle.manifest.budget.latency_p95_ms if bundle is not None else None

    @property
    def source_state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""
        return self._source.state

    def _run(self) -> None:
        try:
            index = self._records.next_window(self.name)
            stream = self._source.windows(index)
            for window in stream:
                with self.pulse.busy():
                    index += self._take(index, self._ready(window, stream))
                if self._stopping.is_set():
                    return
        except Exception:  # noqa: BLE001  # logged; the agent must outlive it
            _LOG.exception("pipeline %s: source.failed: the stream ended", self.name)
            self._error = "source.failed"
        finally:
            self._keep([tuple(said)] if (said := self._observed(None)) else [])
        self._end_captures()
        while self._pending and not self._stopping.wait(_RETRY_SECONDS):
            self._flush()

    def _ready(self, window: Window, stream: Iterator[Window]) -> list[Window]:
        """``window`` and those after it that the source has already: they are scored in one call."""
        batch = [window]
        while (
            len(batch) < MAX_BATCH and pending_windows(self._source) and (following := next(stream, None)) is not None
        ):
            batch.append(following)
        return batch

    def _take(self, first: int, batch: list[Window]) -> int:
        """Score and record windows that follow each other; returns how many indices they took."""
        with self._lock:
            if self._next is not None:
                (self._bundle,), self._next = self._next, None
                self._state = DecisionState()
            bundle = self._bundle
        before = self._state
        judged = [self._unscored(first + row, window, bundle) for row, window in enumerate(batch)]
        scorable = [each for each in judged if bundle is not None and complete(each.seen.window.samples)]
        if bundle is not None and scorable:
            self._score(scorable, bundle)
        kept = self._keep([(*each.items(), *self._observed(each.seen)) for each in judged])
        if kept < len(batch):
            self._dropped += len(batch) - kept
            # An alert that was dropped is raised again by a later window.
            self._state = next((each.state for each in reversed(judged[:kept]) if each.state is not None), before)
        self._windows += len(batch)
        for window in batch:
            self._feed_captures(window)
        return kept

    def _observed(self, seen: Observation | None) -> list[Item]:
        """What the observers say of a window, or (None) at the end of the stream."""
        said: list[Item] = []
        with self._lock:
            observers = self._observers
        for observer in observers:
            try:
                said += observer.end() if seen is None else observer.observe(seen)
            except Exception:  # noqa: BLE001  # an observer must not end the stream
                if type(observer).__name__ not in self._broken:
                    self._broken.add(type(observer).__name__)
                    _LOG.exception("pipeline %s: %s failed", self.name, type(observer).__name__)
        return said

    def _keep(self, items: Sequence[tuple[Item, ...]]) -> int:
        """Append, with what waited before; where the disk refuses, what fits waits in memory. Returns how many of
        ``items`` were kept, the first ones."""
        self._pending += items
        if self._flush():
            return len(items)
        beyond = max(0, len(self._pending) - MAX_PENDING)
        if beyond:
            del self._pending[-beyond:]
        return max(0, len(items) - beyond)

    def _flush(self) -> bool:
        """Append what waits; False if the disk refuses."""
        if not self._pending:
            return True
        try:
            self._records.append(*(item for items in self._pending for item in items))
        except Exception as error:  # noqa: BLE001  # SQLite and the file system each have their own
            if not self._storage_failed:
                _LOG.error("pipeline %s: spool.storage: %s; records wait", self.name, error)
            self._storage_failed = True
            return False
        if self._storage_failed:
            _LOG.info("pipeline %s: the spool takes records again", self.name)
        self._pending.clear()
        self._storage_failed = False
        return True

    def _unscored(self, index: int, window: Window, bundle: Bundle | None) -> _Judged:
        manifest = bundle.manifest if bundle else None
        record = TelemetryRecord(
            seq=1,
            pipeline=self.name,
            window=index,
            t_s=max(0.0, window.t_s),
            model=manifest.model if manifest else None,
            release=manifest.release if manifest else None,
        )
        return _Judged(record, Observation(self.name, index, window, manifest))

    def _score(self, judged: Sequence[_Judged], bundle: Bundle) -> None:
        """Put into ``judged`` what the model and the decision make of its windows."""
        began = self._clock.monotonic()
        try:
            found = bundle.evaluate(np.stack([each.seen.window.samples for each in judged]))
        except Exception as error:  # noqa: BLE001  # the stream goes on and probation hears of it
            if len(judged) == 1:
                self._failed(bundle, error)
            else:  # one of them spoils the call for all
                for each in judged:
                    self._score((each,), bundle)
            return
        latency_ms = (self._clock.monotonic() - began) * 1e3 / len(judged)
        for row, each in enumerate(judged):
            try:
                self._decide(each, bundle, found, row, latency_ms)
            except Exception as error:  # noqa: BLE001  # as above
                self._failed(bundle, error)

    def _decide(self, judged: _Judged, bundle: Bundle, found: Evaluation, row: int, latency_ms: float) -> None:
        state, verdict = bundle.decide(self._state, found, row)
        self._state = judged.state = state
        if not verdict.valid:
            self._failed(bundle, AgentError("probation.not_finite", "the score is not a number"))
            return
        with self._lock:
            if self._next is None:
                self._health = Health(self._health.windows + 1, self._health.error)
        self._error = ""
        raw = float(found.scores.score[row])
        record = msgspec.structs.replace(
            judged.record,
            score=raw,
            severity=verdict.severity,
            latency_ms=latency_ms,
            label=verdict.label,
            value=verdict.value,
            zone=verdict.zone,
        )
        judged.record = record
        if verdict.changed:
            judged.alert = self._alert(record, verdict, bundle.manifest)
        judged.seen = replace(
            judged.seen, features=found.features[row], score=raw, verdict=verdict, latency_ms=latency_ms
        )

    def _alert(self, record: TelemetryRecord, verdict: Verdict, manifest: Manifest) -> Alert:
        life = manifest.remaining_life
        return Alert(
            epoch=NO_EPOCH,
            oldest=1,
            seq=1,
            pipeline=self.name,
            window=record.window,
            t_s=record.t_s,
            at=self._clock.now(),
            model=record.model or "",
            release=record.release or 1,
            score=float(verdict.score),
            severity=verdict.severity,
            raised=verdict.alert,
            reasons=list(verdict.reasons[:16]),
            label=verdict.label,
            value=verdict.value,
            unit=life.unit if life is not None else None,
            zone=verdict.zone,
        )

    def _failed(self, bundle: Bundle, error: Exception) -> None:
        code = getattr(error, "code", "runtime.run")
        if self._error != code:
            _LOG.error("pipeline %s: %s cannot score: %s", self.name, bundle.manifest.release, error)
        with self._lock:
            if self._next is None and not self._health.error:
                self._health = Health(self._health.windows, code)
        self._error = code

    def _feed_captures(self, window: Window) -> None:
        with self._lock:
            for captured in self._captures:
                captured.windows.append(window)
            full = [captured for captured in self._captures if len(captured.windows) >= captured.wanted]
            self._captures = [captured for captured in self._captures if len(captured.windows) < captured.wanted]
        for captured in full:
            captured.done(captured.windows)

    def _end_captures(self) -> None:
        with self._lock:
            ended, self._captures = self._captures, []
        for captured in ended:
            captured.done(captured.windows)
