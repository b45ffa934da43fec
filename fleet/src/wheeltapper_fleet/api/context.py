"""What the routes of the admin API work with, and how a route asks for it.

A route declares ``context: Context`` to get the :class:`AdminContext`, and ``who: Who`` to get the requester's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Request
from sqlalchemy import Engine

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.devices.enrolment import Enrolment
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.trust.expiry import Life
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["AdminContext", "CampaignActions", "CaptureRequests", "Context", "Who", "requester"]


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
        captures_dir: the folder with recordings, each as ``<sha256>.npz``.
        clock: Unix seconds.
        hosts: the host names and addresses under which the API may be called.
        failing: gives the names of the parts that do not work at the moment; empty if all work.
        lives: gives everything that ends: certificates, metadata; None where nobody keeps it alive.
        on_revoked: ends the connection of a device that was revoked, if it has one.
    """

    engine: Engine
    authenticator: Authenticator
    events: EventHub
    enrolment: Enrolment
    releases: Releases
    repository: Repository
    blobs: BlobStore
    campaigns: CampaignActions
    captures: CaptureRequests
    captures_dir: Path
    clock: Callable[[], float]
    hosts: tuple[str, ...]
    failing: Callable[[], list[str]] = list
    lives: Callable[[], list[Life]] | None = None
    on_revoked: Callable[[str], None] = lambda device: None


def _context(request: Request) -> AdminContext:
    context: AdminContext = request.app.state.context
    return context


def requester(request: Request, authorization: Annotated[str | None, Header(include_in_schema=False)] = None) -> str:
    """The name of whoever makes the request.

    Raises:
        FleetError: ``api.unauthorized``.
    """
    return _context(request).authenticator.requester(request.method, authorization, request.cookies.get(COOKIE))


Context = Annotated[AdminContext, Depends(_context)]
"""The type of a route's parameter that receives the :class:`AdminContext`."""
Who = Annotated[str, Depends(requester)]
"""The type of a route's parameter that receives the requester's name."""
