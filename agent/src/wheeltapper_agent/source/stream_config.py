"""The keys that the configurations of all streaming sources share: the signal, how it is cut into windows, how to
retry. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

from wheeltapper_agent.ground.bounds import DAY_SECONDS, YEAR_SECONDS, Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceSpec
from wheeltapper_agent.source.cutter import Framing

__all__ = ["FACTOR", "StreamConfig", "check_shape"]

FACTOR: Final = Bounds(-1e15, 1e15)
"""Of a scale, an offset or a full scale."""
_MAX_CHANNELS: Final = 64
_MAX_WINDOW_VALUES: Final = 2**24
_MAX_QUEUE_VALUES: Final = 2**26
_MAX_RATE_HZ: Final = 1e7


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """A continuous signal.

    ``units``, ``scale``, ``offset`` and ``full_scale`` have one entry for each channel, or none.
    """

    sample_rate_hz: Annotated[float, Bounds(1e-6, 1e7, "Hz")]
    channels: tuple[str, ...] = ("x",)
    units: tuple[str, ...] = ()
    scale: tuple[Annotated[float, FACTOR], ...] = ()
    """Physical value = (number received + offset) * scale."""
    offset: tuple[Annotated[float, FACTOR], ...] = ()
    full_scale: tuple[Annotated[float, FACTOR], ...] = ()
    """Largest absolute physical value that the sensor can give; it clips beyond that."""
    window_samples: Annotated[int, Bounds(1, 2**24, "samples")]
    hop_samples: Annotated[int, Bounds(0, 2**24, "samples")] = 0
    """From the start of a window to the start of the next; 0: the same as ``window_samples``."""
    tolerance_seconds: Annotated[float, Bounds(0, DAY_SECONDS, "seconds")] = 0.0
    """How far a time stamp may be off before samples count as missing; 0: see
    :class:`~wheeltapper_agent.source.cutter.Framing`."""
    queue_windows: Annotated[int, Bounds(1, 2**20, "windows")] = 16
    """Number of windows that wait for a slow pipeline. A further one pushes out the oldest, which counts as dropped."""
    retry_first_seconds: Annotated[float, Bounds(0.01, 3600, "seconds")] = 1.0
    retry_max_seconds: Annotated[float, Bounds(0.01, 3600, "seconds")] = 60.0
    silent_seconds: Annotated[float, Bounds(0.01, YEAR_SECONDS, "seconds", zero="never")] = 60.0
    """If no sample comes for so long while the source is connected, the status says ``source.silent``; 0: never."""

    def __post_init__(self) -> None:
        check_shape(self)
        if not 1 <= self.queue_windows * self.window_samples * len(self.channels) <= _MAX_QUEUE_VALUES:
            raise AgentError(
                "config.invalid", f"queue_windows must be at least 1 and give at most {_MAX_QUEUE_VALUES} values in all"
            )
        if not 0 < self.retry_first_seconds <= self.retry_max_seconds:
            raise AgentError("config.invalid", "retry_first_seconds must be above 0 and not above retry_max_seconds")
        if self.silent_seconds < 0 or self.tolerance_seconds < 0:
            raise AgentError("config.invalid", "silent_seconds and tolerance_seconds must not be negative")

    @property
    def at_no_fixed_rate(self) -> bool:
        """Whether samples come at no fixed rate; ``sample_rate_hz`` is then only the usual one."""
        return False

    @property
    def spec(self) -> SourceSpec:
        """The form of the windows."""
        units = self.units or ("",) * len(self.channels)
        return SourceSpec(
            self.sample_rate_hz,
            self.window_samples,
            self.channels,
            units,
            self.full_scale,
            self.hop_samples,
            self.at_no_fixed_rate,
        )

    @property
    def framing(self) -> Framing:
        """How the stream is cut into windows."""
        return Framing(
            self.sample_rate_hz,
            len(self.channels),
            self.window_samples,
            self.hop_samples,
            self.tolerance_seconds,
            self.at_no_fixed_rate,
        )


def check_shape(config: StreamConfig) -> None:
    """Refuse a signal that cannot exist or that would take too much memory.

    Raises:
        AgentError: ``config.invalid``.
    """
    count = len(config.channels)
    if not 0 < config.sample_rate_hz <= _MAX_RATE_HZ:
        raise AgentError("config.invalid", f"sample_rate_hz must be above 0 and at most {_MAX_RATE_HZ:g}")
    if not 1 <= count <= _MAX_CHANNELS or len(set(config.channels)) != count or not all(config.channels):
        raise AgentError("config.invalid", f"channels must have 1 to {_MAX_CHANNELS} different names")
    if config.window_samples < 1 or config.window_samples * count > _MAX_WINDOW_VALUES:
        raise AgentError(
            "config.invalid", f"window_samples must be at least 1 and give at most {_MAX_WINDOW_VALUES} values in all"
        )
    if config.hop_samples < 0:
        raise AgentError("config.invalid", "hop_samples must not be negative")
    for name in ("units", "scale", "offset", "full_scale"):
        entries = getattr(config, name)
        if entries and len(entries) != count:
            raise AgentError("config.invalid", f"{name} must have one entry for each channel: {count}")
    if not all(math.isfinite(scale) and scale != 0 for scale in config.scale):
        raise AgentError("config.invalid", "scale must be a finite number and not 0")
    if not all(limit > 0 for limit in config.full_scale):
        raise AgentError("config.invalid", "full_scale must be above 0")
