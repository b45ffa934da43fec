"""What a policy is told, what it wants to have done, and what is written down of it. Pure values.

An input is what was seen or what a person did; :func:`~wheeltapper_fleet.learning.policies.rules.step` takes it. Inputs
are stored with the events, so their names and fields stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

__all__ = [
    "Arrow",
    "AskCaptures",
    "Assemble",
    "CampaignEnded",
    "CampaignStarted",
    "CancelRun",
    "CapturesSeen",
    "Crossed",
    "DatasetMade",
    "Decided",
    "Effect",
    "ExpireCandidate",
    "Failed",
    "Input",
    "Pause",
    "Promote",
    "Promoted",
    "QueueRun",
    "Resume",
    "RollOut",
    "RunEnded",
    "RunQueued",
    "Stage",
    "Tick",
]


class Stage(StrEnum):
    """Where a policy is."""

    WATCHING = "WATCHING"
    CAPTURING = "CAPTURING"
    ASSEMBLING = "ASSEMBLING"
    TRAINING = "TRAINING"
    CANCELLING = "CANCELLING"
    APPROVAL = "APPROVAL"
    ROLLING_OUT = "ROLLING_OUT"
    PROMOTING = "PROMOTING"
    COOLING = "COOLING"
    STOPPED = "STOPPED"


# --- what is seen, and what people do ---------------------------------------------------------------------------------


class Crossed(Struct, frozen=True, kw_only=True, tag="crossed"):
    """Limits were crossed for ``release``; ``devices`` would record."""

    findings: tuple[str, ...]
    devices: tuple[str, ...]
    release: int


class CapturesSeen(Struct, frozen=True, kw_only=True, tag="captures"):
    """Of the recordings of ``cycle``, so many came; ``open`` may still come."""

    cycle: int
    arrived: int
    open: int


class DatasetMade(Struct, frozen=True, kw_only=True, tag="dataset"):
    """The recordings of ``cycle`` are in a version; ``new``: the watched release was trained on another one."""

    cycle: int
    dataset: str
    new: bool


class RunQueued(Struct, frozen=True, kw_only=True, tag="run"):
    """The run of ``cycle`` is queued."""

    cycle: int
    run: str


class RunEnded(Struct, frozen=True, kw_only=True, tag="run_ended"):
    """A run ended; with a ``candidate`` it succeeded."""

    run: str
    candidate: str = ""
    detail: str = ""


class Decided(Struct, frozen=True, kw_only=True, tag="decided"):
    """A person published a candidate as ``release``, or rejected it (0)."""

    candidate: str
    who: str
    release: int = 0
    why: str = ""


class CampaignStarted(Struct, frozen=True, kw_only=True, tag="campaign"):
    """The campaign of ``cycle`` began."""

    cycle: int
    campaign: str


class CampaignEnded(Struct, frozen=True, kw_only=True, tag="campaign_ended"):
    """A campaign ended."""

    campaign: str
    completed: bool
    detail: str = ""


class Promoted(Struct, frozen=True, kw_only=True, tag="promoted"):
    """The policy's alias names the release."""

    release: int


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """What ``stage`` of ``cycle`` wants was refused, and would be again."""

    cycle: int
    stage: Stage
    detail: str


class Pause(Struct, frozen=True, kw_only=True, tag="pause"):
    """A person pauses the policy."""

    who: str
    why: str = ""


class Resume(Struct, frozen=True, kw_only=True, tag="resume"):
    """A person lets it go on; one that has stopped watches again."""

    who: str
    why: str = ""


class Tick(Struct, frozen=True, kw_only=True, tag="tick"):
    """Time has passed."""


Input = (
    Crossed
    | CapturesSeen
    | DatasetMade
    | RunQueued
    | RunEnded
    | Decided
    | CampaignStarted
    | CampaignEnded
    | Promoted
    | Failed
    | Pause
    | Resume
    | Tick
)


# --- what is to be done -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskCaptures:
    """Ask devices for recordings. In the transaction of the step."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class Assemble:
    """Make a version of the dataset of the recordings that came."""


@dataclass(frozen=True)
class QueueRun:
    """Queue a run on ``dataset``."""

    dataset: str


@dataclass(frozen=True)
class CancelRun:
    """Cancel a run."""

    run: str


@dataclass(frozen=True)
class ExpireCandidate:
    """Nobody can approve a candidate any more. In the transaction of the step."""

    candidate: str


@dataclass(frozen=True)
class RollOut:
    """Create and start the campaign of a release."""

    release: int


@dataclass(frozen=True)
class Promote:
    """Let the policy's alias name a release."""

    release: int


Effect = AskCaptures | Assemble | QueueRun | CancelRun | ExpireCandidate | RollOut | Promote


@dataclass(frozen=True)
class Arrow:
    """What happened, for the record. ``subject``: what it is about, e.g. a run's id."""

    kind: str
    subject: str = ""
    detail: str = ""
