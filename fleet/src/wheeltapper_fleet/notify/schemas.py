"""Targets of notifications and what was sent, as the API takes them and gives them out. Pure.

Invariants:
    * A request with an unknown field is refused.
    * No answer holds a secret, but for the one that creates it; of a URL, which may hold one in its path, only the
      server is shown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, PRINTABLE, QueryText, either
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = ["MadeTarget", "NotificationView", "TargetChange", "TargetRequest", "TargetView"]


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]
_Word = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=PRINTABLE)]
_Event = Literal[
    "case.opened",
    "case.reopened",
    "case.worse",
    "case.resolved",
    "budget.exceeded",
    "candidate.waiting",
    "policy.stopped",
]
_Severity = Literal["normal", "warning", "critical"]
_Words = Annotated[list[_Word], Field(max_length=100)]
_Address = Annotated[str, StringConstraints(min_length=3, max_length=2000, pattern=PRINTABLE)]
_Events = Annotated[list[_Event], Field(max_length=10)]


class _Closed(BaseModel):
    model_config = CLOSED


class TargetRequest(_Closed):
    """Tell ``address`` (an ``https://`` URL, or a mail address) of what the rules say; without rules, of everything."""

    model_config = CLOSED | ConfigDict(
        json_schema_extra=either(
            {"properties": {"kind": {"const": "webhook"}, "address": {"format": "uri", "pattern": "^https?://"}}},
            {"properties": {"kind": {"const": "mail"}, "address": {"format": "email"}}},
        )
    )

    id: Name
    kind: Literal["webhook", "mail"]
    address: _Address
    events: _Events = []
    min_severity: _Severity = "normal"
    sites: _Words = []
    models: _Words = []
    query: QueryText = ""


class TargetChange(_Closed):
    """Change a target. What is left out stays."""

    address: _Address | None = None
    enabled: bool | None = None
    events: _Events | None = None
    min_severity: _Severity | None = None
    sites: _Words | None = None
    models: _Words | None = None
    query: QueryText | None = None


class TargetView(BaseModel):
    """A target, and how deliveries to it go: ``failures`` in a row, the last ``error``, when it is tried again.

    ``etag`` names what people set of it; a change may say so in ``If-Match``.
    """

    id: str
    etag: str
    kind: str
    address: str
    enabled: bool
    events: list[str]
    min_severity: str
    sites: list[str]
    models: list[str]
    query: str
    created_at: float
    created_by: str
    failures: int
    error: str | None
    retry_at: float | None
    sent_at: float | None


class MadeTarget(TargetView):
    """A new target; ``secret`` is what a webhook is signed with, and is shown this once."""

    secret: str | None


class NotificationView(BaseModel):
    """Something that a target is told: ``waiting``, ``sent`` or ``dead`` (given up; it can be sent again)."""

    id: int
    message: str
    target: str
    kind: str
    subject: str
    title: str
    severity: str
    state: str
    created_at: float
    attempts: int
    next_at: float
    sent_at: float | None
    error: str | None
