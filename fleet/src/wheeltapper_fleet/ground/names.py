"""Names on which several rooms must agree."""

from __future__ import annotations

from typing import Final

__all__ = ["FLEET_COMMON_NAME"]

FLEET_COMMON_NAME: Final = "fleet.ingest"
"""Common name of the service's own client certificate at the broker. The dot keeps it apart from every device id."""
