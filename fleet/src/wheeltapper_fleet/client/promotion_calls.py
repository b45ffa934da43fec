"""Calls about promotions: the rules of aliases, who asks that an alias should name a release, who approves."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted

__all__ = ["PromotionCalls"]


class PromotionCalls(Requests):
    """One method for each route of promotions."""

    def promotion_rules(self, model: str | None = None) -> list[dict[str, Any]]:
        """The rules of all aliases, or of those of a model."""
        return list(self.items("/promotion-rules", {} if model is None else {"model": model}))

    def promotion_rule(self, model: str, alias: str) -> dict[str, Any]:
        """What an alias asks of a release."""
        return dict(self._get(_rule(model, alias)))

    def set_promotion_rule(
        self, model: str, alias: str, rule: Mapping[str, Any], why: str = "", if_match: str | None = None
    ) -> dict[str, Any]:
        """Let an alias have a rule; with ``if_match`` only if its version is still that one."""
        return dict(self._change(_rule(model, alias), {"rule": dict(rule), "why": why}, if_match, "PUT"))

    def remove_promotion_rule(self, model: str, alias: str, why: str = "", if_match: str | None = None) -> None:
        """Let an alias ask nothing of a release."""
        self._change(f"{_rule(model, alias)}/remove", {"why": why}, if_match, "POST")

    def request_promotion(self, model: str, alias: str, release: int, why: str = "") -> dict[str, Any]:
        """Ask that an alias should name a release as soon as its rule is met."""
        body = {"model": model, "alias": alias, "release": release, "why": why}
        return dict(self._send("POST", f"{PREFIX}/promotions", json=body).json())

    def promotions(self, limit: int = 100, **query: Any) -> list[dict[str, Any]]:
        """The newest promotions; ``query`` may have ``model`` and ``state``."""
        asked = {name: value for name, value in query.items() if value is not None}
        return list(islice(self.items("/promotions", {"limit": min(limit, 1000), **asked}), limit))

    def promotion(self, number: int) -> dict[str, Any]:
        """One promotion, with the conditions of its rule, who approved, and what happened."""
        return dict(self._get(f"/promotions/{number}"))

    def answer_promotion(self, number: int, answer: str, why: str = "") -> dict[str, Any]:
        """``approve`` or ``reject`` a promotion."""
        return dict(self._post(f"/promotions/{number}/{quoted(answer)}", {"why": why}))

    def promotion_log(self, model: str, limit: int = 100) -> list[dict[str, Any]]:
        """What happened to the rules and promotions of a model, newest first."""
        items = self.items(f"/models/{quoted(model)}/promotion-log", {"limit": min(limit, 1000)})
        return list(islice(items, limit))


def _rule(model: str, alias: str) -> str:
    return f"/models/{quoted(model)}/aliases/{quoted(alias)}/rule"
