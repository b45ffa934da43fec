"""How records are sent: the section ``[delivery]`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeliveryConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """How records are sent."""

    batch_seconds: float = 5.0
    """How long telemetry is gathered for one message; alerts and reports never wait."""
    resend_seconds: float = 5.0
    max_in_flight: int = 2000
    catch_up_records_per_second: float = 2000.0
    """At most so many records a second, but for alerts and reports made while connected; must be more than the
    pipelines make. 0: without a bound."""
    reconnect_max_seconds: float = 10.0
    flush_seconds: float = 5.0
    """How long a clean end waits for the fleet's ack."""
