"""Who may do what: the permission that each route needs, and the permissions that each role has.

Invariants:
    * A route that is not in :data:`ROUTES` is refused to everybody. A test walks all routes of the service.
    * A requester that is limited to some devices reaches the routes of :data:`WITHIN_SCOPE` only, for its devices.
    * Every role may read. Only an approver or an admin may approve; only an admin may give access to others.

Example:
    >>> needed = permission_of("POST", "/campaigns/{campaign}/{action}", {"action": "approve"})
    >>> needed, may({Role.OPERATOR}, needed), may({Role.APPROVER}, needed)
    ('campaign.approve', False, True)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["ROLES", "ROUTES", "SAID_AGAIN_AND_AGAIN", "WITHIN_SCOPE", "Role", "may", "permission_of", "read_roles"]


class Role(StrEnum):
    """What somebody does in the fleet. One may have several roles."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    RELEASE_MANAGER = "release-manager"
    APPROVER = "approver"
    TRAINER = "trainer"
    ADMIN = "admin"


_VIEWER: Final = frozenset({"read"})
_OPERATOR: Final = _VIEWER | {
    "device.enrol",
    "device.operate",
    "device.remove",
    "alert.handle",
    "asset.edit",
    "campaign.pause",
    "campaign.complete",
    "campaign.abort",
    "campaign.rollback",
    "policy.pause",
}
_RELEASE_MANAGER: Final = _OPERATOR | {
    "release.publish",
    "alias.set",
    "run.queue",
    "run.cancel",
    "default.set",
    "campaign.create",
    "campaign.start",
    "campaign.resume",
    "policy.edit",
    "policy.resume",
    "candidate.decide",
}
_APPROVER: Final = _VIEWER | {"campaign.approve", "promotion.approve", "candidate.decide"}
_TRAINER: Final = _VIEWER | {"run.execute"}
_ADMIN: Final = _RELEASE_MANAGER | _APPROVER | _TRAINER | {"access.manage", "audit.read", "settings.edit"}

ROLES: Final[Mapping[Role, frozenset[str]]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.RELEASE_MANAGER: _RELEASE_MANAGER,
    Role.APPROVER: _APPROVER,
    Role.TRAINER: _TRAINER,
    Role.ADMIN: _ADMIN,
}
"""What each role may do."""

