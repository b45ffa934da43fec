"""The routers of the pages of lists and records, in the order in which they are asked."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from wheeltapper_fleet.ui import campaigns, data, learning, models

__all__ = ["ROUTERS"]

ROUTERS: Final[tuple[APIRouter, ...]] = (campaigns.router, data.router, learning.router, models.router)
