"""A policy for tests."""

from __future__ import annotations

from typing import Any

EXAMPLE: dict[str, Any] = {
    "name": "fan-speed",
    "model": "fan-anomaly",
    "audience": {"query": "site = north"},
    "when": {"drift": {"devices": 0.2, "windows": 50}, "age": {"days": 365}},
    "captures": {"devices": 3, "snapshots": 20, "at_least": 2, "within_seconds": 600},
    "dataset": {"name": "fans"},
    "run": {"recipe": "anomaly", "parameters": {"condition": "speed", "healthy_fraction": 1.0}},
    "campaign": {"waves": [{"count": 1}, {}], "soak_seconds": 5},
    "budget": {"runs": 3, "campaigns": 2},
    "look_seconds": 10,
    "cool_down_seconds": 1000,
}
