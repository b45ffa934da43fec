"""How releases are taken: the section ``[update]`` of the configuration."""

from __future__ import annotations

import dataclasses
import math
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.conditions import Conditions, parse_window
from wheeltapper_agent.update.probation import ProbationRules

__all__ = ["UpdateConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How releases are taken: when, how fast, and what a new one must show."""

    maintenance_windows: tuple[str, ...] = ()
    """E.g. ``Mon-Fri 22:00-05:00``; none: at any time."""
    timezone: str = "UTC"
    """Of the windows, as in the IANA data base; ``local``: what the system is set to."""
    require_mains: bool = False
    power_supply_dir: Path = Path("/sys/class/power_supply")
    metered_interfaces: tuple[str, ...] = ()
    """Interfaces over which nothing is fetched, e.g. ``wwan*``."""
    route_file: Path = Path("/proc/net/route")
    disk_reserve_mb: float = 16.0
    """What must stay free."""
    condition_seconds: float = 5.0
    """How often the conditions are looked at."""
    deadline_seconds: float = 7 * 86400.0
    """From the assignment to the activation; 0: no limit."""
    fetch_attempts: int = 5
    """In a row without a byte of progress."""
    fetch_retry_seconds: float = 1.0
    fetch_bytes_per_second: float = 0.0
    """0: as fast as it goes."""
    fetch_least_bytes_per_second: float = 100.0
    """A server that sends less, over a minute, is left; 0: not asked."""
    metadata_retry_seconds: float = 2.0
    metadata_timeout_seconds: float = 300.0
    """For the metadata of one look at the repository; 0: no limit."""
    http_timeout_seconds: float = 20.0
    """For connecting, for the head of an answer, and for each piece of it."""
    self_test_timeout_seconds: float = 120.0
    """For a release's first load and self-test, which happen in a child process."""
    shadow_windows: int = 3
    """Windows that a new release scores beside the active one; 0: no shadow run."""
    shadow_timeout_seconds: float = 30.0
    shadow_min_agreement: float = 0.0
    """Least share of windows of which both decide the same; 0: it is only reported."""
    shadow_max_load: float = 8.0
    """Load average a core above which windows are left out."""
    probation_windows: int = 3
    probation_timeout_seconds: float = 120.0
    probation_max_deaths: int = 3
    """Times that the process may end uncleanly in probation."""
    probation_max_shift: float = 8.0
    """Of the median score, in robust standard deviations of the old release's; 0: not judged."""
    probation_alert_alpha: float = 0.001
    """How seldom chance alone may look like more alerts; 0: not judged."""
    probation_latency_ratio: float = 5.0
    """Median against the old release's, from 20 calls on; 0: not judged."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
                raise AgentError("config.invalid", f"update.{entry.name} cannot be {value!r}; 0 or more is meant")
        self.conditions()

    def conditions(self) -> Conditions:
        """When an update may go on.

        Raises:
            AgentError: ``config.invalid``: a window or the time zone cannot be read.
        """
        try:
            windows = tuple(parse_window(text) for text in self.maintenance_windows)
        except ValueError as error:
            raise AgentError("config.invalid", f"update.maintenance_windows: {error}") from error
        reserve_bytes = int(self.disk_reserve_mb * 1024 * 1024)
        return Conditions(windows, self._zone(), self.require_mains, bool(self.metered_interfaces), reserve_bytes)

    def rules(self) -> ProbationRules:
        """What probation asks."""
        return ProbationRules(
            max_shift=self.probation_max_shift,
            alert_alpha=self.probation_alert_alpha,
            latency_ratio=self.probation_latency_ratio,
        )

    def _zone(self) -> tzinfo | None:
        if self.timezone in ("UTC", "local"):  # neither needs the data base, which small systems lack
            return UTC if self.timezone == "UTC" else None
        try:
            return zoneinfo.ZoneInfo(self.timezone)
        except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
            text = f"there is no time zone {self.timezone[:80]!r} here; install tzdata, or use UTC or local"
            raise AgentError("config.invalid", f"update.timezone: {text}") from error
