"""Counts the data quality of one pipeline since the agent started, for its status and its drift reports. Pure.

Every window that the source gives is counted, scored or not. See :mod:`wheeltapper_protocols.signal.quality`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wheeltapper_agent.ground.errors import FaultCount
from wheeltapper_agent.pipeline.config import QualityConfig
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Source, malformed_payloads, source_faults
from wheeltapper_protocols.signal.quality import DataQuality, StuckRunCounter, window_quality
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["QualityObserver"]


class QualityObserver:
    """Adds up what was wrong with each window; an :class:`~wheeltapper_agent.pipeline.observation.Observer`.

    Args:
        source: gives the windows. Its full scale is asked for with the first window, because some devices tell it only
            when they are connected.
        config: which data counts as bad.
    """

    def __init__(self, source: Source, config: QualityConfig) -> None:
        self._source = source
        self._config = config
        self._full_scale: tuple[float, ...] = ()
        self._runs = StuckRunCounter(config.stuck_samples)
        self._total = DataQuality()
        """Replaced as a whole, never changed in place: any thread may read it."""

    @property
    def total(self) -> DataQuality:
        """The counts so far, without ``dropped``, which the pipeline counts. Any thread may ask."""
        malformed = malformed_payloads(self._source)
        return msgspec.structs.replace(self._total, malformed=malformed) if malformed else self._total

    @property
    def faults(self) -> list[FaultCount]:
        """What went wrong with the source, by kind, the newest first. Any thread may ask."""
        return source_faults(self._source)

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        """Count what is wrong with the window. Returns no records."""
        if not self._full_scale:
            self._full_scale = self._source.spec.full_scale
        window, stuck_samples = observation.window, self._config.stuck_samples
        short = len(window.samples) < stuck_samples
        quality = window_quality(
            window.samples,
            full_scale=self._full_scale,
            stuck_samples=0 if short else stuck_samples,
            gap_samples=window.gap_samples,
            late=window.late_seconds > self._config.late_seconds,
            late_samples=window.late_samples,
            whole=observation.verdict is not None,  # a window with a verdict has no missing value
        )
        if short and len(window.samples):
            fresh = min(self._source.spec.hop_samples or len(window.samples), len(window.samples))
            stuck = self._runs.count(window.samples, fresh, window.gap_samples > 0)
            quality = msgspec.structs.replace(quality, stuck=stuck)
        self._total += quality
        return ()

    def end(self) -> Sequence[Alert | Report]:
        """Nothing is left to do. Returns no records."""
        return ()
