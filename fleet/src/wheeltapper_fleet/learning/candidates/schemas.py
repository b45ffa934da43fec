"""Candidates as the API takes them and gives them out. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, Whole

__all__ = ["ApproveRequest", "CandidateDetail", "CandidateState", "CandidateView", "RejectRequest"]

CandidateState = Literal["WAITING", "APPROVED", "REJECTED", "EXPIRED"]
Why = Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)]


class ApproveRequest(BaseModel):
    """The candidate was signed and published as ``release``."""

    model_config = CLOSED
    release: Annotated[int, Field(ge=1, le=999_999_999), Whole]
    why: Why = ""


class RejectRequest(BaseModel):
    """The candidate becomes no release."""

    model_config = CLOSED
    why: Why = ""


class CandidateView(BaseModel):
    """The bundle of a run that succeeded, before it is a release. Times are Unix seconds.

    ``sha256`` is of its manifest. ``policy`` and ``cycle`` say who asked for it; empty: a person.
    """

    id: str
    run: str
    model: str
    sha256: str
    dataset: str
    policy: str
    cycle: int
    made_at: float
    state: str
    release: int | None
    decided_at: float | None
    decided_by: str | None
    why: str


class CandidateDetail(CandidateView):
    """A candidate with what its run measured. ``published`` is the release that was made of it, where its approval was
    broken off before the service heard of it."""

    gates: list[dict[str, Any]]
    warnings: list[str]
    recipe_toml: str
    published: int | None
