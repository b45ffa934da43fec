"""What a simulation has come to, in numbers. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wheeltapper_fleet.sim.faults import Fault, expected_ends, kind_of

__all__ = ["Figures", "percentile", "summary"]


@dataclass
class Figures:
    """Counted while the simulation runs, over all devices."""

    connections: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Connections that ended, by reason."""
    messages: int = 0
    heard: int = 0
    unreadable: int = 0
    """Messages of the fleet that no device could read."""
    records: int = 0
    acked: int = 0
    unacknowledged: int = 0
    dropped: int = 0
    resent: int = 0
    verified: int = 0
    """Assignments whose signature held."""
    ack_seconds: array[float] = field(default_factory=lambda: array("f"))
    """For each message: from the moment that its records were made to the fleet's ack."""
    ends: dict[int, Counter[str]] = field(default_factory=dict)
    """Executions that ended, as the devices see it: by release and state."""


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that ``percent`` of ``values`` do not exceed (nearest rank); None without any."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def summary(figures: Figures, plans: Mapping[str, Sequence[Fault]], connected: int, seconds: float) -> dict[str, Any]:
    """The figures as JSON can hold them.

    Args:
        figures: what was counted.
        plans: the devices and their faults.
        connected: how many devices were connected at the end.
        seconds: how long it ran.
    """
    kinds = Counter(kind_of(fault) for faults in plans.values() for fault in faults)
    ordered = sorted(figures.ack_seconds)
    times = {f"p{percent}": percentile(ordered, percent) for percent in (50, 95, 99)}
    return {
        "devices": len(plans),
        "seconds": round(seconds, 1),
        "connected": connected,
        "connections": figures.connections,
        "lost": dict(sorted(figures.lost.items())),
        "messages": figures.messages,
        "heard": figures.heard,
        "unreadable": figures.unreadable,
        "records": figures.records,
        "acked": figures.acked,
        "unacknowledged": figures.unacknowledged,
        "dropped": figures.dropped,
        "resent": figures.resent,
        "verified_assignments": figures.verified,
        "ack_seconds": {name: None if value is None else round(value, 3) for name, value in times.items()},
        "faults": dict(sorted(kinds.items())),
        "executions": {str(release): dict(sorted(found.items())) for release, found in sorted(figures.ends.items())},
        "expected": {
            str(release): dict(sorted(expected_ends(plans, release).items())) for release in sorted(figures.ends)
        },
    }
