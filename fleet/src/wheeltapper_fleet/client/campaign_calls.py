"""Calls about campaigns, and why a device runs what it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wheeltapper_fleet.client.requests import Requests, quoted
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["CampaignCalls", "clone_campaign", "explain_device", "plan_campaign", "roll_back_campaign"]


class CampaignCalls(Requests):
    """One method for each route of campaigns that needs no more than its path and a body."""

    def create_campaign(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Create a campaign. It does not start by itself."""
        return dict(self._post("/campaigns", {"spec": dict(spec)}))

    def campaigns(self) -> list[dict[str, Any]]:
        """All campaigns, newest first."""
        return list(self.items("/campaigns"))

    def campaign(self, campaign: str) -> dict[str, Any]:
        """One campaign, its executions counted by wave and state."""
        return dict(self._get(f"/campaigns/{quoted(campaign)}"))

    def executions(self, campaign: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """The executions of a campaign, by wave and device; with ``state`` only those in that state."""
        query = {} if state is None else {"state": state}
        return self.items(f"/campaigns/{quoted(campaign)}/executions", query)

    def campaign_log(self, campaign: str) -> Iterator[dict[str, Any]]:
        """What happened to a campaign, oldest first."""
        return self.items(f"/campaigns/{quoted(campaign)}/log")

    def act(self, campaign: str, action: str, expected_version: int | None = None) -> dict[str, Any]:
        """Act on a campaign.

        Args:
            campaign: the campaign's id.
            action: ``start``, ``approve``, ``pause``, ``resume`` or ``abort``.
            expected_version: the version that the action was decided on; None takes the current one.

        Returns:
            The campaign after the action.

        Raises:
            FleetError: ``campaign.conflict``: the campaign has changed since that version.
        """
        if expected_version is None:
            expected_version = int(self.campaign(campaign)["version"])
        return dict(self._post(f"/campaigns/{quoted(campaign)}/{action}", {"expected_version": expected_version}))


def explain_device(client: Requests, device: str, pipeline: str | None = None) -> dict[str, Any]:
    """Why each pipeline of a device, or only ``pipeline``, runs what it runs."""
    return dict(client.call("GET", f"/devices/{quoted(device)}/why", pipeline=pipeline))


def plan_campaign(client: Requests, spec: Mapping[str, Any], outcome: str | None = None) -> dict[str, Any]:
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


def clone_campaign(client: Requests, campaign: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Create a campaign as another one was, with ``changes`` of its specification."""
    return dict(client.call("POST", f"/campaigns/{quoted(campaign)}/clone", {"changes": dict(changes)}))


def roll_back_campaign(client: Requests, campaign: str, release: int | None = None, why: str = "") -> dict[str, Any]:
    """End a campaign and start one that takes back what it brought; gives the new one."""
    body = {"release": release, "why": why}
    return dict(client.call("POST", f"/campaigns/{quoted(campaign)}/rollback", body))
