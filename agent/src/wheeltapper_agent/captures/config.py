"""The section ``[capture]`` of the configuration: what is recorded by rule, and how much uploads may take."""

from __future__ import annotations

from dataclasses import dataclass

from wheeltapper_agent.ground.errors import AgentError

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
    before_windows: int = 8
    after_windows: int = 8
    """Windows before and after the one of the alert or the drift."""
    pause_seconds: float = 600.0
    """For so long after a recording, further triggers are ignored."""
    random_share: float = 0.0
    """The share of all windows that is recorded at random, 0 to 1."""
    random_windows: int = 8
    """How many random windows make one recording."""
    seed: int = 1
    """Of the random choice; the same seed chooses the same windows."""

    def __post_init__(self) -> None:
        for name in ("before_windows", "after_windows", "pause_seconds"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise AgentError("config.invalid", f"capture.rules: {name} must be between 0 and 1000000")
        if not 0 <= self.random_share <= 1 or not 1 <= self.random_windows <= 10_000:
            raise AgentError(
                "config.invalid",
                "capture.rules: random_share must be between 0 and 1, random_windows between 1 and 10000",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Recordings by rule, and how much of the network connection all recordings may take."""

    bytes_per_second: float = 262_144.0
    """Of all uploads together; 0: no limit."""
    max_mb_per_day: float = 256.0
    """Uploads of recordings by rule; 0: no limit."""
    piece_kb: int = 256
    """How much one request uploads."""
    rules: tuple[CaptureRule, ...] = ()

    def rule_for(self, pipeline: str) -> CaptureRule | None:
        """The rule that names ``pipeline``, else the one for ``*``; None where there is neither."""
        by_name = {rule.pipeline: rule for rule in self.rules}
        return by_name.get(pipeline) or by_name.get("*")
