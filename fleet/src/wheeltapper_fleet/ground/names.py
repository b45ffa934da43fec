"""Names on which several rooms must agree."""

from __future__ import annotations

from typing import Final

__all__ = ["FLEET_COMMON_NAME", "FLEET_PREFIX", "fleet_name"]

FLEET_PREFIX: Final = "fleet."
"""Begins the common name of a process of the service at the broker. The dot keeps it apart from every device id."""


def fleet_name(process: str) -> str:
    """The common name of the client certificate with which ``process`` connects to the broker."""
    return FLEET_PREFIX + process


FLEET_COMMON_NAME: Final = fleet_name("ingest")
"""That of a service which is one process."""
