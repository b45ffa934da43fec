"""What is told of a case. Pure."""

from __future__ import annotations

from typing import Final

from wheeltapper_fleet.alerts.case import Case
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind

__all__ = ["occurrence_of"]

_DONE: Final = {
    OccurrenceKind.CASE_OPENED: "opened",
    OccurrenceKind.CASE_REOPENED: "reopened",
    OccurrenceKind.CASE_WORSE: "got worse",
    OccurrenceKind.CASE_RESOLVED: "resolved",
}
_SHOWN: Final = (
    "id", "version", "kind", "state", "severity", "worst", "raised", "risk", "device", "pipeline", "model", "release",
    "point", "machine", "site", "criticality", "label", "zone", "score", "alerts", "episode", "first_at", "last_at",
    "opened_at", "assignee", "verdict", "part", "work_order", "parent",
)  # fmt: skip


def occurrence_of(kind: OccurrenceKind, case: Case, now: float) -> Occurrence:
    """What is told when ``kind`` happened to a case."""
    place = case.point or f"{case.device}/{case.pipeline}"
    about = f"release {case.release} of {case.model}" if case.kind == "release" else place
    title = f"case {case.id} {_DONE[kind]}: {case.severity} at {about}"
    return Occurrence(
        kind=kind,
        subject=f"case {case.id}",
        title=title,
        at=now,
        severity=case.severity,
        site=case.site,
        model=case.model,
        device=case.device,
        data={"case": {name: getattr(case, name) for name in _SHOWN}, "why": list(case.why)},
    )
