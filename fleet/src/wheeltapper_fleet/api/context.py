"""What the routes of the admin API work with, and how a route asks for it.

A route declares ``context: Context`` to get the :class:`AdminContext`, ``who: Who`` to get the requester's name, and
``requester: Requester`` to get its roles too. What a route needs is in :mod:`wheeltapper_fleet.access.permissions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Request
from sqlalchemy import Engine

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.permissions import ROLES, WITHIN_SCOPE, Role, permission_of
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.limits import RateLimits
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.enrolment import Enrolment
from wheeltapper_fleet.devices.scope import check_scope
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.request import note_subject
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.trust.expiry import Life
from wheeltapper_fleet.trust.repository import Repository
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["AdminContext", "CampaignActions", "CaptureRequests", "Context", "Requester", "Scope", "Who", "requester"]


class CampaignActions(Protocol):
    """Creates and steers campaigns."""

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        """Create a campaign in the state DRAFT; returns its id. FleetError ``campaign.*`` for an invalid spec."""
        ...

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        """Apply ``start``, ``approve``, ``pause``, ``resume`` or ``abort`` to a campaign at ``expected_version``.

        FleetError ``campaign.conflict`` (status 409) if the campaign has changed since.
        """
        ...

    def roll_back(self, campaign: str, release: int | None, why: str, who: str) -> str:
        """End a campaign and start one that takes back what it brought; returns the new one's id.

        FleetError ``campaign.*``.
        """
        ...


class CaptureRequests(Protocol):
    """Asks devices for recordings."""

    def request(self, device: str, pipeline: str, snapshots: int) -> str:
        """Store a capture command for a device; returns the command's id. FleetError ``device.*``."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdminContext:
    """Everything that the admin API works with.

    Args:
        engine: the fleet's database.
        authenticator: checks tokens and cookies.
        events: the live events.
        numbers: the fleet in numbers.
        captures_dir: the folder with recordings, each as ``<sha256>.npz``.
        datasets: the store of datasets.
        clock: Unix seconds.
        hosts: the host names and addresses under which the API may be called.
        failing: gives the names of the parts that do not work at the moment; empty if all work.
        limits: how fast one requester may ask.
        lives: gives everything that ends: certificates, metadata; None where nobody keeps it alive.
    """

    engine: Engine
    authenticator: Authenticator
    events: EventHub
    numbers: FleetNumbers
    devices: Devices
    enrolment: Enrolment
    releases: Releases
    repository: Repository
    blobs: BlobStore
    campaigns: CampaignActions
    captures: CaptureRequests
    captures_dir: Path
    datasets: DatasetStore
    clock: Callable[[], float]
    hosts: tuple[str, ...]
    failing: Callable[[], list[str]] = list
    limits: RateLimits = field(default_factory=RateLimits)
    lives: Callable[[], list[Life]] | None = None


def _context(request: Request) -> AdminContext:
    context: AdminContext = request.app.state.context
    return context


def requester(
    request: Request,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    x_csrf_token: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Principal:
    """Whoever makes the request, if it has the permission that the route needs.

    Raises:
        FleetError: ``api.unauthorized``, ``api.forbidden``; ``api.not_found`` for an action that nobody has.
    """
    authenticator, cookie = _context(request).authenticator, request.cookies.get(COOKIE)
    principal = authenticator.principal(request.method, authorization, cookie, x_csrf_token)
    request.state.principal = principal
    note_subject(**request.path_params)
    needed = permission_of(request.method, request.scope["route"].path, request.path_params)
    if needed is not None and needed not in ROLES[Role.ADMIN]:
        raise FleetError("api.not_found", f"there is no such action: {needed[:80]}", 404)
    if not principal.may(needed):
        having = ", ".join(role for role, permissions in ROLES.items() if needed in permissions)
        message = f"{principal.name} may not do this: it needs the permission {needed}, which {having or 'nobody'} has"
        raise FleetError("api.forbidden", message, 403)
    if principal.scope:
        _check_scope(request, principal)
    return principal


def _check_scope(request: Request, principal: Principal) -> None:
    """Keep a requester that is limited to some devices to the routes and devices that are its own.

    Raises:
        FleetError: ``api.out_of_scope``: the route is of the whole fleet; ``device.not_found``.
        WireError: ``id.invalid``.
    """
    method = "GET" if request.method == "HEAD" else request.method
    if f"{method} {request.scope['route'].path}" not in WITHIN_SCOPE:
        message = f"{principal.name}'s token is limited to devices ({principal.scope}); this is of the whole fleet"
        raise FleetError("api.out_of_scope", message, 403)
    if "device" in request.path_params:
        context = _context(request)
        device = device_id(request.path_params["device"])
        with reading(context.engine) as connection:
            check_scope(connection, device, principal.scope, context.clock())


def _scope(principal: Annotated[Principal, Depends(requester)]) -> str:
    return principal.scope


def _name(principal: Annotated[Principal, Depends(requester)]) -> str:
    return principal.name


Context = Annotated[AdminContext, Depends(_context)]
"""The type of a route's parameter that receives the :class:`AdminContext`."""
Who = Annotated[str, Depends(_name)]
"""The type of a route's parameter that receives the requester's name."""
Requester = Annotated[Principal, Depends(requester)]
"""The type of a route's parameter that receives the requester with its roles."""
Scope = Annotated[str, Depends(_scope)]
"""The type of a route's parameter that receives the query for the devices that the requester is limited to."""
