"""A case: alerts of one place that somebody acts on together, and its machine. Pure.

==============  =============  =================================================
from            event          to
==============  =============  =================================================
open            acknowledge    acknowledged
open            work           in_work
acknowledged    work           in_work
any             resolve        resolved (again: the feedback is corrected)
open            settle         resolved, by triage: it needs nobody
resolved        reopen         open
==============  =============  =================================================

Invariants:
    * Any other pair is refused (``case.illegal``).
    * What a person has taken (acknowledged, in_work) is never settled by triage.
    * Alerts that come in another order than they happened lead to the same case: what is shown as present is what
      happened last.
    * Each change of a case raises its version by one.

Example::

    case = opened(key="point:press-4", alert=alert, place=None, now=now)
    case = taken(case, newer_alert, now, POLICY)
    case = act(case, CaseEvent.RESOLVE, now)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import NO_SCORE

__all__ = [
    "TRIAGE",
    "Case",
    "CaseAlert",
    "CaseEvent",
    "CaseState",
    "Kind",
    "Policy",
    "Verdict",
    "Where",
    "act",
    "is_worse",
    "key_of",
    "opened",
    "reopened",
    "taken",
]

_RANK: Final = {"normal": 0, "warning": 1, "critical": 2}
TRIAGE: Final = "triage"
"""Who acts where nobody did."""


class CaseState(StrEnum):
    """Where a case stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    IN_WORK = "in_work"
    RESOLVED = "resolved"


class CaseEvent(StrEnum):
    """What moves a case."""

    ACKNOWLEDGE = "acknowledge"
    WORK = "work"
    RESOLVE = "resolve"
    SETTLE = "settle"
    REOPEN = "reopen"


class Kind(StrEnum):
    """What a case is about: a machine, a device that gives no score, or a release that many devices complain of."""

    MACHINE = "machine"
    DEVICE = "device"
    RELEASE = "release"


class Verdict(StrEnum):
    """What was found."""

    TRUE_FAULT = "true_fault"
    FALSE_ALARM = "false_alarm"
    UNCLEAR = "unclear"


