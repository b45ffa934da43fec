"""Calls of the admin API about campaigns that take more than one request, or more than their path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["clone_campaign", "explain_device", "plan_campaign", "roll_back_campaign"]


def explain_device(client: FleetClient, device: str, pipeline: str | None = None) -> dict[str, Any]:
    """Why each pipeline of a device, or only ``pipeline``, runs what it runs."""
    return dict(client.call("GET", f"/devices/{quote(device, safe='')}/why", pipeline=pipeline))


def plan_campaign(client: FleetClient, spec: Mapping[str, Any], outcome: str | None = None) -> dict[str, Any]:
    """What a campaign would do; nothing is stored.

    ``items`` are all devices of which ``outcome`` would come (``all``: every device); without it, none.
    """
    query = {"limit": MAX_LIMIT if outcome else 1, "outcome": None if outcome == "all" else outcome}
    plan = dict(client.call("POST", "/campaigns/plan", {"spec": dict(spec)}, **query))
    if outcome is None:
        return plan | {"items": [], "next": None}
    while (after := plan["next"]) is not None:
        more = client.call("POST", "/campaigns/plan", {"spec": dict(spec)}, **query, after=after)
        plan |= {"items": plan["items"] + more["items"], "next": more["next"]}
    return plan


def clone_campaign(client: FleetClient, campaign: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Create a campaign as another one was, with ``changes`` of its specification."""
    return dict(client.call("POST", f"/campaigns/{quote(campaign, safe='')}/clone", {"changes": dict(changes)}))


def roll_back_campaign(client: FleetClient, campaign: str, release: int | None = None, why: str = "") -> dict[str, Any]:
    """End a campaign and start one that takes back what it brought; gives the new one."""
    body = {"release": release, "why": why}
    return dict(client.call("POST", f"/campaigns/{quote(campaign, safe='')}/rollback", body))
