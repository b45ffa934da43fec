"""Cases about a release: many points that raise alerts soon after a release came are one case, not many.

Works in the caller's transaction. Costs two short queries for each release that cases of the slice were opened with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from wheeltapper_fleet.alerts import case_store
from wheeltapper_fleet.alerts.case import TRIAGE, Case, CaseState, Kind, Policy
from wheeltapper_fleet.alerts.triage import is_release_wide
from wheeltapper_fleet.registry.tables import releases

__all__ = ["adopt", "grown", "release_suspects"]

_MOST = 500


def adopt(case: Case, parent: Case) -> Case:
    """The case as part of one about a release. What a person has taken, or is about a device, stays by itself, and so
    does zone D: vibration is measured, whatever a model makes of it."""
    if case.kind != Kind.MACHINE or case.state != CaseState.OPEN or case.zone == "D":
        return case
    return replace(case, parent=parent.id)


def release_suspects(
    connection: Connection, changed: Sequence[Case], now: float, policy: Policy
) -> dict[tuple[str, int], Case]:
    """The cases about releases that some of ``changed`` belong to, by model and release.

    One is opened where a release is found to be the likely cause; the cases that were opened with it before become part
    of it. ``changed`` are not stored yet.
    """
    found: dict[tuple[str, int], Case] = {}
    fresh = {
        (case.model, case.release)
        for case in changed
        if case.kind == Kind.MACHINE and not case.resolved and case.parent is None
    }
    for model, release in sorted(fresh):
        key = f"release:{model}/{release}"
        known = case_store.newest_by_key(connection, [key]).get(key)
        if known is not None and not known.resolved:
            found[model, release] = known
            continue
        query = select(releases.c.published_at).where(releases.c.model == model, releases.c.release == release)
        published_at = connection.execute(query).scalar()
        if not is_release_wide(_MOST, _MOST, published_at, now, policy):
            continue  # whatever was raised, the release is too old to be the cause
        since = now - policy.burst_seconds
        of_release = case_store.opened_since(connection, model, release, since, _MOST)
        of_model = case_store.opened_since(connection, model, None, since, _MOST)
        if not is_release_wide(len(of_release), len(of_model), published_at, now, policy):
            continue
        if known is not None and known.resolved_at is not None and now - known.resolved_at < policy.burst_seconds:
            continue  # somebody has looked at the release just now
        found[model, release] = _open(connection, key, of_release[0], now)
        _adopt_older(connection, of_release, {case.id for case in changed}, found[model, release], now)
    return found


def grown(case: Case, parts: Sequence[Case]) -> Case:
    """The case about a release with ``parts``, which became part of it, counted; not stored yet."""
    worst = "critical" if any(part.worst == "critical" for part in parts) else case.worst
    count = case.episode_alerts + len(parts)
    return replace(case, episode_alerts=count, alerts=case.alerts + len(parts), worst=worst, severity=worst)


def _adopt_older(connection: Connection, older: Sequence[Case], but: set[int], parent: Case, now: float) -> None:
    """Make cases that were opened before part of one about a release, ``but`` those that the caller has in hand."""
    parts = []
    for case in older:
        part = adopt(case, parent)
        if case.id not in but and case.parent is None and part.parent is not None:
            parts.append(case_store.update_case(connection, replace(part, look_at=now)))
    case_store.update_case(connection, grown(parent, parts))


def _open(connection: Connection, key: str, example: Case, now: float) -> Case:
    """Open a case about the release of ``example``."""
    case = Case(
        key=key,
        kind=Kind.RELEASE.value,
        severity=example.severity,
        worst=example.worst,
        raised=True,
        device=example.device,
        pipeline=example.pipeline,
        model=example.model,
        release=example.release,
        alerts=0,
        episode_alerts=0,
        episode_at=now,
        first_at=now,
        last_at=now,
        opened_at=now,
        changed_at=now,
    )
    [made] = case_store.insert_cases(connection, [case])
    case_store.add_log(connection, made.id, now, TRIAGE, "opened", "many points raised alerts soon after the release")
    return made
