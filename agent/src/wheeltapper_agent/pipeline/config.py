"""The configuration of one pipeline: an entry of ``[[pipelines]]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from wheeltapper_agent.ground.bounds import COUNT_MAX, DAY_SECONDS, Bounds
from wheeltapper_protocols.signal.quality import STUCK_SAMPLES

__all__ = ["PipelineConfig", "QualityConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """Which data counts as bad; see :mod:`wheeltapper_protocols.signal.quality`."""

    stuck_samples: Annotated[int, Bounds(2, COUNT_MAX, "samples", zero="never")] = STUCK_SAMPLES
    """From this many equal values in a row on, the sensor counts as stuck; 0: never."""
    late_seconds: Annotated[float, Bounds(0.001, DAY_SECONDS, "seconds")] = 5.0
    """A window counts as late when it comes so much later than the quickest window did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One sensor stream. ``source`` is the configuration of its kind: see :mod:`wheeltapper_agent.source.kinds`."""

    name: str
    source: Any
    quality: QualityConfig = field(default_factory=QualityConfig)
    gather_seconds: Annotated[float, Bounds(0, 10, "seconds")] = 0.5
    """How long windows may wait to be scored together in one call, which costs less than waking up for each; 0: score
    each window at once."""
