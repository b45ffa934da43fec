"""The campaign to the whole fleet on Mosquitto, whose connections need less memory than those of nats-server."""

from __future__ import annotations

from fleet_campaign import SIZES
from fleet_campaign import rows as campaign_rows
from rig import Row, main

__all__ = ["rows"]


def rows() -> list[Row]:
    """The figures of the largest size."""
    return campaign_rows(SIZES[-1:], on_mosquitto=True)


if __name__ == "__main__":
    main(rows, "A campaign to the whole fleet, on Mosquitto")