ROUTES: Final[Mapping[str, str]] = {
    "GET /metrics": "read",
    "GET /who": "read",
    "GET /api-tokens": "access.manage",
    "POST /api-tokens": "access.manage",
    "POST /api-tokens/{token}/revoke": "access.manage",
    "GET /audit": "audit.read",
    "GET /audit-chain": "audit.read",
    "GET /summary": "read",
    "GET /processes": "read",
    "GET /events": "read",
    "POST /tokens": "device.enrol",
    "POST /device-tokens": "device.enrol",
    "GET /devices": "read",
    "GET /device-counts": "read",
    "POST /device-edits": "device.remove",
    "GET /devices/{device}": "read",
    "GET /devices/{device}/why": "read",
    "GET /devices/{device}/delivery": "read",
    "GET /devices/{device}/records": "read",
    "GET /devices/{device}/history": "read",
    "GET /devices/{device}/features": "read",
    "PATCH /devices/{device}": "device.operate",
    "GET /devices/{device}/log": "read",
    "POST /devices/{device}/commands": "device.operate",
    "POST /device-commands": "device.operate",
    "GET /device-commands": "read",
    "GET /device-commands/{command}": "read",
    "GET /device-commands/{command}/bundle": "device.operate",
    "GET /devices/{device}/settings": "read",
    "PATCH /devices/{device}/settings": "device.operate",
    "GET /devices/{device}/connections": "read",
    "POST /devices/{device}/quarantine": "device.operate",
    "POST /devices/{device}/reinstate": "device.operate",
    "POST /devices/{device}/revoke": "device.remove",
    "POST /devices/{device}/retire": "device.remove",
    "POST /devices/{device}/forget": "device.remove",
    "POST /devices/{device}/captures": "device.operate",
    "GET /captures": "read",
    "GET /captures/{command}": "read",
    "GET /captures/{command}/recording": "read",
    "GET /datasets": "read",
    "GET /datasets/{dataset}": "read",
    "GET /datasets/{dataset}/versions": "read",
    "GET /datasets/{dataset}/items": "read",
    "GET /datasets/{dataset}/diff": "read",
    "GET /datasets/{dataset}/releases": "read",
    "GET /dataset-captures": "read",
    "POST /runs": "run.queue",
    "GET /runs": "read",
    "GET /runs/{run}": "read",
    "POST /runs/{run}/cancel": "run.cancel",
    "POST /runs/{run}/candidate": "run.queue",
    "POST /run-claims": "run.execute",
    "POST /runs/{run}/progress": "run.execute",
    "PUT /runs/{run}/files/{sha256}": "run.execute",
    "POST /runs/{run}/finish": "run.execute",
    "GET /runs/{run}/bundle/{file}": "read",
    "GET /runs/{run}/plots/{plot}": "read",
    "POST /policies": "policy.edit",
    "GET /policies": "read",
    "GET /policies/{policy}": "read",
    "GET /policies/{policy}/events": "read",
    "GET /policies/{policy}/events/{event}/causes": "read",
    "POST /policies/{policy}/remove": "policy.edit",
    "POST /policies/{policy}/pause": "policy.pause",
    "POST /policies/{policy}/resume": "policy.resume",
    "GET /candidates": "read",
    "GET /candidates/{candidate}": "read",
    "POST /candidates/{candidate}/approve": "candidate.decide",
    "POST /candidates/{candidate}/reject": "candidate.decide",
    "HEAD /blobs/{sha256}": "read",
    "PUT /blobs/{sha256}": "release.publish",
    "GET /models/{model}/targets": "read",
    "POST /models/{model}/releases": "release.publish",
    "GET /releases": "read",
    "GET /releases/{model}/{release}": "read",
    "GET /releases/{model}/{release}/bundle/{file}": "read",
    "GET /releases/{model}/{release}/verify": "read",
    "GET /releases/{model}/{release}/drift": "read",
    "GET /releases/{model}/{release}/quality": "read",
    "GET /releases/{model}/{release}/compare": "read",
    "GET /releases/{model}/{release}/card": "read",
    "GET /lineage/alerts/{alert}": "read",
    "GET /lineage/releases/{model}/{release}": "read",
    "GET /lineage/releases/{model}/{release}/devices": "read",
    "GET /lineage/releases/{model}/{release}/recordings": "read",
    "GET /lineage/recordings/{sha256}": "read",
    "GET /lineage/recordings/{sha256}/releases": "read",
    "GET /lineage/recordings/{sha256}/runs": "read",
    "GET /lineage/runs/{run}": "read",
    "GET /lineage/recordings/{sha256}/devices": "read",
    "POST /campaigns": "campaign.create",
    "GET /campaigns": "read",
    "POST /campaigns/plan": "read",
    "GET /campaigns/{campaign}": "read",
    "GET /campaigns/{campaign}/executions": "read",
    "GET /campaigns/{campaign}/log": "read",
    "POST /campaigns/{campaign}/clone": "campaign.create",
    "POST /campaigns/{campaign}/rollback": "campaign.rollback",
    "POST /campaigns/{campaign}/{action}": "campaign.{action}",
    "GET /aliases": "read",
    "GET /models/{model}/aliases": "read",
    "GET /models/{model}/alias-changes": "read",
    "GET /models/{model}/aliases/{alias}": "read",
    "PUT /models/{model}/aliases/{alias}": "alias.set",
    "POST /models/{model}/aliases/{alias}/remove": "alias.set",
    "GET /promotion-rules": "read",
    "GET /models/{model}/aliases/{alias}/rule": "read",
    "PUT /models/{model}/aliases/{alias}/rule": "settings.edit",
    "POST /models/{model}/aliases/{alias}/rule/remove": "settings.edit",
    "GET /models/{model}/promotion-log": "read",
    "POST /promotions": "alias.set",
    "GET /promotions": "read",
    "GET /promotions/{promotion}": "read",
    "POST /promotions/{promotion}/approve": "promotion.approve",
    "POST /promotions/{promotion}/reject": "promotion.approve",
    "POST /default-releases": "default.set",
    "GET /default-releases": "read",
    "POST /default-releases/clear": "default.set",
    "GET /alerts": "read",
    "GET /cases": "read",
    "GET /cases/{case}": "read",
    "GET /cases/{case}/log": "read",
    "GET /cases/{case}/similar": "read",
    "POST /cases/{case}/acknowledge": "alert.handle",
    "POST /cases/{case}/work": "alert.handle",
    "POST /cases/{case}/resolve": "alert.handle",
    "POST /cases/{case}/assign": "alert.handle",
    "POST /cases/{case}/comment": "alert.handle",
    "GET /alert-value": "read",
    "GET /labels": "read",
    "GET /alert-budgets": "read",
    "POST /alert-budgets": "settings.edit",
    "POST /alert-budgets/{budget}/delete": "settings.edit",
    "GET /triage-limits": "read",
    "PATCH /triage-limits": "settings.edit",
    "GET /notify-targets": "read",
    "POST /notify-targets": "settings.edit",
    "GET /notify-targets/{target}": "read",
    "PATCH /notify-targets/{target}": "settings.edit",
    "POST /notify-targets/{target}/test": "settings.edit",
    "POST /notify-targets/{target}/delete": "settings.edit",
    "GET /notifications": "read",
    "POST /notifications/{notification}/resend": "alert.handle",
    "GET /silences": "read",
    "POST /silences": "alert.handle",
    "POST /silences/{silence}/end": "alert.handle",
    "GET /assets": "read",
    "POST /assets": "asset.edit",
    "POST /assets/import": "asset.edit",
    "GET /assets/{asset}": "read",
    "GET /assets/{asset}/history": "read",
    "PATCH /assets/{asset}": "asset.edit",
    "POST /assets/{asset}/retire": "asset.edit",
    "POST /assets/{asset}/delete": "asset.edit",
    "POST /assets/{asset}/mappings": "asset.edit",
    "POST /assets/{asset}/mappings/end": "asset.edit",
}
"""The permission that each route below ``/api/v1`` (and ``/metrics``) needs, by method and template. A parameter of the
path in braces stands for its value: who may pause a campaign need not be able to start one."""

