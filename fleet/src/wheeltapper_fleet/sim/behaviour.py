"""What all devices of a simulation have in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Behaviour"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What all devices of a simulation have in common.

    Args:
        seed: what the random numbers are drawn from.
        records_per_second: telemetry records of each pipeline.
        batch_seconds: how long records are gathered for one message.
        status_seconds: how often a status is sent when nothing changes.
        update_seconds: how long an update lasts, on average.
        resend_seconds: after this time without an ack records are sent again.
        pipelines: their names.
    """

    seed: int = 1
    records_per_second: float = 0.1
    batch_seconds: float = 10.0
    status_seconds: float = 30.0
    update_seconds: float = 10.0
    resend_seconds: float = 10.0
    pipelines: tuple[str, ...] = ("main",)
