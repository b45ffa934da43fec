"""The section ``[delivery]`` of the agent's configuration: how records are sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wheeltapper_agent.ground.bounds import Bounds

__all__ = ["DeliveryConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """How records are sent to the fleet."""

    batch_seconds: Annotated[float, Bounds(0, 3600, "seconds")] = 5.0
    """How long telemetry is gathered for one message. Alerts and reports are sent at once."""
    resend_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 5.0
    """Records are sent again when the fleet did not acknowledge any for so long; doubled each time, up to a minute."""
    max_in_flight: Annotated[int, Bounds(1, 1_000_000, "records")] = 2000
    """At most so many telemetry records are sent and not acknowledged."""
    catch_up_records_per_second: Annotated[float, Bounds(0.1, 1e6, "records a second", zero="no limit")] = 2000.0
    """At most so many records a second, not counting alerts and reports made while connected. It must be more than the
    pipelines make. 0: without a bound."""
    reconnect_max_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 10.0
    """The longest wait between two attempts to connect."""
    flush_seconds: Annotated[float, Bounds(0, 60, "seconds")] = 5.0
    """How long a clean end of the agent waits for the fleet's acknowledgement."""
