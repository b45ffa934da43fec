"""Campaigns as the API gives them out. Times are Unix seconds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = [
    "CampaignDetail",
    "CampaignPlan",
    "CampaignView",
    "DefaultReleaseView",
    "DeviceExecution",
    "ExecutionView",
    "GateView",
    "HappeningView",
    "LogEntry",
    "PipelineReasons",
    "PlannedDevice",
    "PlannedWave",
    "Why",
]


class ExecutionView(BaseModel):
    """One device's attempt within a campaign. ``wave`` and ``attempt`` count from 1."""

    id: str
    device: str
    wave: int
    state: str
    code: str
    detail: str
    assigned_at: float | None
    deadline_at: float | None
    updated_at: float
    attempt: int


class DeviceExecution(BaseModel):
    """An attempt on a device: of a ``campaign``, or for a ``default_release``; the other one is None."""

    id: str
    campaign: str | None
    default_release: str | None
    pipelines: list[str]
    state: str
    code: str
    detail: str
    assigned_at: float | None
    updated_at: float
    ended_at: float | None
    attempt: int


class LogEntry(BaseModel):
    """One line of a campaign's history."""

    at: float
    who: str
    event: str
    detail: str


class GateView(BaseModel):
    """What a telemetry gate says of a ``wave`` (from 1): ``PASS``, ``HOLD`` (not enough data) or ``BROKEN``.

    ``devices`` have spoken in the campaign so far. ``p_value`` is valid however often it is looked at; null without
    data.
    """

    kind: str
    wave: int
    verdict: str
    sentence: str
    devices: int
    p_value: float | None
    judged_at: float


class CampaignView(BaseModel):
    """One campaign. ``executions`` counts its executions by wave (its number from 1, as text) and state.

    ``gates`` are what its telemetry gates said at their last look, in the order of its specification. ``continuous``:
    devices that enter its audience join it. ``unreadable`` says why this version of the service cannot carry the
    campaign on; it is empty where it can.
    """

    id: str
    version: int
    state: str
    reason: str
    spec: dict[str, Any]
    waves: list[Any]
    executions: dict[str, dict[str, int]]
    created_at: float
    updated_at: float
    unreadable: str = ""
    gates: list[GateView] = []
    continuous: bool = False


class CampaignDetail(CampaignView):
    """A campaign by itself; its executions and its log have pages of their own. ``warnings`` are of its creation,
    ``approved_by`` the persons who have approved it."""

    warnings: list[str]
    approved_by: list[str] = []


class DefaultReleaseView(BaseModel):
    """A default release: what ``pipeline`` of the devices in ``audience`` runs where no campaign says otherwise.

    ``executions`` counts its executions by state; ``given_up`` are devices on which it failed too often.
    """

    id: str
    model: str
    release: int
    pipeline: str
    audience: dict[str, Any]
    set_at: float
    set_by: str
    why: str
    cleared_at: float | None
    cleared_by: str | None
    cleared_why: str | None
    executions: dict[str, int]
    given_up: int


class HappeningView(BaseModel):
    """Something that happened to a pipeline of a device. ``code`` is a failure's."""

    at: float
    kind: str
    sentence: str
    code: str


class PipelineReasons(BaseModel):
    """Why one pipeline of a device runs what it runs.

    ``runs``: what runs and who brought it. ``asked``: what is asked of it now. ``failed``: its last refusal or failure,
    empty if there was none. ``beaten``: what lost the device, to what, and by which rule. ``happenings``: everything in
    order of time.
    """

    pipeline: str
    model: str | None
    release: int | None
    runs: str
    asked: str
    failed: str
    beaten: list[str]
    happenings: list[HappeningView]


class Why(BaseModel):
    """Why a device runs what it runs, by pipeline."""

    device: str
    revoked: bool
    online: bool
    pipelines: list[PipelineReasons]


class PlannedWave(BaseModel):
    """A wave of a dry run. ``number`` counts from 1. The latest times count on nobody's pausing the campaign."""

    number: int
    devices: int
    opens_earliest: float
    opens_latest: float
    ends_earliest: float
    ends_latest: float


class PlannedDevice(BaseModel):
    """What would come of one device, and why. ``takes_from``: the campaigns that would lose it."""

    device: str
    wave: int
    outcome: str
    sentence: str
    takes_from: list[str]
    offline_since: float | None


class CampaignPlan(BaseModel):
    """A dry run: what a campaign would do if it were made and started now.

    On the first page also: ``outcomes`` counts the devices by what would come of them, ``takes_from`` by the campaign
    that would lose them, ``outside`` those that match the audience and are not active, by state.
    """

    model: str
    release: int
    devices: int
    waves: list[PlannedWave]
    needs_approval: bool
    outcomes: dict[str, int] | None = None
    takes_from: dict[str, int] | None = None
    outside: dict[str, int] | None = None
    warnings: list[str] = []
    items: list[PlannedDevice]
    next: str | None
