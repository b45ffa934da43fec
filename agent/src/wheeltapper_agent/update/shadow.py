"""The shadow run: a new release scores the live windows beside the active one, in spare CPU. Nobody acts on its output.

Invariants:
    * The pipeline never waits for the shadow run. A window is handed over through a bounded queue, or it is skipped and
      counted.
    * The new release runs in a thread of its own at nice 10. Not SCHED_IDLE: a thread that holds Python's lock (GIL)
      and is not given the CPU would hold up the pipeline (priority inversion).
    * Windows are skipped when the new release is behind, when the load average is above the limit, and while the active
      model alone takes more than half of the time.
    * A window that the new release cannot score is counted, and ends nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import MAX_BATCH
from wheeltapper_agent.update.comparison import Pair, compare
from wheeltapper_protocols.decision.decision import SCORE_LIMIT, DecisionState, initial_state
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import Alert, Report, ShadowReport

__all__ = ["QUEUE_WINDOWS", "Shadow", "load_per_core"]

_LOG = logging.getLogger(__name__)
QUEUE_WINDOWS: Final = MAX_BATCH
_NICE: Final = 10
_BUSY_SHARE: Final = 0.5
"""Share of time that the active model may take before windows are skipped."""
_BUSY_SECONDS: Final = 0.5
"""Over how long the active model's share of time is measured, since windows come in batches."""
_MAX_PAIRS: Final = 10_000


def load_per_core() -> float:
    """The load average of the last minute per core; 0 where the system does not have it."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


class Shadow:
    """Runs ``bundle`` beside the release that a pipeline runs.

    Implements :class:`wheeltapper_agent.pipeline.observation.Observer`.

    Args:
        bundle: the new release.
        wanted: how many windows it shall score.
        max_load: load average per core above which windows are skipped.
        clock: time.
        load: gives the load average per core.
    """

    def __init__(
        self, bundle: Bundle, wanted: int, max_load: float, clock: Clock, load: Callable[[], float] = load_per_core
    ) -> None:
        self._bundle = bundle.for_one_stream()
        self._wanted = min(wanted, _MAX_PAIRS)
        self._max_load = max_load
        self._clock = clock
        self._load = load
        self._queue: queue.Queue[Observation | None] = queue.Queue(QUEUE_WINDOWS)
        self._lock = threading.Lock()
        self._pairs: list[Pair] = []
        self._skipped = self._failed = 0
        self._active: Manifest | None = None
        self._measured_from: float | None = None
        self._active_seconds = 0.0
        self._busy = False
        self.done = threading.Event()
        """Enough windows were scored, or the stream ended."""
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Start the thread that scores."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stop after the window under way."""
        self.done.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout_seconds)

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Hand a window over if there is CPU to spare; else skip it. Returns at once."""
        self._measure_busy(seen.latency_ms or 0.0)
        if self.done.is_set() or seen.score is None or seen.verdict is None or not math.isfinite(seen.score):
            return ()
        try:
            if self._busy or self._load() > self._max_load:
                raise queue.Full
            self._queue.put_nowait(seen)
        except queue.Full:
            with self._lock:
                self._skipped += 1
        return ()

    def _measure_busy(self, latency_ms: float) -> None:
        """Measure, twice a second, whether the active model leaves time for another one."""
        now_seconds = self._clock.monotonic()
        began = self._measured_from
        self._active_seconds += latency_ms / 1e3
        if began is None or now_seconds - began >= _BUSY_SECONDS:
            self._busy = began is not None and self._active_seconds > _BUSY_SHARE * (now_seconds - began)
            self._measured_from, self._active_seconds = now_seconds, 0.0

    def end(self) -> Sequence[Alert | Report]:
        """The stream ended, so no more windows come."""
        self.done.set()
        return ()

    @property
    def offered(self) -> int:
        """Windows that the active release scored since the start of the shadow run, those left out included."""
        with self._lock:
            return len(self._pairs) + self._skipped + self._failed

    def report(self, execution: str, pipeline: str, code: str = "") -> ShadowReport:
        """The comparison so far.

        Args:
            execution: id of the execution that brings the new release.
            pipeline: name of the pipeline.
            code: stable code, where the release is refused.
        """
        with self._lock:
            pairs, skipped, failed, active = list(self._pairs), self._skipped, self._failed, self._active
        manifest = self._bundle.manifest
        plain = ShadowReport(
            execution=execution,
            pipeline=pipeline,
            model=manifest.model,
            release=manifest.release,
            active_model=active.model if active else None,
            active_release=active.release if active else None,
            windows=len(pairs),
            skipped=skipped,
            failed=failed,
            code=code,
        )
        if not pairs:
            return plain
        found = compare(pairs)
        return msgspec.structs.replace(
            plain,
            mean_difference=found.mean_difference,
            sd_difference=found.sd_difference,
            correlation=found.correlation,
            active_quantiles=list(found.active_quantiles),
            quantiles=list(found.shadow_quantiles),
            agreement=found.agreement,
            kappa=found.kappa,
            active_latency_p95_ms=found.active_latency_p95_ms,
            latency_p95_ms=found.shadow_latency_p95_ms,
        )

    def _run(self) -> None:
        """The thread: score windows from the queue until there are enough."""
        with contextlib.suppress(OSError, AttributeError):  # only Linux lets a thread have its own priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        state: DecisionState | None = None
        while not self.done.is_set():
            seen = self._queue.get()
            if seen is None:
                return
            assert seen.verdict is not None  # observe() hands over only windows that have one
            state = self._score(seen, initial_state(seen.verdict.severity) if state is None else state)
            with self._lock:
                if len(self._pairs) + self._failed >= self._wanted:
                    self.done.set()

    def _score(self, seen: Observation, state: DecisionState) -> DecisionState:
        """Score one window with the new release, and return the state of its decision after it."""
        began = self._clock.monotonic()
        try:
            found = self._bundle.evaluate(seen.window.samples[None])
            following, verdict = self._bundle.decide(state, found)
            score = float(found.scores.score[0])
        except Exception as error:  # noqa: BLE001  # a model may raise anything; probation is where it would matter
            _LOG.warning("shadow: the new release cannot score window %d: %s", seen.index, error)
            verdict = None
        latency_ms = (self._clock.monotonic() - began) * 1e3
        with self._lock:
            if verdict is None or not verdict.valid:
                self._failed += 1
                return state
            assert seen.score is not None
            assert seen.verdict is not None
            self._active = seen.manifest
            self._pairs.append(
                Pair(
                    seen.score,
                    max(-SCORE_LIMIT, min(score, SCORE_LIMIT)),
                    seen.verdict.severity.value,
                    verdict.severity.value,
                    seen.latency_ms or 0.0,
                    latency_ms,
                )
            )
        return following
