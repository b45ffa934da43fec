"""One pipeline: an entry of ``[[pipelines]]`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.signal.quality import STUCK_SAMPLES

__all__ = ["PipelineConfig", "QualityConfig"]


_MAX_GATHER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """What counts as bad data."""

    stuck_samples: int = STUCK_SAMPLES
    """Length from which a run of equal values is a stuck sensor; 0: never."""
    late_seconds: float = 5.0
    """How much later than the quickest a window may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One sensor stream. ``source`` is the configuration of its kind: see :mod:`wheeltapper_agent.source.kinds`."""

    name: str
    source: Any
    quality: QualityConfig = field(default_factory=QualityConfig)
    gather_seconds: float = 0.5
    """How long windows that come fast may wait to be scored together, which costs less than waking up for each; 0: each
    is scored at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.gather_seconds <= _MAX_GATHER_SECONDS:
            raise AgentError(
                "config.invalid", f"gather_seconds of {self.name} must be from 0 to {_MAX_GATHER_SECONDS:g}"
            )
