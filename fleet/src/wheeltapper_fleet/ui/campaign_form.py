"""The form of a new campaign: what a person writes becomes a specification. Pure.

Example:
    >>> spec_of(CampaignForm(model="bearing", release="4", q="site = north", waves="1, 10 %, rest", gates=["latency"]))
    {'model': 'bearing', 'release': 4, 'pipelines': ['main'], 'audience': {'query': 'site = north'}, ...}
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["GATES", "CampaignForm", "spec_of"]

GATES: Final = {
    "latency": "scoring a window takes no more than a tenth longer",
    "score_shift": "scores move by no more than 0.1",
    "quality": "no more windows are missing",
    "alert_rate": "no more alarms are given",
    "crash_free": "at least 98 % keep the release",
}
"""The telemetry gates that the form offers, each with what it asks for by default."""
_WAVE: Final = re.compile(r"(?P<rest>rest)|(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?P<percent>%)?")
_Short = Annotated[str, StringConstraints(max_length=40)]
_Long = Annotated[str, StringConstraints(max_length=2000)]


class CampaignForm(BaseModel):
    """The fields of the form as they are written; ``full`` asks for a dry run whatever it costs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Annotated[str, StringConstraints(max_length=63)] = ""
    release: _Short = ""
    pipelines: Annotated[str, StringConstraints(max_length=400)] = "main"
    q: _Long = ""
    waves: Annotated[str, StringConstraints(max_length=400)] = "1, 10 %, rest"
    success: _Short = ""
    soak_minutes: _Short = ""
    abort_percent: _Short = "20"
    deadline_hours: _Short = ""
    gates: list[_Short] = []
    needs_approval: _Short = ""
    outcome: _Short = ""
    full: _Short = ""


def spec_of(form: CampaignForm) -> dict[str, Any]:
    """The specification that a form says; the campaign service checks it.

    Raises:
        FleetError: ``campaign.form``: a field cannot be read.
    """
    if not form.model.strip():
        raise _unreadable("model", "name the model")
    spec: dict[str, Any] = {"model": form.model.strip(), "release": _whole("release", form.release)}
    spec["pipelines"] = [name for name in re.split(r"[,\s]+", form.pipelines.strip()) if name] or ["main"]
    spec["audience"] = {"query": form.q.strip()}
    spec["waves"] = [_wave(text) for text in form.waves.split(",") if text.strip()] or [{}]
    if form.success.strip():
        spec["success"] = {"percent": _number("success", form.success)}
    if form.soak_minutes.strip():
        spec["soak_seconds"] = 60.0 * _number("soak_minutes", form.soak_minutes)
    if form.abort_percent.strip():
        spec["abort"] = [{"percent": _number("abort_percent", form.abort_percent)}]
    if form.deadline_hours.strip():
        spec["execution_deadline_seconds"] = 3600.0 * _number("deadline_hours", form.deadline_hours)
    if gates := [name for name in GATES if name in form.gates]:
        spec["gates"] = [{"kind": name} for name in gates]
    if form.needs_approval:
        spec["needs_approval"] = True
    return spec


def _wave(text: str) -> dict[str, Any]:
    found = _WAVE.fullmatch(text.strip())
    if found is None:
        raise _unreadable("waves", f"{text.strip()[:40]!r} is no wave: write 5, 10 % or rest, with commas between")
    if found["rest"]:
        return {}
    if found["percent"]:
        return {"percent": float(found["number"])}
    return {"count": _whole("waves", found["number"])}


def _whole(field: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise _unreadable(field, f"{text.strip()[:40]!r} is no whole number")
    return int(text)


def _number(field: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text.strip()):
        raise _unreadable(field, f"{text.strip()[:40]!r} is no number")
    return float(text)


def _unreadable(field: str, what: str) -> FleetError:
    return FleetError("campaign.form", f"{field.replace('_', ' ')}: {what}", 422)
