"""Something that people may want to be told of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Occurrence", "OccurrenceKind"]


class OccurrenceKind(StrEnum):
    """What happened. ``TEST`` is sent on request, to see that a target works."""

    CASE_OPENED = "case.opened"
    CASE_REOPENED = "case.reopened"
    CASE_WORSE = "case.worse"
    CASE_RESOLVED = "case.resolved"
    BUDGET_EXCEEDED = "budget.exceeded"
    CANDIDATE_WAITING = "candidate.waiting"
    POLICY_STOPPED = "policy.stopped"
    TEST = "test"


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """What happened, to what, where.

    Args:
        kind: what happened.
        subject: what it happened to, in a few words, e.g. ``case 12``.
        title: one line for people.
        at: Unix seconds.
        severity: ``normal``, ``warning`` or ``critical``.
        site, model, device: where; None where it has none.
        data: what a program wants to know of it; JSON.
    """

    kind: OccurrenceKind
    subject: str
    title: str
    at: float
    severity: str = "normal"
    site: str | None = None
    model: str | None = None
    device: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
