"""The section ``[capture]`` of the configuration: what is recorded by rule, and how much uploads may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wheeltapper_agent.ground.bounds import Bounds

__all__ = ["CaptureConfig", "CaptureRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRule:
    """What is recorded of a pipeline without a command from the fleet: one ``[[capture.rules]]``."""

    pipeline: str
    """The pipeline's name, or ``*`` for every pipeline that no other rule names."""
    on_alert: bool = False
    """Record around a window that raises an alert or makes it worse."""
    on_drift: bool = False
    """Record around a window at which a drift detector fires."""
    before_windows: Annotated[int, Bounds(0, 1_000_000, "windows")] = 8
    after_windows: Annotated[int, Bounds(0, 1_000_000, "windows")] = 8
    """Windows before and after the one of the alert or the drift."""
    pause_seconds: Annotated[float, Bounds(0, 1_000_000, "seconds")] = 600.0
    """For so long after a recording, further triggers are ignored."""
    random_share: Annotated[float, Bounds(0, 1)] = 0.0
    """The share of all windows that is recorded at random, 0 to 1."""
    random_windows: Annotated[int, Bounds(1, 10_000, "windows")] = 8
    """How many random windows make one recording."""
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 1
    """Of the random choice; the same seed chooses the same windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Recordings by rule, and how much of the network connection all recordings may take."""

    bytes_per_second: Annotated[float, Bounds(100, 1e12, "bytes a second", zero="no limit")] = 262_144.0
    """Of all uploads together; 0: no limit."""
    max_mb_per_day: Annotated[float, Bounds(0.001, 1e9, "MB", zero="no limit")] = 256.0
    """Uploads of recordings by rule; 0: no limit."""
    piece_kb: Annotated[int, Bounds(1, 65_536, "KB")] = 256
    """How much one request uploads."""
    rules: tuple[CaptureRule, ...] = ()

    def rule_for(self, pipeline: str) -> CaptureRule | None:
        """The rule that names ``pipeline``, else the one for ``*``; None where there is neither."""
        by_name = {rule.pipeline: rule for rule in self.rules}
        return by_name.get(pipeline) or by_name.get("*")
