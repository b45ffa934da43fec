"""Devices as the API gives them out. Times are Unix seconds."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

from wheeltapper_fleet.telemetry.schemas import ScorePoint
from wheeltapper_protocols.wire.commands import LOG_LEVELS, Settings

__all__ = [
    "AttributeView",
    "BulkView",
    "CaptureShareView",
    "CommandDetail",
    "CommandView",
    "ConnectionView",
    "DesiredSetting",
    "DeviceCounts",
    "DeviceLogEntry",
    "DeviceRow",
    "DeviceView",
    "NoticeView",
    "PipelineView",
    "ReleaseCount",
    "SettingsView",
    "TokenView",
    "settings_schema",
]


class TokenView(BaseModel):
    """A one-time enrolment token. Its text is shown once and kept nowhere."""

    device: str
    token: str
    expires_at: float


class CommandView(BaseModel):
    """A command that was stored for a device and will be sent to it."""

    command: str
    device: str


class BaselineFeatureView(BaseModel):
    """How one feature of a machine differs from the fleet: ``shift`` in units of the fleet's scale, ``ratio`` of the
    spreads."""

    feature: str
    shift: float
    ratio: float
    limited: bool = False


class BaselineView(BaseModel):
    """How far a device has learnt its machine: see ``BaselineStatus`` of the wire. ``phase`` is ``learning``,
    ``learned`` or ``refused``."""

    phase: str
    learned: int = 0
    windows: int = 0
    outside: int = 0
    limited: int = 0
    features: list[BaselineFeatureView] = []


class PipelineView(BaseModel):
    """One pipeline of a device, as its last status message described it: which release it runs, and its source.

    ``score`` and ``severity`` are the present ones; None where there is none, or where the newest score is too old.
    ``scored_at`` is when the newest score came; ``no_score_since`` the same, where it is not the present one. A
    pipeline without a model has none of them. ``partly_scored`` counts windows since the agent's start that were
    scored although channels were missing.
    """

    name: str
    model: str | None
    release: int | None
    windows: int
    source: str
    score: float | None = None
    severity: str | None = None
    scored_at: float | None = None
    no_score_since: float | None = None
    baseline: BaselineView | None = None
    """None where the release that runs learns none."""
    partly_scored: int = 0
    unknown_conditions: int = 0
    """Windows since the agent's start in an operating condition that the release does not know."""


class CommandDetail(BaseModel):
    """A command to a device, and what became of it.

    ``state``: ``waiting`` for the device, ``done``, ``failed`` (``code`` says why) or ``expired``. ``bundle``: whether
    a diagnostics bundle came with the answer.
    """

    command: str
    device: str
    type: str
    body: dict[str, Any]
    who: str
    state: str
    created_at: float
    expires_at: float
    answered_at: float | None
    code: str
    detail: str
    bundle: bool


class DesiredSetting(BaseModel):
    """The value that is wanted of a setting (None: what the device's configuration says), since when, which version."""

    value: str | float | None
    at: float
    version: int


class CaptureShareView(BaseModel):
    """How much of what recordings by rule may use of the network in a day is used (``limit_bytes`` 0: no limit), and
    how many recordings wait; as the device said at ``at``, by its own clock."""

    sent_bytes: int
    limit_bytes: int
    waiting: int
    at: float


class SettingsView(BaseModel):
    """The twin of a device: what is wanted, what the device says is in force, and the names of those that differ.

    ``reported`` holds None for a setting that is as the device's own configuration says; ``captures`` is None of an
    agent that does not say it.
    """

    version: int
    reported_version: int
    reported_at: float | None
    desired: dict[str, DesiredSetting]
    reported: dict[str, str | float | None]
    delta: list[str]
    captures: CaptureShareView | None = None


class AttributeView(BaseModel):
    """Something that a device reported of itself, and since when it has had this value."""

    name: str
    value: str
    at: float


class ConnectionView(BaseModel):
    """A device came (``online``) or went: ``connected``, ``ended`` by the agent, or ``lost``."""

    at: float
    online: bool
    reason: str
    address: str


class DeviceLogEntry(BaseModel):
    """What was done to a device: the action, the device's state afterwards, what exactly, by whom, and why."""

    at: float
    who: str
    event: str
    state: str
    detail: str
    why: str


class BulkView(BaseModel):
    """How many devices a query means, how many of them are changed, and how many are not, by the code of the reason."""

    matched: int
    changed: int
    refused: dict[str, int]


class ReleaseCount(BaseModel):
    """How many devices run a release in a pipeline; None for no release."""

    pipeline: str
    model: str | None
    release: int | None
    devices: int


class DeviceCounts(BaseModel):
    """Devices in numbers: all, by state, by site (those without one under an empty name), and what they run.

    ``online`` are those of them that are online now. ``sites`` and ``releases`` hold the most frequent ones.
    """

    devices: int
    online: int
    states: dict[str, int]
    sites: dict[str, int]
    releases: list[ReleaseCount]


class NoticeView(BaseModel):
    """What is wrong with a device itself, as the fleet sees it: since when, when last, how often."""

    code: str
    detail: str
    first_at: float
    last_at: float
    count: int


class DeviceView(BaseModel):
    """One device: its enrolment, its last status message, and its newest scores, oldest first.

    ``score`` and ``severity`` are those of its worst pipeline that has a present score; ``no_score_since`` is set where
    a pipeline that runs a model has had one, and has none now. What it ran before it was enrolled is not shown.

    ``etag`` names what people set of it, its state and tags; a change may say so in ``If-Match``.
    """

    id: str
    etag: str
    tags: dict[str, str]
    online: bool
    state: str
    site: str | None
    revoked: bool
    enrolled_at: float | None
    certificate_expires_at: float | None
    last_seen_at: float | None
    counter: int
    execution: str | None
    execution_state: str | None
    pipelines: list[PipelineView]
    severity: str | None
    score: float | None
    no_score_since: float | None = None
    scores: list[ScorePoint]
    notices: list[NoticeView] = []


class DeviceRow(BaseModel):
    """One line of a list of devices. ``runs`` says what runs in which pipeline; ``notices`` counts what is wrong.

    ``presence`` is ``online`` or ``offline``, or the device's state where that is not ``active``. Score and severity
    are those of the worst pipeline with a present score; ``no_score_since`` as in :class:`DeviceView`.
    """

    id: str
    site: str | None
    state: str
    online: bool
    presence: str
    runs: str
    execution_state: str | None
    severity: str | None
    score: float | None
    no_score_since: float | None
    counter: int
    notices: int
    last_seen_at: float | None


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of a change of settings: each field of the wire's type, or null."""
    schema = msgspec.json.schema(Settings)
    fields: dict[str, Any] = dict(schema["$defs"]["Settings"]["properties"])
    fields = {name: {key: value for key, value in field.items() if key != "default"} for name, field in fields.items()}
    fields["log_level"] = {"enum": [*LOG_LEVELS, None]}
    return {"type": "object", "properties": fields, "additionalProperties": False, "minProperties": 1}
