"""What the admin API needs of the services that change something. Reading is in the rooms' ``views.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from wheeltapper_fleet.devices.enrolment import Enrolment
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["AdminContext", "CampaignActions", "CaptureRequests"]


class CampaignActions(Protocol):
    """Creating and steering campaigns; every change names the version it was decided on."""

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        """Make a campaign in DRAFT; returns its id. FleetError ``campaign.*`` for a spec that is not valid."""
        ...

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        """``start``, ``approve``, ``pause``, ``resume``, ``abort``; FleetError ``campaign.conflict`` has status 409."""
        ...


class CaptureRequests(Protocol):
    """Asking a device for a recording."""

    def request(self, device: str, pipeline: str, snapshots: int) -> str:
        """Enter the command; returns its id. FleetError ``device.*``."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdminContext:
    """Everything that the admin API works with.

    Args:
        captures_dir: where recordings lie, as ``<sha256>.npz``.
        hosts: the names by which the API may be called.
        secure_cookie: whether the page is served over TLS.
        healthy: names of the parts that do not work now; empty when all is well.
        on_revoked: ends the connection that the device may have now.
    """

    engine: Engine
    enrolment: Enrolment
    releases: Releases
    repository: Repository
    blobs: BlobStore
    campaigns: CampaignActions
    captures: CaptureRequests
    captures_dir: Path
    clock: Callable[[], float]
    hosts: tuple[str, ...]
    secure_cookie: bool = False
    healthy: Callable[[], list[str]] = list
    on_revoked: Callable[[str], None] = lambda device: None
