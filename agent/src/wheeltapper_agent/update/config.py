"""The section ``[update]`` of the configuration: when and how releases are fetched, tried and judged."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated

from wheeltapper_agent.ground.bounds import DAY_SECONDS, YEAR_SECONDS, Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.conditions import Conditions, parse_window
from wheeltapper_agent.update.probation import ProbationRules

__all__ = ["UpdateConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """When a release may be fetched and activated, how fast, and what it must show in its trials."""

    maintenance_windows: tuple[str, ...] = ()
    """E.g. ``Mon-Fri 22:00-05:00``; empty: any time will do."""
    timezone: str = "UTC"
    """Of the maintenance windows, as in the IANA data base; ``local``: what the system is set to."""
    require_mains: bool = False
    """Wait while the device runs on its battery."""
    power_supply_dir: Path = Path("/sys/class/power_supply")
    metered_interfaces: tuple[str, ...] = ()
    """Interfaces over which nothing is fetched and no recording is uploaded, e.g. ``wwan*``."""
    route_file: Path = Path("/proc/net/route")
    disk_reserve_mb: Annotated[float, Bounds(0, 1_048_576, "MB")] = 16.0
    """Room on the disk that must stay free."""
    condition_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 5.0
    """Seconds between two looks at the conditions."""
    deadline_seconds: Annotated[float, Bounds(1, YEAR_SECONDS, "seconds", zero="no limit")] = 7 * 86400.0
    """Allowed from the assignment to the activation; 0: no limit."""
    fetch_attempts: Annotated[int, Bounds(1, 1000, "attempts")] = 5
    """Attempts in a row without progress after which fetching is given up."""
    fetch_retry_seconds: Annotated[float, Bounds(0.01, 3600, "seconds")] = 1.0
    """Before the second attempt; doubles with each one."""
    fetch_bytes_per_second: Annotated[float, Bounds(100, 1e12, "bytes a second", zero="no limit")] = 0.0
    """Fetch at most so fast, over all files; 0: no limit."""
    fetch_least_bytes_per_second: Annotated[float, Bounds(1, 1e9, "bytes a second", zero="any rate")] = 100.0
    """A server that sends less, over a minute, is given up for this attempt; 0: any rate will do."""
    metadata_retry_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 2.0
    """Before an assignment whose metadata could not be had is judged again; doubles up to a minute."""
    metadata_timeout_seconds: Annotated[float, Bounds(1, DAY_SECONDS, "seconds", zero="no limit")] = 300.0
    """For one refresh of the metadata; 0: no limit."""
    http_timeout_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 20.0
    """For connecting, for the head of a response, and for each piece of it."""
    self_test_timeout_seconds: Annotated[float, Bounds(1, DAY_SECONDS, "seconds")] = 120.0
    """For a release's first load and self-test, which happen in a child process."""
    shadow_windows: Annotated[int, Bounds(1, 1_000_000, "windows", zero="no shadow run")] = 3
    """Windows that a new release scores beside the active one; 0: no shadow run."""
    shadow_timeout_seconds: Annotated[float, Bounds(0.1, 7 * DAY_SECONDS, "seconds")] = 30.0
    """For the whole shadow run; longer for a source whose windows come seldom."""
    shadow_min_agreement: Annotated[float, Bounds(0, 1)] = 0.0
    """Share of windows (0 to 1) in which both releases must decide the same; 0: it is only reported."""
    shadow_max_load: Annotated[float, Bounds(0, 10_000)] = 8.0
    """Load average per core above which windows are left out of the shadow run."""
    probation_windows: Annotated[int, Bounds(1, 1_000_000, "windows")] = 3
    """Windows that a new release must score before it is judged."""
    probation_timeout_seconds: Annotated[float, Bounds(0.1, 7 * DAY_SECONDS, "seconds")] = 120.0
    """For the whole probation; longer for a source whose windows come seldom."""
    probation_wait_seconds: Annotated[float, Bounds(0, 30 * DAY_SECONDS, "seconds")] = float(DAY_SECONDS)
    """How long probation waits for a source that gives no windows, or none that are complete."""
    probation_max_deaths: Annotated[int, Bounds(1, 1000, "ends")] = 3
    """Unclean ends of the agent in probation after which the release goes back."""
    probation_max_shift: Annotated[float, Bounds(0.1, 1e6, "spreads", zero="not judged")] = 8.0
    """Allowed move of the median score, in robust standard deviations of the old release's scores; 0: not judged."""
    probation_alert_alpha: Annotated[float, Bounds(1e-12, 0.5, zero="not judged")] = 0.001
    """Significance level of the test for more alerts than before; 0: not judged."""
    probation_latency_ratio: Annotated[float, Bounds(1, 1e6, zero="not judged")] = 5.0
    """Allowed ratio of the median latency to the old release's, from 20 calls on; 0: not judged."""

    def __post_init__(self) -> None:
        self.conditions()

    def conditions(self) -> Conditions:
        """The conditions under which an update may go on.

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
        """The limits of probation."""
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
