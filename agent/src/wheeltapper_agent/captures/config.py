"""What is recorded by rule, and what recordings may cost: the section ``[capture]`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["CaptureConfig", "CaptureRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRule:
    """What is recorded of a pipeline without being asked for."""

    pipeline: str
    """Its name, or ``*`` for those that no other rule names."""
    on_alert: bool = False
    on_drift: bool = False
    before_windows: int = 8
    after_windows: int = 8
    """Around the window of the alert or the drift."""
    pause_seconds: float = 600.0
    """After a recording; triggers until then are ignored."""
    random_share: float = 0.0
    """Of all windows, 0 to 1."""
    random_windows: int = 8
    """So many random windows make one recording."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("before_windows", "after_windows", "pause_seconds"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise AgentError("config.invalid", f"capture.rules: {name} must be 0 to 1000000")
        if not 0 <= self.random_share <= 1 or not 1 <= self.random_windows <= 10_000:
            raise AgentError("config.invalid", "capture.rules: random_share is 0 to 1, random_windows 1 to 10000")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Recordings by rule, and how much of the uplink all recordings may take."""

    bytes_per_second: float = 262_144.0
    """0: without a bound."""
    max_mb_per_day: float = 256.0
    """Of recordings by rule; 0: without a bound."""
    piece_kb: int = 256
    rules: tuple[CaptureRule, ...] = ()

    def rule_for(self, pipeline: str) -> CaptureRule | None:
        """The rule of ``pipeline``."""
        by_name = {rule.pipeline: rule for rule in self.rules}
        return by_name.get(pipeline) or by_name.get("*")