_TABLE: Final[dict[tuple[CaseState, CaseEvent], CaseState]] = {
    (CaseState.OPEN, CaseEvent.ACKNOWLEDGE): CaseState.ACKNOWLEDGED,
    (CaseState.OPEN, CaseEvent.WORK): CaseState.IN_WORK,
    (CaseState.ACKNOWLEDGED, CaseEvent.WORK): CaseState.IN_WORK,
    (CaseState.OPEN, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.ACKNOWLEDGED, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.IN_WORK, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.RESOLVED, CaseEvent.RESOLVE): CaseState.RESOLVED,
    (CaseState.OPEN, CaseEvent.SETTLE): CaseState.RESOLVED,
    (CaseState.RESOLVED, CaseEvent.REOPEN): CaseState.OPEN,
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long triage waits for what.

    Args:
        settle_seconds: a single warning that clears itself within this needs nobody.
        quiet_seconds: after a person resolved a case, alerts within this do not reopen it.
        reopen_seconds: an alert later than this after the resolution opens a new case.
        burst_seconds, burst_points, burst_share: a release is the cause where this many points raised alerts with it
            within this time, and they are this share of all that did with the model.
        release_young_seconds: only a release that was published within this is suspected.
    """

    settle_seconds: float = 600.0
    quiet_seconds: float = 3600.0
    reopen_seconds: float = 30 * 86_400.0
    burst_seconds: float = 6 * 3600.0
    burst_points: int = 5
    burst_share: float = 0.8
    release_young_seconds: float = 14 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class CaseAlert:
    """What a case takes from an alert. ``happened_at`` is Unix seconds."""

    id: int
    device: str
    pipeline: str
    model: str
    release: int
    severity: str
    raised: bool
    score: float
    happened_at: float
    label: str | None = None
    zone: str | None = None
    silenced: bool = False


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where an alert belongs: a point of a machine on a site; of what is not mapped, the device's site at most."""

    point: str | None = None
    machine: str | None = None
    site: str | None = None
    criticality: str = "normal"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case; see :mod:`wheeltapper_fleet.alerts.tables` for times.

    ``severity`` is that of the newest alert, ``worst`` the highest of this episode; ``raised`` says whether the newest
    alert is still raised. An episode begins when the case is opened or reopened. ``attention`` is ``waiting`` (too
    early to say), ``person`` or ``nobody``, ``why`` the reasons, ``risk`` 0 to 100. ``told`` is the severity that
    people were told of last. ``parent`` is the case about a release that this one belongs to.
    """

    id: int = 0
    version: int = 1
    key: str
    kind: str
    state: str = CaseState.OPEN.value
    attention: str = "waiting"
    why: tuple[str, ...] = ()
    risk: float = 0.0
    severity: str
    worst: str
    raised: bool
    device: str
    pipeline: str
    model: str
    release: int
    point: str | None = None
    machine: str | None = None
    site: str | None = None
    criticality: str = "normal"
    label: str | None = None
    zone: str | None = None
    score: float | None = None
    first_score: float | None = None
    alerts: int = 1
    silenced: int = 0
    episode: int = 1
    episode_alerts: int = 1
    episode_at: float
    first_at: float
    last_at: float
    opened_at: float
    changed_at: float
    acknowledged_at: float | None = None
    resolved_at: float | None = None
    resolved_by: str | None = None
    assignee: str | None = None
    verdict: str | None = None
    part: str | None = None
    note: str | None = None
    work_order: str | None = None
    failed_at: float | None = None
    parent: int | None = None
    told: str | None = None
    look_at: float | None = None

    @property
    def resolved(self) -> bool:
        """Whether nobody works on it any more."""
        return self.state == CaseState.RESOLVED


def key_of(alert: CaseAlert, where: Where) -> str:
    """What makes alerts belong together: their point, else their device's pipeline. That a pipeline gives no score is
    a trouble of the device and has a case of its own."""
    source = f"{alert.device}/{alert.pipeline}"
    if alert.label == NO_SCORE:
        return f"device:{source}"
    return f"point:{where.point}" if where.point is not None else f"source:{source}"


def is_worse(severity: str, than: str | None) -> bool:
    """Whether ``severity`` is higher; anything is worse than None."""
    return than is None or _RANK.get(severity, 0) > _RANK.get(than, 0)


def opened(*, key: str, alert: CaseAlert, where: Where, now: float) -> Case:
    """The case that an alert opens."""
    score = None if alert.label == NO_SCORE else alert.score
    return Case(
        key=key,
        kind=(Kind.DEVICE if alert.label == NO_SCORE else Kind.MACHINE).value,
        severity=alert.severity,
        worst=alert.severity,
        raised=True,
        device=alert.device,
        pipeline=alert.pipeline,
        model=alert.model,
        release=alert.release,
        point=where.point,
        machine=where.machine,
        site=where.site,
        criticality=where.criticality,
        label=alert.label,
        zone=alert.zone,
        score=score,
        first_score=score,
        silenced=int(alert.silenced),
        episode_at=alert.happened_at,
        first_at=alert.happened_at,
        last_at=alert.happened_at,
        opened_at=now,
        changed_at=now,
    )


def taken(case: Case, alert: CaseAlert, now: float, policy: Policy) -> Case:
    """The case after one more alert; its state does not change, except that a resolved one may be reopened."""
    counted = replace(
        case,
        alerts=case.alerts + 1,
        episode_alerts=case.episode_alerts + int(alert.raised),
        silenced=case.silenced + int(alert.silenced),
        first_at=min(case.first_at, alert.happened_at),
        changed_at=now,
    )
    if case.episode == 1 and alert.raised:
        counted = replace(counted, episode_at=min(case.episode_at, alert.happened_at))
    if alert.happened_at >= case.last_at:
        counted = replace(
            counted,
            last_at=alert.happened_at,
            raised=alert.raised,
            severity=alert.severity if alert.raised else case.severity,
            device=alert.device,
            pipeline=alert.pipeline,
            model=alert.model,
            release=alert.release,
            label=alert.label if alert.raised else case.label,
            zone=alert.zone if alert.raised else case.zone,
            score=alert.score if alert.raised and alert.label != NO_SCORE else case.score,
        )
    if alert.raised and is_worse(alert.severity, counted.worst):
        counted = replace(counted, worst=alert.severity)
    if not case.resolved or not counted.raised:
        return counted
    return _after_resolution(counted, alert, now, policy)


def _after_resolution(case: Case, alert: CaseAlert, now: float, policy: Policy) -> Case:
    """A resolved case whose alert is raised again: reopened, or looked at when its quiet time is over."""
    assert case.resolved_at is not None
    quiet_until = case.resolved_at + (0.0 if case.resolved_by == TRIAGE else policy.quiet_seconds)
    if alert.happened_at < quiet_until and now < quiet_until:
        return replace(case, look_at=quiet_until)
    return reopened(case, max(alert.happened_at, case.resolved_at), now)


def reopened(case: Case, since: float, now: float) -> Case:
    """The case in its next episode, which began at ``since``; the feedback of the one before is in the log and labels.

    Raises:
        FleetError: ``case.illegal``.
    """
    return replace(
        act(case, CaseEvent.REOPEN, now),
        episode=case.episode + 1,
        episode_alerts=1,
        episode_at=since,
        worst=case.severity,
        first_score=case.score,
        acknowledged_at=None,
        resolved_at=None,
        resolved_by=None,
        verdict=None,
        part=None,
        note=None,
        work_order=None,
        failed_at=None,
        parent=None,
        told=None,
        look_at=None,
    )


def act(case: Case, event: CaseEvent, now: float) -> Case:
    """The case after an event; its version is one higher when it is stored.

    Raises:
        FleetError: ``case.illegal``: the table has no such transition.
    """
    state = _TABLE.get((CaseState(case.state), event))
    if state is None:
        possible = ", ".join(each.value for (begin, each) in _TABLE if begin == case.state)
        raise FleetError("case.illegal", f"case {case.id} is {case.state}: {event} is not possible; {possible} is", 409)
    return replace(case, state=state.value, changed_at=now)
