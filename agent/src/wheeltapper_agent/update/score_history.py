"""The last windows of the release that a pipeline runs: what probation measures a new one against.

Invariants: the figures are of one release only, and begin anew with every swap; bounded in memory; what could not be
scored does not count here (the pipeline's health counts it).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.update.probation import Figures, figures
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["KEPT_WINDOWS", "Recent"]

KEPT_WINDOWS: Final = 256


class Recent:
    """Implements :class:`wheeltapper_agent.pipeline.observation.Observer`; read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._seen: deque[tuple[float, bool]] = deque(maxlen=KEPT_WINDOWS)
        self._latencies_ms: deque[float] = deque(maxlen=KEPT_WINDOWS)
        self._call = 0
        self._inherited = False
        """Whether the alert that is on was raised under the release before."""

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Remember a window that was scored."""
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
        """Nothing is left to say."""
        return ()

    def figures(self, model: str | None = None, release: int | None = None) -> Figures:
        """Of the windows of the present release; nothing if that is another than the one asked for."""
        with self._lock:
            manifest, seen, latencies_ms = self._manifest, list(self._seen), list(self._latencies_ms)
        if manifest is None or (model is not None and (manifest.model, manifest.release) != (model, release)):
            return Figures()
        return figures([score for score, _ in seen], sum(alert for _, alert in seen), latencies_ms)
