"""The bodies of requests to the admin API, and the summary, which is put together from several rooms.

Invariant: a request with an unknown field is refused, so that a misspelt field is never silently ignored. The bodies of
answers are in the other rooms' ``schemas.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, WithJsonSchema

from wheeltapper_fleet.access.permissions import ROLES, Role
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.campaigns.rules.spec_schema import spec_schema
from wheeltapper_fleet.campaigns.schemas import CampaignView
from wheeltapper_fleet.devices.schemas import settings_schema
from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, PRINTABLE, QueryText, SomeQuery, Whole
from wheeltapper_fleet.registry.schemas import ReleaseView
from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = [
    "ApiTokenRequest",
    "CampaignAction",
    "CampaignRequest",
    "CaptureRequest",
    "ClearDefaultReleaseRequest",
    "CloneRequest",
    "CommandRequest",
    "DefaultReleaseRequest",
    "DeviceActionRequest",
    "DeviceBulkRequest",
    "DeviceEditRequest",
    "ExpectedDeviceRequest",
    "ManyCommandsRequest",
    "ReleaseRequest",
    "RollbackRequest",
    "SettingsRequest",
    "Summary",
    "TokenRequest",
    "TokensRequest",
    "Totals",
]

# Pydantic's regular expressions have no \Z; their $ matches only at the very end.
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]
NAME_SCHEMA: Final = {"type": "string", "pattern": NAME_PATTERN.replace(r"\Z", "$")}
_TAG_SCHEMA: Final = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": PRINTABLE}
_TAGS_SCHEMA: Final = {
    "type": "object",
    "maxProperties": 64,
    "propertyNames": _TAG_SCHEMA,
    "additionalProperties": _TAG_SCHEMA,
}
TagText = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=PRINTABLE)]


Why = Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)]

PermissionName = Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(ROLES[Role.ADMIN])})]
RoleName = Literal["viewer", "operator", "release-manager", "approver", "trainer", "admin"]


class _Closed(BaseModel):
    model_config = CLOSED


class TokenRequest(_Closed):
    """Ask for a one-time enrolment token for ``device``."""

    device: Name
    ttl_seconds: Annotated[float, Field(ge=1, le=366 * 86_400, strict=False)] = 86_400.0
    tags: Annotated[dict[TagText, TagText], Field(max_length=64)] = {}


class ApiTokenRequest(_Closed):
    """Make an API token for ``name`` with ``roles``; without ``ttl_seconds`` it does not end.

    It may do no more than ``permissions``, if they are given, and that to the devices of the query ``scope`` only.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._+-]{0,62}$")]
    roles: Annotated[list[RoleName], Field(min_length=1, max_length=5)]
    ttl_seconds: Annotated[float, Field(ge=60, le=3660 * 86_400, strict=False)] | None = 90 * 86_400.0
    permissions: Annotated[list[PermissionName], Field(min_length=1, max_length=64)] | None = None
    scope: QueryText = ""


class ExpectedDeviceRequest(_Closed):
    """A device that is to come: its id, its tags, and where it stands in a file, for messages."""

    device: Annotated[str, Field(max_length=200), WithJsonSchema(NAME_SCHEMA)]  # wrong rows are named, all at once
    tags: Annotated[dict[str, str], Field(max_length=64), WithJsonSchema(_TAGS_SCHEMA)] = {}
    row: Annotated[int, Field(ge=0, le=10_000_000), Whole] = 0


class TokensRequest(_Closed):
    """Ask for a one-time enrolment token for each of many devices: all of them, or none if one is wrong."""

    devices: Annotated[list[ExpectedDeviceRequest], Field(min_length=1, max_length=10_000)]
    ttl_seconds: Annotated[float, Field(ge=1, le=366 * 86_400, strict=False)] = 86_400.0


class DeviceActionRequest(_Closed):
    """Move a device through its life, for a reason."""

    why: Why = ""


class DeviceEditRequest(_Closed):
    """Change tags of a device: new values by name, null removes one; the others stay. ``site`` is a tag."""

    tags: Annotated[dict[TagText, TagText | None], Field(max_length=64)]
    why: Why = ""


class DeviceBulkRequest(_Closed):
    """Change every device that a query means. ``dry`` only counts them; ``expected`` is how many are meant."""

    q: SomeQuery
    action: Literal["quarantine", "reinstate", "revoke", "retire"] | None = None
    tags: Annotated[dict[TagText, TagText | None], Field(max_length=64)] = {}
    why: Why = ""
    dry: bool = False
    expected: Annotated[int, Field(ge=0, le=2**53), Whole] | None = None