SAID_AGAIN_AND_AGAIN: Final[frozenset[str]] = frozenset({"POST /run-claims", "POST /runs/{run}/progress"})
"""Changes that a trainer makes every few seconds. They are in the run's row, and not in the record of changes."""

WITHIN_SCOPE: Final[frozenset[str]] = frozenset(
    {
        "GET /who",
        "POST /tokens",
        "POST /device-tokens",
        "GET /devices",
        "GET /device-counts",
        "POST /device-edits",
        "GET /devices/{device}",
        "GET /devices/{device}/why",
        "GET /devices/{device}/delivery",
        "GET /devices/{device}/records",
        "GET /devices/{device}/history",
        "GET /devices/{device}/features",
        "PATCH /devices/{device}",
        "GET /devices/{device}/log",
        "POST /devices/{device}/commands",
        "POST /device-commands",
        "GET /device-commands",
        "GET /device-commands/{command}",
        "GET /device-commands/{command}/bundle",
        "GET /devices/{device}/settings",
        "PATCH /devices/{device}/settings",
        "GET /devices/{device}/connections",
        "POST /devices/{device}/quarantine",
        "POST /devices/{device}/reinstate",
        "POST /devices/{device}/revoke",
        "POST /devices/{device}/retire",
        "POST /devices/{device}/forget",
        "POST /devices/{device}/captures",
        "GET /captures",
        "GET /captures/{command}",
        "GET /captures/{command}/recording",
        "GET /releases",
        "GET /releases/{model}/{release}",
        "GET /lineage/alerts/{alert}",
        "GET /lineage/releases/{model}/{release}",
        "GET /lineage/releases/{model}/{release}/devices",
        "GET /lineage/recordings/{sha256}",
        "GET /lineage/recordings/{sha256}/releases",
        "GET /lineage/recordings/{sha256}/runs",
        "GET /lineage/recordings/{sha256}/devices",
        "GET /alerts",
        "GET /cases",
        "GET /cases/{case}",
        "GET /cases/{case}/log",
        "GET /cases/{case}/similar",
        "POST /cases/{case}/acknowledge",
        "POST /cases/{case}/work",
        "POST /cases/{case}/resolve",
        "POST /cases/{case}/assign",
        "POST /cases/{case}/comment",
        "GET /labels",
    }
)
"""The routes that a requester which is limited to some devices may ask; all others are of the whole fleet. With
``{device}`` in the path the device is checked before the route runs; the others narrow what they read themselves."""


def permission_of(method: str, template: str, parameters: Mapping[str, str]) -> str | None:
    """The permission that a route needs; None for a route that is not listed.

    Args:
        method: the HTTP method.
        template: the route's path with its parameters in braces, below ``/api/v1``.
        parameters: the values of the parameters.
    """
    needed = ROUTES.get(f"{method} {template}")
    if needed is None and method == "HEAD":
        needed = ROUTES.get(f"GET {template}")
    if needed is not None and "{" in needed:
        for name, value in parameters.items():
            needed = needed.replace(f"{{{name}}}", value)
    return needed


def may(roles: Collection[Role], permission: str | None) -> bool:
    """Whether somebody with ``roles`` has a permission. Nobody has None, nor one that no role has."""
    return any(permission in ROLES[role] for role in roles)


def read_roles(names: Iterable[str]) -> frozenset[Role]:
    """Roles by their names.

    Raises:
        FleetError: ``access.role``: there is no such role, or none is named.
    """
    try:
        roles = frozenset(Role(name) for name in names)
    except ValueError as error:
        message = f"{error}: the roles are {', '.join(Role)}"
        raise FleetError("access.role", message, 422) from error
    if not roles:
        raise FleetError("access.role", f"name at least one role: {', '.join(Role)}", 422)
    return roles
