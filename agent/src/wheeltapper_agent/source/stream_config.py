"""What the configurations of all streaming sources share: how the signal looks, how it is cut, how often to retry."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceSpec
from wheeltapper_agent.source.cutter import Framing

__all__ = ["StreamConfig", "check_private", "check_shape", "read_secret"]

_MAX_CHANNELS: Final = 64
_MAX_WINDOW_VALUES: Final = 2**24
_MAX_QUEUE_VALUES: Final = 2**26
_MAX_RATE_HZ: Final = 1e7
_MAX_SECRET_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """A continuous signal. One entry a channel in ``units``, ``scale``, ``offset`` and ``full_scale``; each may be
    left out."""

    sample_rate_hz: float
    channels: tuple[str, ...] = ("x",)
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """Physical value = (number that came + offset) * scale."""
    offset: tuple[float, ...] = ()
    full_scale: tuple[float, ...] = ()
    """Largest absolute physical value that the sensor can give; beyond it, it clips."""
    window_samples: int
    hop_samples: int = 0
    """From the start of a window to the start of the next; 0: as ``window_samples``."""
    tolerance_seconds: float = 0.0
    """How far a time stamp may be off before samples count as missing; 0: see ``core/framing.py``."""
    queue_windows: int = 16
    """Windows that wait for a slow pipeline; further ones push out the oldest, which count as dropped."""
    retry_first_seconds: float = 1.0
    retry_max_seconds: float = 60.0
    silent_seconds: float = 60.0
    """Connected, but so long without a sample: the status says ``source.silent``. 0: never."""

    def __post_init__(self) -> None:
        check_shape(self)
        if not 1 <= self.queue_windows * self.window_samples * len(self.channels) <= _MAX_QUEUE_VALUES:
            raise AgentError("config.invalid", f"queue_windows must be from 1 to {_MAX_QUEUE_VALUES} values in all")
        if not 0 < self.retry_first_seconds <= self.retry_max_seconds:
            raise AgentError("config.invalid", "retry_first_seconds must be above 0 and not above retry_max_seconds")
        if self.silent_seconds < 0 or self.tolerance_seconds < 0:
            raise AgentError("config.invalid", "silent_seconds and tolerance_seconds must not be negative")

    @property
    def spec(self) -> SourceSpec:
        """What the windows look like."""
        units = self.units or ("",) * len(self.channels)
        return SourceSpec(
            self.sample_rate_hz, self.window_samples, self.channels, units, self.full_scale, self.hop_samples
        )

    @property
    def framing(self) -> Framing:
        """How the stream is cut."""
        return Framing(
            self.sample_rate_hz, len(self.channels), self.window_samples, self.hop_samples, self.tolerance_seconds
        )


def check_shape(config: StreamConfig) -> None:
    """Refuse what no stream can look like.

    Raises:
        AgentError: ``config.invalid``.
    """
    count = len(config.channels)
    if not 0 < config.sample_rate_hz <= _MAX_RATE_HZ:
        raise AgentError("config.invalid", f"sample_rate_hz must be above 0 and at most {_MAX_RATE_HZ:g}")
    if not 1 <= count <= _MAX_CHANNELS or len(set(config.channels)) != count or not all(config.channels):
        raise AgentError("config.invalid", f"channels must be 1 to {_MAX_CHANNELS} different names")
    if config.window_samples < 1 or config.window_samples * count > _MAX_WINDOW_VALUES:
        raise AgentError("config.invalid", f"window_samples must be from 1 to {_MAX_WINDOW_VALUES} values in all")
    if config.hop_samples < 0:
        raise AgentError("config.invalid", "hop_samples must not be negative")
    for name in ("units", "scale", "offset", "full_scale"):
        entries = getattr(config, name)
        if entries and len(entries) != count:
            raise AgentError("config.invalid", f"{name} must have one entry a channel: {count}")
    if not all(math.isfinite(scale) and scale != 0 for scale in config.scale):
        raise AgentError("config.invalid", "scale must not be 0")
    if not all(limit > 0 for limit in config.full_scale):
        raise AgentError("config.invalid", "full_scale must be above 0")


def check_private(path: Path) -> None:
    """Refuse a file that others than its owner may read.

    Raises:
        AgentError: ``source.secret``.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise AgentError("source.secret", f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise AgentError("source.secret", f"{path} must be a file that only its owner can read: chmod 600 {path}")


def read_secret(path: Path) -> str:
    """The secret in a file of mode 0600, without the line end.

    Raises:
        AgentError: ``source.secret``.
    """
    check_private(path)
    try:
        with path.open("rb") as handle:
            secret = handle.read(_MAX_SECRET_BYTES + 1)
        if len(secret) > _MAX_SECRET_BYTES:
            raise AgentError("source.secret", f"{path} has more than {_MAX_SECRET_BYTES} bytes; is it the right file?")
        return secret.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise AgentError("source.secret", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AgentError("source.secret", f"{path} must be UTF-8 text") from error
