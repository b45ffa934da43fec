"""What becomes of a case without anybody: it is handled and says why, or it needs a person and is ranked. Pure.

:func:`judge` looks at the first row that applies:

==========================  =========  ====================================================================
case                        attention  why
==========================  =========  ====================================================================
about a release             person     many points raised alerts soon after one release: look at the release
part of such a case         nobody     the case about the release stands for it
in maintenance              nobody     alerts are kept and counted; looked at again when the maintenance ends
cleared, a single warning   nobody     it cleared by itself soon; the case is settled
device trouble, cleared     nobody     the pipeline gives scores again; the case is settled
a single young warning      waiting    it may clear by itself; not where the machine is critical, nor in zone D
all else                    person     ranked by risk
==========================  =========  ====================================================================

The risk is from 0 to 100. It adds up what speaks for harm (severity, zone, rising score, criticality, time, repetition)
and is then weighed by how often the model was right before, with a Beta(2, 2) prior so that few findings decide little.
The weights are a choice, not a measurement: what matters is the order, and each is said in a reason.

Invariants:
    * The same facts give the same judgement, word for word.
    * What a person has taken is never settled: there only risk and reasons change.
    * Every judgement has at least one reason.
    * Nothing is handled for ever: where it is not settled, ``look_at`` says when it is judged again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.alerts.case import Case, CaseState, Kind, Policy

__all__ = ["Facts", "Judgement", "is_release_wide", "judge"]

NOBODY, PERSON, WAITING = "nobody", "person", "waiting"
_SOONEST_SECONDS: Final = 900.0
_LATEST_SECONDS: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What triage knows besides the case itself.

    Args:
        silenced_until: the end of a maintenance that the case is in now (Unix seconds), and ``silence_reason``.
        score: the newest score of the pipeline, None where it is not known.
        true_faults, false_alarms: what was found of the model's cases before.
    """

    silenced_until: float | None = None
    silence_reason: str = ""
    score: float | None = None
    true_faults: int = 0
    false_alarms: int = 0


@dataclass(frozen=True)
class Judgement:
    """What triage says of a case. ``settle``: it needs nobody and is closed."""

    attention: str
    why: tuple[str, ...]
    risk: float
    look_at: float | None = None
    settle: bool = False


def judge(case: Case, facts: Facts, now: float, policy: Policy) -> Judgement:
    """Judge a case that is not resolved.

    Args:
        case: the case.
        facts: what else is known.
        now: Unix seconds.
        policy: how long to wait for what.
    """
    risk, reasons = _risk(case, facts, now)
    free = case.state == CaseState.OPEN
    if case.parent is not None and free:
        return Judgement(NOBODY, (f"it belongs to case {case.parent}, which stands for it", *reasons), risk)
    if case.kind == Kind.RELEASE:
        said = f"{case.episode_alerts} points raised alerts soon after release {case.release} of {case.model} came"
        return Judgement(PERSON, (said, *reasons), risk, _later(case, now))
    if facts.silenced_until is not None and free:
        said = f"in maintenance: {facts.silence_reason}; alerts are kept and counted, and nobody is told"
        return Judgement(NOBODY, (said,), risk, facts.silenced_until)
    lasted = case.last_at - case.episode_at
    single = case.episode_alerts == 1 and case.episode <= 2 and case.worst != "critical"
    if not case.raised and free and case.kind == Kind.DEVICE:
        return Judgement(NOBODY, ("the pipeline gives scores again",), 0.0, settle=True)
    if not case.raised and free and single and lasted <= policy.settle_seconds:
        said = f"a single warning that cleared by itself after {_duration(lasted)}"
        return Judgement(NOBODY, (said,), 0.0, settle=True)
    young = now - case.episode_at < policy.settle_seconds
    if case.raised and free and single and young and case.criticality != "high" and case.zone != "D":
        minutes = _duration(policy.settle_seconds)
        said = f"a single warning, {_duration(now - case.episode_at)} old: it may clear by itself within {minutes}"
        return Judgement(WAITING, (said,), risk, case.episode_at + policy.settle_seconds)
    return Judgement(PERSON, tuple(reasons), risk, _later(case, now))


def is_release_wide(of_release: int, of_model: int, published_at: float | None, now: float, policy: Policy) -> bool:
    """Whether a release is the likely cause of what many points raised.

    Args:
        of_release: how many points opened cases with the release within ``policy.burst_seconds``.
        of_model: how many did with any release of its model.
        published_at: when the release was published (Unix seconds); None where that is not known.
        now: Unix seconds.
        policy: the limits.
    """
    young = published_at is not None and now - published_at <= policy.release_young_seconds
    return young and of_release >= policy.burst_points and of_release >= policy.burst_share * of_model


def _risk(case: Case, facts: Facts, now: float) -> tuple[float, list[str]]:
    """The risk of a case and the reasons for it, the weightiest first."""
    parts = [_severity(case)]
    if case.kind == Kind.DEVICE:
        parts = [(15.0, "the pipeline gives no score: the device is in trouble, the machine is not watched")]
    if case.zone in ("C", "D"):
        parts.append((20.0 if case.zone == "D" else 10.0, f"vibration is in zone {case.zone} of ISO 20816"))
    newest = facts.score if facts.score is not None else case.score
    if newest is not None and case.first_score is not None and newest > case.first_score > 0:
        grown = newest / case.first_score
        parts.append((min(15.0, 10 * math.log2(grown)), f"the score rose from {case.first_score:.2g} to {newest:.2g}"))
    if case.criticality != "normal":
        parts.append((15.0 if case.criticality == "high" else -10.0, f"criticality of the machine: {case.criticality}"))
    age = max(0.0, (now if case.raised else case.last_at) - case.episode_at)
    if age >= 3600:
        parts.append((10 * (1 - math.exp(-age / 86_400)), f"raised for {_duration(age)}"))
    if case.episode_alerts > 1 and case.kind != Kind.RELEASE:
        parts.append((min(10.0, 2.0 * (case.episode_alerts - 1)), f"{case.episode_alerts} alerts of the same place"))
    if case.episode > 1:
        parts.append((min(15.0, 5.0 * (case.episode - 1)), f"it came back {_times(case.episode - 1)}"))
    if case.kind == Kind.RELEASE:
        parts.append((min(20.0, 4 * math.log2(1 + case.episode_alerts)), "many points are concerned"))
    if not case.raised:
        parts.append((-15.0, "it has cleared"))
    risk = sum(points for points, _ in parts)
    reasons = [text for _, text in sorted(parts, key=lambda part: -abs(part[0]))]
    found = facts.true_faults + facts.false_alarms
    if found and case.kind == Kind.MACHINE:
        precision = (facts.true_faults + 2) / (found + 4)
        risk *= 0.5 + precision
        reasons.append(f"{case.model} was right in {facts.true_faults} of {found} cases that were looked into")
    return round(min(100.0, max(0.0, risk)), 3), reasons


def _severity(case: Case) -> tuple[float, str]:
    if case.worst == "critical":
        return 55.0, "critical" if case.severity == "critical" else "it was critical"
    return 30.0, "a warning"


def _later(case: Case, now: float) -> float:
    """When to judge again: soon at first, then less often, at least once a day."""
    return now + min(_LATEST_SECONDS, max(_SOONEST_SECONDS, (now - case.episode_at) / 4))


def _duration(seconds: float) -> str:
    """A duration in words, to one unit."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}" + ("s" if count > 1 else "")
    return f"{max(0, int(seconds))} seconds"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
