"""The status as text for people: what ``wheeltapper-agent status`` prints.

Not done here: asking the agent (:mod:`wheeltapper_agent.host.local_socket`), gathering the status
(:mod:`wheeltapper_agent.host.status`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from wheeltapper_protocols.decision.score_age import score_term_seconds

__all__ = ["baseline_line", "status_lines"]


def status_lines(body: Mapping[str, Any], now: float) -> list[str]:
    """The lines for an agent's answer, or for the status that it last wrote to its file.

    Args:
        body: see :meth:`wheeltapper_agent.host.status.AgentStatus.answer`, with ``running``; keys that an older agent
            does not have may be missing.
        now: Unix time in seconds.
    """
    running, connected = body.get("running", False), body.get("connected", False)
    state = ("connected" if connected else "NOT CONNECTED") if running else "DOES NOT RUN"
    agent = f"agent {body.get('agent_version', '?')}, profile {body.get('profile', '?')}"
    protocol = f", MQTT {body['mqtt']}" if running and connected and body.get("mqtt") else ""
    lines = [f"{body.get('device', '?')}: {state}{protocol}; {agent}"]
    if not running and body.get("at"):
        lines.append(f"  last written {_ago(now - body['at'])} ago, {_utc(body['at'])}")
    lines += [f"  TROUBLE  {each}" for each in body.get("troubles", ())]
    if body.get("disconnects"):
        counts = ", ".join(f"{code} {times}" for code, times in sorted(body["disconnects"].items()))
        lines.append(f"  connections that ended since the start: {counts}")
    since = 0.0 if running else max(0.0, now - body.get("at", now))
    for name, pipeline in body.get("pipelines", {}).items():
        lines += _pipeline_lines(name, pipeline, since)
    if body.get("execution"):
        why = f": {body['execution_detail']}" if body.get("execution_detail") else ""
        code = f" [{body['execution_code']}]" if body.get("execution_code") else ""
        lines.append(f"update {body['execution']}: {body.get('execution_state')}{why}{code}")
    captures = body.get("captures") or {}
    if any(captures.values()):
        dropped = f", {captures['dropped']} DROPPED" if captures.get("dropped") else ""
        ignored = f", {captures['ignored']} triggers ignored" if captures.get("ignored") else ""
        unsaid = f", {captures['unsaid']} reports refused by the disk" if captures.get("unsaid") else ""
        metered = " (the network is metered)" if body.get("captures_held_back") else ""
        waiting = f"{captures.get('waiting', 0)} wait for their upload{metered}"
        lines.append(f"recordings: {waiting}{dropped}{ignored}{unsaid}")
    certificate = body.get("certificate") or {}
    if certificate.get("expires_at") is not None:
        ends = f"certificate: ends {_utc(certificate['expires_at'])}, {certificate['days_left']} days left"
        lines.append(ends + (f"; NOT RENEWED: {certificate['trouble']}" if certificate.get("trouble") else ""))
    if "held" in body:
        dropped = f", {body['dropped']} DROPPED" if body.get("dropped") else ""
        lines.append(f"spool: {body['held']} records wait, newest is {body.get('seq', 0)}{dropped}")
    return lines


def _pipeline_lines(name: str, found: Mapping[str, Any], since: float) -> list[str]:
    """The lines on a pipeline, as it was ``since`` seconds ago."""
    release = f"{found['model']} {found['release']}" if found.get("model") else "no model"
    runtime = f" on {found['runtime']}" if found.get("runtime") else ""
    source = found.get("source", "?")
    head = f"pipeline {name}: {release}{runtime}; source {source if source == 'running' else source.upper()}"
    lines = [head]
    if trouble := found.get("trouble"):
        again = f"; tried again in {trouble['next_try_seconds']:.0f} s" if trouble["next_try_seconds"] else ""
        lines.append(f"  TROUBLE  {trouble['message']} [{trouble['code']}], {trouble['times']} times{again}")
    lines += _score_lines(found, since)
    dropped = f", {found['dropped_windows']} DROPPED" if found.get("dropped_windows") else ""
    faults = f", {found['failures']} faults" if found.get("failures") else ""
    partly = f", {found['partly_scored']} SCORED WITHOUT ALL CHANNELS" if found.get("partly_scored") else ""
    unknown = f", {found['unknown_conditions']} IN AN UNKNOWN CONDITION" if found.get("unknown_conditions") else ""
    lines.append(f"  {found.get('windows', 0)} windows since the start{dropped}{faults}{partly}{unknown}")
    if found.get("baseline"):
        lines.append(f"  baseline: {baseline_line(found['baseline'])}")
    counted = ("windows", "values", "dropped")
    quality = [f"{key} {value}" for key, value in (found.get("quality") or {}).items() if key not in counted and value]
    if quality:
        lines.append(f"  data quality: {', '.join(quality)}")
    for fault in found.get("faults", ()):
        over = ", over" if fault["over"] else ""
        lines.append(f"  {fault['times']} times{over}: {fault['text']}")
    return lines


def _score_lines(found: Mapping[str, Any], since: float) -> list[str]:
    """The present score, or since when there is none."""
    lines = ["  TROUBLE  the model gives complete windows no score"] if found.get("no_score") else []
    last, age = found.get("last"), found.get("score_age_seconds")
    if last and since + (age or 0.0) <= score_term_seconds(found.get("pace_seconds")):
        said = [f"score {last['score']:.3g}", str(last["severity"])]
        said += [str(last["label"])] if last.get("label") else []
        said += [f"{last['value']:.4g} left"] if last.get("value") is not None else []
        said += [f"ISO 20816 zone {last['zone']}"] if last.get("zone") else []
        return [*lines, f"  last: {', '.join(said)}{', ALERT' if last.get('alert') else ''}"]
    if last or age is not None:
        lines.append(f"  NO SCORE for {_ago(since + (age or 0.0))}")
    elif found.get("model") and found.get("windows"):
        lines.append("  NO SCORE yet")
    return lines


def baseline_line(found: Mapping[str, Any]) -> str:
    """How far the machine of a pipeline is learnt; see :class:`wheeltapper_protocols.wire.messages.BaselineStatus`."""
    learned, outside = found.get("learned", 0), found.get("outside", 0)
    beside = f", {outside} outside" if outside else ""
    match found.get("phase"):
        case "learned":
            limited = f", {found['limited']} features AT THEIR LIMIT" if found.get("limited") else ""
            most = ", ".join(f"{one['feature']} {one['shift']:+.2g}" for one in found.get("features", ())[:3])
            return f"learned from {learned} windows{beside}{limited}" + (f"; differs most in {most}" if most else "")
        case "refused":
            return f"REFUSED: {outside} windows were far from what the fleet knows; look at the machine, then reset it"
        case _:
            return (
                f"learning, {learned} of {found.get('windows', 0)} windows{beside}; scores are the fleet's until then"
            )


def _ago(seconds: float) -> str:
    """A duration in the largest unit of which there are two or more."""
    for size, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def _utc(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "at no time that a calendar has"
