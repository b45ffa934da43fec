"""Calls about access: who one is, API tokens, and the record of changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from wheeltapper_fleet.audit.chain import first_break
from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["AccessCalls"]


class AccessCalls(Requests):
    """One method for each route of access."""

    def who(self) -> dict[str, Any]:
        """Whom the token stands for: ``name``, ``via``, ``roles``, ``permissions``, ``scope``."""
        return dict(self._get("/who"))

    def create_api_token(
        self,
        name: str,
        roles: Sequence[str],
        ttl_seconds: float | None = None,
        permissions: Sequence[str] | None = None,
        scope: str = "",
    ) -> dict[str, Any]:
        """Make an API token; its secret, ``token``, is in the answer and nowhere else.

        Args:
            name: whom it stands for.
            roles: their names.
            ttl_seconds: for how long; None: it does not end.
            permissions: it may do no more than these; None: all that its roles may.
            scope: only to the devices of this query; empty: to all.
        """
        body = {"name": name, "roles": [*roles], "ttl_seconds": ttl_seconds, "scope": scope}
        if permissions is not None:
            body["permissions"] = [*permissions]
        return dict(self._post("/api-tokens", body))

    def api_tokens(self) -> list[dict[str, Any]]:
        """All API tokens, newest first, without their secrets."""
        return list(self.items("/api-tokens"))

    def revoke_api_token(self, token: str) -> None:
        """Revoke an API token by its id."""
        self._send("POST", f"{PREFIX}/api-tokens/{quoted(token)}/revoke")

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest ``limit`` changes: who, what, when."""
        return list(islice(self.items("/audit", {"limit": min(limit, MAX_LIMIT)}), limit))

    def verify_audit(self) -> dict[str, Any]:
        """Follow the chain of changes from the newest to the oldest that is kept, here and not in the service.

        Returns:
            ``rows`` that hold, the ``digest`` of the newest one, and what was cut: ``cut_rows``, ``cut_up_to``.

        Raises:
            FleetError: ``audit.broken``: a change was altered, removed or added; its number is said.
        """
        chain = dict(self._get("/audit-chain"))
        held, broken = first_break(self.items("/audit"), chain["digest"], chain["cut_digest"])
        if broken is not None:
            where = f"change {broken['id']} does not follow" if broken else "the newest change is missing"
            raise FleetError("audit.broken", f"the record of changes was altered: {where}; {held} newer ones hold", 409)
        return {"rows": held, "digest": chain["digest"], **{name: chain[name] for name in ("cut_rows", "cut_up_to")}}
