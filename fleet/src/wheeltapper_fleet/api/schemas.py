"""The bodies of requests to the admin API, and the summary, which is put together from several rooms.

Invariant: requests refuse unknown fields, so that a misspelt one never silently does nothing. What the API answers is
in the rooms' own ``schemas.py``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.campaigns.schemas import CampaignView
from wheeltapper_fleet.registry.schemas import ReleaseView
from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = ["CampaignAction", "CampaignRequest", "CaptureRequest", "ReleaseRequest", "Summary", "TokenRequest"]

# The expressions of pydantic know no \Z; their $ is the very end.
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]
TagText = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TokenRequest(_Request):
    """A one-time enrolment token for ``device``."""

    device: Name
    ttl_seconds: Annotated[float, Field(ge=1, le=366 * 86_400, strict=False)] = 86_400.0
    tags: Annotated[dict[TagText, TagText], Field(max_length=64)] = {}


class CaptureRequest(_Request):
    """A recording of the next ``snapshots`` windows."""

    pipeline: Name
    snapshots: Annotated[int, Field(ge=1, le=100_000)]


class ReleaseRequest(_Request):
    """A release: the manifest's text and the team role's next signed metadata (text), byte for byte."""

    manifest: Annotated[str, Field(min_length=2, max_length=1024 * 1024)]
    metadata: Annotated[str, Field(min_length=2, max_length=4 * 1024 * 1024)]


class CampaignRequest(_Request):
    """A campaign's specification; the campaign service checks it whole."""

    spec: dict[str, Any]


class CampaignAction(_Request):
    """The version of the campaign that the decision was made on (or the header ``If-Match``)."""

    expected_version: Annotated[int, Field(ge=0)] | None = None


class Summary(BaseModel):
    """The fleet in numbers."""

    devices_enrolled: int
    devices_online: int
    windows: int
    records: dict[str, SpoolTotals]
    releases: list[ReleaseView]
    campaigns: list[CampaignView]
    alerts: list[AlertView]
