"""What goes in and out of the admin API, as pydantic models.

Invariant: requests refuse unknown fields, so that a misspelt one never silently does nothing. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = [
    "AlertView",
    "CampaignAction",
    "CampaignDetail",
    "CampaignRequest",
    "CampaignView",
    "CaptureRequest",
    "CaptureView",
    "CommandView",
    "DeviceView",
    "DriftView",
    "ExecutionView",
    "FeatureDriftView",
    "LogEntry",
    "PipelineView",
    "ReleaseRequest",
    "ReleaseView",
    "ScorePoint",
    "SpoolTotals",
    "Summary",
    "TokenRequest",
    "TokenView",
    "VerifyView",
]

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


class TokenView(BaseModel):
    """An enrolment token, shown once."""

    device: str
    token: str
    expires_at: float


class PipelineView(BaseModel):
    """What one pipeline of a device runs."""

    name: str
    model: str | None
    release: int | None
    windows: int
    source: str


class ScorePoint(BaseModel):
    """One scored window: time by the machine's clock, and score (1.0 is the warning threshold)."""

    t_s: float
    score: float


class DeviceView(BaseModel):
    """One device, as it is known now."""

    id: str
    tags: dict[str, str]
    online: bool
    revoked: bool
    enrolled_at: float
    certificate_expires_at: float
    last_seen_at: float | None
    counter: int
    execution: str | None
    execution_state: str | None
    pipelines: list[PipelineView]
    severity: str | None
    score: float | None
    scores: list[ScorePoint]


class FeatureDriftView(BaseModel):
    """One feature now against training: see ``services.drift.FeatureDrift``."""

    name: str
    n: int
    missing: int
    mean: float
    usual: float
    unseen: int
    psi: float
    psi_noise: float
    moved: bool
    ks: float
    ks_error: float
    wasserstein: float
    wasserstein_error: float


class DriftView(BaseModel):
    """A release over some devices and some time: see ``services.drift.ReleaseDrift``."""

    model: str
    release: int
    since: float
    until: float
    devices: list[str]
    reports: int
    left_out: int
    windows: int
    unscored: int
    changes: int
    score: FeatureDriftView
    features: list[FeatureDriftView]


class CommandView(BaseModel):
    """A command that was entered for a device."""

    command: str
    device: str


class CaptureView(BaseModel):
    """A recording, asked for or received."""

    command: str
    device: str
    pipeline: str
    state: str
    code: str
    sha256: str | None
    length: int | None
    snapshots: int
    created_at: float | None
    received_at: float | None


class ReleaseView(BaseModel):
    """One published release."""

    model: str
    release: int
    path: str
    sha256: str
    length: int
    published_at: float
    published_by: str


class VerifyView(BaseModel):
    """A release that verified from the trusted root down to every byte."""

    model: str
    release: int
    verified: bool
    files: int
    length: int


class ExecutionView(BaseModel):
    """One device's attempt within a campaign."""

    id: str
    device: str
    wave: int
    state: str
    code: str
    detail: str
    assigned_at: float | None
    deadline_at: float | None
    updated_at: float


class LogEntry(BaseModel):
    """One line of a campaign's history."""

    at: float
    who: str
    event: str
    detail: str


class CampaignView(BaseModel):
    """One campaign. ``executions`` counts by wave (as text) and state."""

    id: str
    version: int
    state: str
    reason: str
    spec: dict[str, Any]
    waves: list[Any]
    executions: dict[str, dict[str, int]]
    created_at: float
    updated_at: float


class CampaignDetail(CampaignView):
    """A campaign with every execution and its log."""

    execution_list: list[ExecutionView]
    log: list[LogEntry]


class AlertView(BaseModel):
    """A decision that a person should see."""

    id: int
    device: str
    pipeline: str
    window: int
    t_s: float
    at: float
    model: str
    release: int
    score: float
    severity: str
    raised: bool
    reasons: list[dict[str, Any]]


class SpoolTotals(BaseModel):
    """What became of a device's records."""

    stored: int
    missing: int
    dropped: int
    refused: int


class Summary(BaseModel):
    """The fleet in numbers."""

    devices_enrolled: int
    devices_online: int
    windows: int
    records: dict[str, SpoolTotals]
    releases: list[ReleaseView]
    campaigns: list[CampaignView]
    alerts: list[AlertView]
