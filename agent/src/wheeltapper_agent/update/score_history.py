"""The last scored windows of the release that a pipeline runs: probation measures a new release against them.

Invariants:
    * The windows kept are those of one release only. The history begins anew with every swap of the model.
    * At most :data:`KEPT_WINDOWS` windows are kept.
    * A window that could not be scored is not counted here; the pipeline's health counts it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.update.probation import WindowStatistics, window_statistics
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["KEPT_WINDOWS", "ScoreHistory"]

KEPT_WINDOWS: Final = 256


class ScoreHistory:
    """Scores, alerts and latencies of the last windows of one pipeline.

    Implements :class:`wheeltapper_agent.pipeline.observation.Observer`. It may be read from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._seen: deque[tuple[float, bool]] = deque(maxlen=KEPT_WINDOWS)
        self._latencies_ms: deque[float] = deque(maxlen=KEPT_WINDOWS)
        self._call = 0
        self._inherited = False
        """Whether the alert that is on was raised under the release before."""

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Keep a window that was scored. An alert that the release before raised is not counted for this one."""
        with self._lock:
            if seen.manifest is not self._manifest:
                self._manifest = seen.manifest
                self._seen.clear()
                self._latencies_ms.clear()
                self._inherited = seen.verdict is not None and seen.verdict.alert and not seen.verdict.changed
            if seen.score is not None and seen.verdict is not None and math.isfinite(seen.score):
                self._inherited &= seen.verdict.alert and not seen.verdict.changed
                self._seen.append((seen.score, seen.verdict.alert and not self._inherited))
                if seen.call == 0 or seen.call != self._call:
                    self._latencies_ms.append(seen.latency_ms or 0.0)
                    self._call = seen.call
        return ()

    def end(self) -> Sequence[Alert | Report]:
        """The stream ended; there is nothing to report."""
        return ()

    def statistics(self, model: str | None = None, release: int | None = None) -> WindowStatistics:
        """Statistics of the windows kept.

        Args:
            model: if given, count only windows of this ``model`` and ``release``: where the pipeline runs another
                release by now, the statistics are those of no window.
            release: see ``model``.
        """
        with self._lock:
            manifest, seen, latencies_ms = self._manifest, list(self._seen), list(self._latencies_ms)
        if manifest is None or (model is not None and (manifest.model, manifest.release) != (model, release)):
            return WindowStatistics()
        return window_statistics([score for score, _ in seen], sum(alert for _, alert in seen), latencies_ms)
