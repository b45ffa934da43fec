"""One sensor stream, from source to decision, in a thread of its own: features, model, score, verdict.

Invariants:
    * Each window that the source gives is judged once, without delay, and goes into the ledger, scored or not.
    * A disk that refuses records does not stop the scoring. An alert whose window was dropped is raised again by a
      later window.
    * Windows that are ready together are scored in one call. If they come fast and the source keeps them, the pipeline
      waits up to ``gather_seconds`` for several, because waking up for each costs more than scoring it. It does not
      wait while the source is behind.
    * A model is swapped between two windows: no window is lost and none is scored twice.
    * A failing model does not end the stream: the window is recorded without a score. Several complete windows in a row
      without a score raise an alert of its own kind (:data:`~wheeltapper_protocols.wire.messages.NO_SCORE`).
    * A model whose call does not come back counts as failing (``model.hangs``): the stream goes on in a new thread, and
      that model is not called again until another one is swapped in.
    * Nothing that happens here ends the thread but the end of the source and :meth:`Pipeline.stop`. A source that fails
      is tried again (:mod:`wheeltapper_agent.source.deferred`); what cannot be processed is counted as dropped.
    * What the source gets wrong, such as a window of another form than it says, does not count against the model.
    * A device's own baseline comes into force between two windows, and the decision then starts as after a swap.
    * A window with a missing sample (NaN) is recorded without a score, unless the release does without that channel. It
      does not count against the health of the model, and the decision stays as it was.

What this module does not do: write records (:mod:`wheeltapper_agent.pipeline.ledger`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.liveness import Pulse
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.model.bundle import MAX_BATCH, Bundle, check_input
from wheeltapper_agent.pipeline.baseline import Baseline
from wheeltapper_agent.pipeline.gathering import Gathering
from wheeltapper_agent.pipeline.health import Health, HealthCount
from wheeltapper_agent.pipeline.ledger import JudgedWindow, Ledger, call_observers
from wheeltapper_agent.pipeline.model_calls import LeftBehind, hangs
from wheeltapper_agent.pipeline.newest_score import NewestScore
from wheeltapper_agent.pipeline.observation import Observation, Observer
from wheeltapper_agent.pipeline.pace import Pace
from wheeltapper_agent.pipeline.scoring import Scoring
from wheeltapper_agent.pipeline.stream_faults import StreamFaults
from wheeltapper_agent.pipeline.verdicts import Row, counted, with_verdict
from wheeltapper_agent.pipeline.window_captures import WindowCapture, WindowCaptures
from wheeltapper_agent.records.port import Records
from wheeltapper_agent.source.base import Source, SourceSpec, Window, source_detail
from wheeltapper_agent.source.deferred import DeferredSource, SourceTrouble, standing_for
from wheeltapper_protocols.decision.decision import DecisionState, initial_state
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.quality import is_complete
from wheeltapper_protocols.wire.messages import PipelineStatus

__all__ = ["MAX_BATCH", "Health", "Pipeline", "WindowCapture", "reset_baseline"]

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0


def reset_baseline(pipelines: Mapping[str, Pipeline], name: str) -> None:
    """Let one of ``pipelines`` learn its machine anew.

    Raises:
        AgentError: ``pipeline.unknown``, ``baseline.none``, ``storage.*``.
    """
    pipeline = pipelines.get(name)
    if pipeline is None:
        raise AgentError("pipeline.unknown", f"there is no pipeline {name}")
    pipeline.baseline.reset()


class Pipeline:
    """Runs a source in a thread of its own, and scores its windows with a bundle that can be swapped.

    Args:
        name: of the pipeline.
        source: of its windows.
        records: the spool that takes the records.
        clock: the device's.
        observers: look at each window when it is written down, in this order.
        wait_seconds: how long a window that changes no alert may wait to be written down with others.
        gather_seconds: how long windows may wait to be scored together; 0: not at all.
        baseline_file: keeps what is learnt of the machine; None: it is forgotten at the end.
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
        baseline_file: Path | None = None,
    ) -> None:
        self.name = name
        self.baseline = Baseline(name, baseline_file, clock)
        self._ledger = Ledger(name, records, clock, observers, wait_seconds)
        self._live_observers: list[Observer] = []
        self._source, self._clock = standing_for(source, name, clock), clock
        self._lock = threading.Lock()
        self._bundle: Bundle | None = None
        self._next: tuple[Bundle | None] | None = None
        self._state = DecisionState()
        self._health = HealthCount(name)
        self._captures, self._windows = WindowCaptures(), 0
        self._pace, self._newest = Pace(), NewestScore()
        self._error = self._no_model_code = ""
        self._faults = StreamFaults(name, clock)
        self._broken: set[str] = set()
        self._finished, self._stopped_at = False, 0.0
        self._pulse = Pulse(clock)
        self._scoring = Scoring(name, self._source, clock, self._failed, self._source_misfits)
        self._stream: Iterator[Window | None] = iter(())
        self._begun: tuple[list[Window], DecisionState] = [], self._state
        self._stopping = StopEvent()
        self._gathering = Gathering(gather_seconds, self._source, clock, self._stopping)
        self._thread = threading.Thread(target=self._run, name=f"pipeline-{name}", daemon=True)

    @property
    def spec(self) -> SourceSpec:
        """The form of the source's windows."""
        return self._source.spec

    def alive(self) -> bool:
        """Return whether the thread runs, or ended as it should: with its source, or because it was stopped."""
        return self._thread.is_alive() or self._stopping.is_set() or self._source.state == "ended"

    def start(self) -> None:
        """Begin to take windows."""
        self._thread.start()

    def begin_to_stop(self) -> None:
        """End the stream after the present window; returns at once."""
        if not self._stopping.is_set():
            self._stopped_at = self._clock.monotonic()
        self._stopping.set()
        self._source.begin_to_close()

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """End the stream after the present window, and wait for the thread, up to ``timeout_seconds`` since it was told
        to stop; return whether it has ended."""
        self.begin_to_stop()
        if self._thread.is_alive():
            self._thread.join(max(0.05, self._stopped_at + timeout_seconds - self._clock.monotonic()))
        return not self._thread.is_alive()

    def swap(self, bundle: Bundle | None, no_model_code: str = "", *, for_hanging: bool = False) -> None:
        """Run ``bundle`` from the next window on; the health counts from zero.

        Args:
            bundle: None: score nothing.
            no_model_code: an error code for the status, where no bundle can run.
            for_hanging: only in place of a model that hangs; otherwise nothing changes.
        """
        with self._lock:
            if for_hanging and (
                self._next is not None or self._bundle is None or self._bundle is not self._scoring.hanging
            ):
                return
            self._no_model_code = no_model_code
            self._next = (bundle.for_one_stream() if bundle is not None else None,)
            self._health.swapped()
        if bundle is not None:
            self._source.model_ready()

    def health(self) -> Health:
        """Return how the model that was last swapped in is doing."""
        with self._lock:
            return self._health.now

    def add_observer(self, observer: Observer) -> None:
        """Show each window to ``observer`` as soon as it is judged, from the next window on."""
        with self._lock:
            self._live_observers = [*self._live_observers, observer]

    def remove_observer(self, observer: Observer) -> None:
        """Show ``observer`` no further windows; it may still see the present one."""
        with self._lock:
            self._live_observers = [one for one in self._live_observers if one is not observer]

    def leave_hanging_model(self, limit_seconds: float) -> bool:
        """Go on in a new thread if a call of the model takes longer than ``limit_seconds``; return whether it did.

        To be called now and then, from any other thread. The windows of that call are recorded without a score.
        """
        if not self._scoring.model_calls.give_up(limit_seconds):
            return False
        batch, self._state = self._begun
        self._scoring.hanging, self._pulse = self._bundle, Pulse(self._clock)
        if self._scoring.hanging is not None:
            self._failed(self._scoring.hanging, hangs(limit_seconds))
        self._thread = threading.Thread(target=self._run, args=(batch,), name=f"pipeline-{self.name}", daemon=True)
        self._thread.start()
        return True

    @property
    def busy_seconds(self) -> float:
        """Seconds since the windows under way were taken; 0 while the pipeline waits."""
        return self._pulse.busy_seconds

    @property
    def model_hangs(self) -> bool:
        """Whether the model that is to run is not called any more, because a call of it did not come back."""
        with self._lock:
            return self._next is None and self._bundle is not None and self._bundle is self._scoring.hanging

    def flush_due(self) -> None:
        """Write down what waited long enough, for a source that fell silent; from any thread but the pipeline's."""
        self._ledger.flush_due()

    def capture(self, capture: WindowCapture) -> None:
        """Collect the next windows for ``capture``; it ends at once if the source has ended."""
        self._captures.add(capture)
        if self._source.state == "ended":
            self._captures.end_all()

    def end_captures_due(self, now: float) -> None:
        """End the captures that expired before ``now`` (Unix seconds): a source may be silent. From any thread."""
        self._captures.end_due(now)

    def status(self) -> PipelineStatus:
        """Return what runs now, for the device's status."""
        with self._lock:
            bundle = self._next[0] if self._next is not None else self._bundle
            manifest = bundle.manifest if bundle else None
            return PipelineStatus(
                model=manifest.model if manifest else None,
                release=manifest.release if manifest else None,
                windows=self._windows,
                dropped_windows=self._source.dropped + self._ledger.dropped + self._faults.lost_windows,
                source=("spool.storage" if self._ledger.storage_failed else "")
                or self._faults.code
                or self._error
                or self._no_model_code
                or self._source.state,
                runtime=bundle.model.provider[:80] if bundle else "",
                detail=trouble.message if (trouble := self.trouble) is not None else source_detail(self._source),
                faults=self.failures,
                partly_scored=self._scoring.partly_scored,
                unknown_conditions=self._scoring.unknown_conditions,
                baseline=self.baseline.status() if bundle is not None else None,
            )

    def newest_score(self) -> tuple[NewestScore, float]:
        """Return a copy of what is known of the newest score, and the time to ask it about."""
        with self._lock:
            return replace(self._newest, pace_seconds=self.window_seconds or None), self._clock.monotonic()

    @property
    def bundle(self) -> Bundle | None:
        """The bundle that runs, or that will run from the next window on."""
        with self._lock:
            return self._next[0] if self._next is not None else self._bundle

    @property
    def budget_p95_ms(self) -> float | None:
        """The latency budget of the present model in milliseconds a window (95th percentile); None: no model."""
        bundle = self.bundle
        return bundle.manifest.budget.latency_p95_ms if bundle is not None else None

    @property
    def window_seconds(self) -> float:
        """Seconds from one window of the source to the next, as it declares and as they came; 0: unknown."""
        return self._pace.interval_seconds(self._source.interval_seconds)

    @property
    def no_model_code(self) -> str:
        """Why no model runs, where one was to be run: an error code; otherwise empty."""
        return self._no_model_code

    @property
    def source_state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""
        return self._source.state

    @property
    def finished(self) -> bool:
        """Whether the source ended by itself and its last window was judged."""
        return self._finished

    @property
    def trouble(self) -> SourceTrouble | None:
        """Why no windows are processed; None while they are."""
        return self._faults.trouble or self._source.trouble

    @property
    def failures(self) -> int:
        """Faults of the source and of this pipeline since the agent started."""
        return self._source.failures + self._faults.total

    def _run(self, left: list[Window] | None = None) -> None:
        """The pipeline's thread: take windows until the source ends or :meth:`stop` is called.

        Args:
            left: the windows that a thread before this one did not come to an end with; None: this is the first one.
        """
        while True:
            try:
                if left is None:
                    self._ledger.begin()
                    self._state = initial_state(self._ledger.open_alert, self._ledger.open_no_score)
                    left = []
                if left:
                    stream, windows, left = self._stream, left, []
                    self._take_safely(windows)
                else:
                    stream = self._stream = self._source.steps(self._ledger.next_index)
                self._take_windows(stream)
                break
            except LeftBehind:
                return
            except BaseException as error:  # noqa: BLE001  # the agent and its other pipelines go on, and so does this
                self._faults.happened(error, 0)
            if self._stopping.wait(_RETRY_SECONDS):
                break
        self._finished = self._source.state == "ended" and not self._stopping.is_set()
        call_observers(self._live_observers, None, self.name, self._broken)
        self.baseline.end(self._state)
        self._ledger.end()
        self._captures.end_all()
        while self._ledger.has_pending and not self._stopping.wait(_RETRY_SECONDS):
            self._ledger.flush_due()

    def _take_windows(self, stream: Iterator[Window | None]) -> None:
        """Take windows until the source ends or :meth:`stop` is called."""
        for window in stream:
            if window is not None:
                batch = _ready(window, stream, self._source)
                self._take_safely(batch)
                self._gathering.pause(len(batch))
            if self._stopping.is_set():
                return

    def _take_safely(self, batch: list[Window]) -> None:
        """Judge windows; a fault is counted, and ends nothing."""
        with self._pulse:
            while batch:
                try:
                    batch = batch[self._take(batch) :]
                except LeftBehind:
                    raise
                except BaseException as error:  # noqa: BLE001  # see _run
                    self._faults.happened(error, len(batch))
                    return

    def _take(self, batch: list[Window]) -> int:
        """Judge windows that follow each other, and hand them to the ledger; return how many, from the first on."""
        ended: Manifest | None = None  # the release that gave no score, and runs no longer
        with self._lock:
            if self._next is not None:
                before, (self._bundle,), self._next = self._bundle, self._next, None
                if (code := _misfit(self._bundle, self._source.spec, self.name)) is not None:
                    self._bundle, self._no_model_code = None, code
                no_score = self._state.no_score
                self._bundle, self._state = self.baseline.begin(self._bundle, self._state)
                self._health.began()
                if self._bundle is None:
                    self._newest.forget()
                    ended = before.manifest if before is not None and no_score else None
            elif (renewed := self.baseline.renewed(self._state)) is not None:
                self._bundle, self._state = renewed
            bundle, live = self._bundle, self._live_observers
            self._begun = batch, self._state
        batch = batch[: self.baseline.together(len(batch))]
        index, call = self._ledger.next_index, self._scoring.calls
        rows = self._scoring.rows(batch, bundle) if bundle is not None else [None] * len(batch)
        given = enumerate(zip(batch, rows, strict=True), index)
        judged = [self._judge(place, window, bundle, row) for place, (window, row) in given]
        if ended is not None:
            judged[0].no_score = (False, ended)
        judged[-1].items += self.baseline.turn(self._state)
        if live:
            for each in judged:
                each.items += call_observers(live, each.observation, self.name, self._broken)
        state_before_drop = self._ledger.add(judged)
        if state_before_drop is not None:
            self._state = state_before_drop
        now = self._clock.monotonic()
        self._pace.add(now, len(batch))
        with self._lock:
            self._windows += len(batch)
            self._newest.take([each.observation.verdict for each in judged], now, self._state.no_score)
            if self._next is None:
                scored = sum(each.observation.verdict is not None for each in judged)
                self._health.add(scored, self._scoring.calls - call)
        self._captures.feed(batch)
        self._faults.ended()
        return len(batch)

    def _judge(self, index: int, window: Window, bundle: Bundle | None, row: Row | None) -> JudgedWindow:
        """Return the window with its verdict, and move the decision on."""
        before = self._state
        manifest = bundle.manifest if bundle is not None else None
        observation = Observation(self.name, index, window, manifest)
        if bundle is None or manifest is None:
            return JudgedWindow(observation, before)
        if row is not None:
            try:
                self._state, observation = self._scoring.model_calls.run(with_verdict, observation, bundle, before, row)
                if observation.score is not None:
                    self._error = ""
                    self.baseline.learn(observation, *row[:2])
                elif not observation.unknown_condition and is_complete(window.samples):
                    raise AgentError("probation.not_finite", "the score is not a number")
            except Exception as error:  # noqa: BLE001  # the stream goes on; probation asks for the health
                self._failed(bundle, error)
        self._state = counted(self._state, observation, manifest, self._source.form)
        changed = self._state.no_score is not before.no_score
        return JudgedWindow(observation, before, no_score=(self._state.no_score, manifest) if changed else None)

    def _failed(self, bundle: Bundle, error: Exception) -> None:
        """Note that the model failed on a window: for its health, the status and, once, the log."""
        self._error = self._health.log(bundle, error)
        with self._lock:
            if self._next is None:
                self._health.failed(self._error)

    def _source_misfits(self) -> None:
        self._error = "source.garbage"


def _ready(window: Window, stream: Iterator[Window | None], source: DeferredSource) -> list[Window]:
    """Return ``window`` and those that ``source`` has ready after it, to score them in one call."""
    batch = [window]
    while len(batch) < MAX_BATCH and source.pending and (next_window := next(stream, None)) is not None:
        batch.append(next_window)
    return batch


def _misfit(bundle: Bundle | None, spec: SourceSpec, pipeline: str) -> str | None:
    """Return the error code of a new model that was made for windows of another form; None if it fits.

    Some sources know the form of their windows only when they are connected.
    """
    if bundle is None:
        return None
    try:
        check_input(bundle.manifest, spec)
    except AgentError as error:
        _LOG.error("pipeline %s: release %s does not fit the source: %s", pipeline, bundle.manifest.release, error)
        return error.code
    return None
