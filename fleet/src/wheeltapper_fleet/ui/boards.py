"""The routers of the pages of lists and records, in the order in which they are asked."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from wheeltapper_fleet.ui import bulk, campaigns, data, health, learning, models, settings, trust, value

__all__ = ["ROUTERS"]

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    each.router for each in (bulk, health, campaigns, data, learning, models, trust, value, settings)
)
