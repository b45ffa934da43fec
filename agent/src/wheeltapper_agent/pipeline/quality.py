"""Data quality of one pipeline since the agent started, for its status.

Counts are kept for every window that the source gave, scored or not. See :mod:`wheeltapper_protocols.signal.quality`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wheeltapper_agent.pipeline.config import QualityConfig
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Source, malformed_payloads
from wheeltapper_protocols.signal.quality import DataQuality, StuckRuns, window_quality
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["QualityObserver"]


class QualityObserver:
    """Adds up what was wrong with each window; see :class:`~wheeltapper_agent.pipeline.observation.Observer`.

    Args:
        source: of the windows; asked for its full scale with the windows: some devices only tell when they are there.
        config: what counts as bad.
    """

    def __init__(self, source: Source, config: QualityConfig) -> None:
        self._source = source
        self._config = config
        self._full_scale: tuple[float, ...] = ()
        self._runs = StuckRuns(config.stuck_samples)
        self._total = DataQuality()
        """Replaced, never changed: any thread may read it."""

    @property
    def total(self) -> DataQuality:
        """Without ``dropped``, which the pipeline counts; from any thread."""
        malformed = malformed_payloads(self._source)
        return msgspec.structs.replace(self._total, malformed=malformed) if malformed else self._total

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Count; nothing is to be said of a single window."""
        if not self._full_scale:
            self._full_scale = self._source.spec.full_scale
        window, stuck_samples = seen.window, self._config.stuck_samples
        short = len(window.samples) < stuck_samples
        found = window_quality(
            window.samples,
            full_scale=self._full_scale,
            stuck_samples=0 if short else stuck_samples,
            gap_samples=window.gap_samples,
            late=window.late_seconds > self._config.late_seconds,
            late_samples=window.late_samples,
            whole=seen.verdict is not None,  # what has a verdict was searched for missing values
        )
        if short and len(window.samples):
            fresh = min(self._source.spec.hop_samples or len(window.samples), len(window.samples))
            stuck = self._runs.count(window.samples, fresh, window.gap_samples > 0)
            found = msgspec.structs.replace(found, stuck=stuck)
        self._total += found
        return ()

    def end(self) -> Sequence[Alert | Report]:
        """Nothing more."""
        return ()
