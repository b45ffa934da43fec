"""Policies as the API takes them and gives them out. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL

__all__ = [
    "PolicyActionRequest",
    "PolicyDetail",
    "PolicyEventCauses",
    "PolicyEventView",
    "PolicyRequest",
    "PolicyView",
]


class PolicyRequest(BaseModel):
    """A policy's file (TOML)."""

    model_config = CLOSED
    text: Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]


class PolicyActionRequest(BaseModel):
    """Why it is paused, resumed or removed."""

    model_config = CLOSED
    why: Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)] = ""


class PolicyView(BaseModel):
    """A policy, and where it is. Times are Unix seconds.

    ``stage`` is WATCHING, CAPTURING, ASSEMBLING, TRAINING, CANCELLING, APPROVAL, ROLLING_OUT, PROMOTING, COOLING or
    STOPPED, since ``since`` and until ``ends_at`` at most. ``found`` is what the last look at its conditions saw, at
    ``looked_at``. ``problem`` keeps it from going on; ``why`` says why it is held, cools or has stopped.
    """

    name: str
    model: str
    stage: str
    since: float
    ends_at: float | None
    paused: bool
    cycle: int
    why: str
    problem: str
    looked_at: float | None
    found: str
    version: int
    applied_at: float
    applied_by: str


class PolicyDetail(PolicyView):
    """A policy with its file, and what is under way in its cycle."""

    text: str
    state: dict[str, Any]


class PolicyEventView(BaseModel):
    """Something that happened to a policy; ``cause`` is the event without which it would not have.

    ``input`` is what the machine was told; null where nothing moved (the policy was applied or removed).
    """

    id: int
    policy: str
    cycle: int
    at: float
    kind: str
    cause: int | None
    subject: str
    detail: str
    input: dict[str, Any] | None


class PolicyEventCauses(BaseModel):
    """An event and its causes, one after the other back to the limit that was crossed; a hundred at most."""

    chain: list[PolicyEventView]
