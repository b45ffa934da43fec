"""The configuration of one pipeline: an entry of ``[[pipelines]]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.signal.quality import STUCK_SAMPLES

__all__ = ["PipelineConfig", "QualityConfig"]


_MAX_GATHER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """Which data counts as bad; see :mod:`wheeltapper_protocols.signal.quality`."""

    stuck_samples: int = STUCK_SAMPLES
    """From this many equal values in a row on, the sensor counts as stuck; 0: never."""
    late_seconds: float = 5.0
    """A window counts as late when it comes so much later than the quickest window did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One sensor stream. ``source`` is the configuration of its kind: see :mod:`wheeltapper_agent.source.kinds`."""

    name: str
    source: Any
    quality: QualityConfig = field(default_factory=QualityConfig)
    gather_seconds: float = 0.5
    """How long windows may wait to be scored together in one call, which costs less than waking up for each; 0: score
    each window at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.gather_seconds <= _MAX_GATHER_SECONDS:
            raise AgentError(
                "config.invalid", f"gather_seconds of {self.name} must be from 0 to {_MAX_GATHER_SECONDS:g}"
            )