class CommandRequest(_Closed):
    """Ask a device for something: ``diagnostics`` (with ``log_lines``), or ``restart-pipeline`` or ``reset-baseline``
    (with ``pipeline``)."""

    type: Literal["diagnostics", "restart-pipeline", "reset-baseline"]
    log_lines: Annotated[int, Field(ge=0, le=2000), Whole] | None = None
    pipeline: Name | None = None
    expires_seconds: Annotated[float, Field(ge=1, le=30 * 86_400, strict=False)] = 3600.0


class ManyCommandsRequest(CommandRequest):
    """Ask every device that a query means. ``dry`` only counts them; ``expected`` is how many are meant."""

    q: SomeQuery
    dry: bool = False
    expected: Annotated[int, Field(ge=0, le=2**53), Whole] | None = None


class SettingsRequest(_Closed):
    """Want other values of a device's settings; null: what its configuration says. Those not named stay."""

    settings: Annotated[
        dict[str, str | float | None], Field(min_length=1, max_length=16), WithJsonSchema(settings_schema())
    ]
    why: Why = ""


class CaptureRequest(_Closed):
    """Ask for a recording of the next ``snapshots`` windows of a pipeline."""

    pipeline: Name
    snapshots: Annotated[int, Field(ge=1, le=100_000), Whole]


class ReleaseRequest(_Closed):
    """Publish a release: the text of its manifest, and of the team role's newly signed metadata, byte for byte."""

    manifest: Annotated[str, Field(min_length=2, max_length=1024 * 1024)]
    metadata: Annotated[str, Field(min_length=2, max_length=4 * 1024 * 1024)]


class CampaignRequest(_Closed):
    """Create a campaign from a specification. The campaign service checks it."""

    spec: Annotated[dict[str, Any], WithJsonSchema(spec_schema())]


class CloneRequest(_Closed):
    """Create a campaign as another one was, with ``changes`` of its specification; null leaves a field at its default.

    The campaign service checks the result.
    """

    changes: Annotated[dict[str, Any], Field(max_length=64)] = {}


class RollbackRequest(_Closed):
    """Take back what a campaign brought: to ``release`` of the same model, or to the one that all of its devices ran
    before."""

    release: Annotated[int, Field(ge=1, le=999_999_999), Whole] | None = None
    why: Annotated[str, StringConstraints(max_length=300, pattern=NO_NUL)] = ""


class DefaultReleaseRequest(_Closed):
    """Make ``release`` what ``pipeline`` of every device with ``tags`` runs where no campaign says otherwise."""

    model: Name
    release: Annotated[int, Field(ge=1, le=999_999_999), Whole]
    pipeline: Name = "main"
    tags: Annotated[dict[TagText, TagText], Field(max_length=64)] = {}
    why: Why = ""


class ClearDefaultReleaseRequest(_Closed):
    """Clear the default releases of ``model``: of all pipelines and audiences, or only of the ones given."""

    model: Name
    pipeline: Name | None = None
    tags: Annotated[dict[TagText, TagText], Field(max_length=64)] | None = None
    why: Why = ""


class AliasRequest(_Closed):
    """Let an alias name ``release``."""

    release: Annotated[int, Field(ge=1, le=999_999_999), Whole]
    why: Why = ""


class AliasRemoval(_Closed):
    """Let an alias name nothing."""

    why: Why = ""


class CampaignAction(_Closed):
    """Act on a campaign at the version that the decision was made on (the header ``If-Match`` says the same)."""

    expected_version: Annotated[int, Field(ge=0, le=999_999_999), Whole]


class Totals(BaseModel):
    """The fleet in a few numbers. ``devices`` are all, ``pending`` those that have not enrolled yet.

    ``warning`` and ``critical`` are devices whose present score says so; ``cases`` are those that need a person and
    that nobody has acknowledged, counted up to 1000.
    """

    devices: int
    pending: int
    online: int
    warning: int
    critical: int
    releases: int
    campaigns: int
    running: int
    paused: int
    cases: int


class Summary(BaseModel):
    """The fleet in numbers, with the first releases and the newest campaigns and alerts."""

    devices_enrolled: int
    devices_online: int
    windows: int
    records: SpoolTotals
    releases: list[ReleaseView]
    campaigns: list[CampaignView]
    alerts: list[AlertView]
