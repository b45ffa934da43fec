"""Alerts, cases and silences as the API takes them and gives them out. Pure.

Invariant: a request with an unknown field is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, QueryText, Whole, either
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = [
    "AlertView",
    "AssignRequest",
    "BudgetRequest",
    "BudgetView",
    "CaseDetail",
    "CaseLogEntry",
    "CaseVersion",
    "CaseView",
    "CommentRequest",
    "LabelView",
    "LimitView",
    "LimitsRequest",
    "LimitsView",
    "ResolveRequest",
    "SilenceRequest",
    "SilenceView",
    "SimilarCase",
    "SimilarCases",
    "ValueView",
    "WorkRequest",
]


Version = Annotated[int, Field(ge=1, le=999_999_999), Whole] | None
UnixSeconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=NO_NUL)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=NO_NUL)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]


class AlertView(BaseModel):
    """A device raised an alert or cleared one (``raised``).

    ``at`` is Unix seconds by the device's clock, ``t_s`` seconds by the machine's. ``reasons`` names the features that
    made up the score, each with its share of it. ``label`` is the likeliest class, ``value`` the life that remains, in
    ``unit``, and ``zone`` the zone by ISO 20816 (A to D); each is None where the model does not say it.
    ``slowly``: it was raised by a score that lasts, though it is not at the threshold.
    The alert that complete windows get no score has the label ``model.no_score``, and no ``score``.
    ``case_id``, ``channel`` and ``point`` are those that triage found; ``silenced`` says that it came during
    maintenance.
    """

    id: int
    device: str
    pipeline: str
    window: int
    t_s: float
    at: float
    model: str
    release: int
    score: float | None
    severity: str
    raised: bool
    label: str | None = None
    value: float | None = None
    unit: str | None = None
    zone: str | None = None
    slowly: bool = False
    reasons: list[dict[str, Any]]
    case_id: int | None = None
    channel: str | None = None
    point: str | None = None
    silenced: bool = False


class CaseView(BaseModel):
    """A case: alerts of one place that somebody acts on together. Times are Unix seconds.

    ``attention`` is ``person``, ``nobody`` (triage handled it) or ``waiting`` (too early to say), and ``why`` says why;
    ``risk`` (0 to 100) is what the list is ordered by. ``parent`` is the case about a release that stands for this one.
    """

    id: int
    version: int
    kind: str
    state: str
    attention: str
    why: list[str]
    risk: float
    severity: str
    worst: str
    raised: bool
    device: str
    pipeline: str
    model: str
    release: int
    point: str | None
    machine: str | None
    site: str | None
    criticality: str
    label: str | None
    zone: str | None
    score: float | None
    alerts: int
    silenced: int
    episode: int
    first_at: float
    last_at: float
    opened_at: float
    changed_at: float
    acknowledged_at: float | None
    resolved_at: float | None
    resolved_by: str | None
    assignee: str | None
    verdict: str | None
    part: str | None
    note: str | None
    work_order: str | None
    failed_at: float | None
    parent: int | None


class CaseLogEntry(BaseModel):
    """What happened to a case; ``who`` is ``triage`` where nobody did it."""

    at: float
    who: str
    event: str
    detail: str


class CaseDetail(CaseView):
    """A case with the newest of what happened to it (at most 100), newest first, and the other open cases of the same
    machine (at most 100)."""

    log: list[CaseLogEntry]
    same_machine: list[int]


class SimilarCase(BaseModel):
    """An earlier case that looked alike, and what it turned out to be.

    ``agreement`` (0 to 1) is the share of the reasons that both have in common. Times are Unix seconds.
    """

    id: int
    agreement: float
    kind: str
    model: str
    release: int
    point: str | None
    machine: str | None
    device: str
    pipeline: str
    verdict: str
    part: str | None
    note: str | None
    first_at: float
    resolved_at: float | None
    failed_at: float | None


class SimilarCases(BaseModel):
    """Earlier cases that looked like ``case``, the most alike first (at most 5), of ``compared`` with a verdict."""

    case: int
    compared: int
    similar: list[SimilarCase]


class _Closed(BaseModel):
    model_config = CLOSED


class CaseVersion(_Closed):
    """The version of a case that an action was decided on (the header ``If-Match`` says the same)."""

    expected_version: Version = None


class WorkRequest(CaseVersion):
    """Somebody works on the case."""

    work_order: Line | None = None


class ResolveRequest(CaseVersion):
    """What was found. ``failed_at`` (Unix seconds) is when the machine failed; left out: it did not."""

    model_config = CLOSED | ConfigDict(
        json_schema_extra=either(
            {"properties": {"verdict": {"const": "true_fault"}}}, {"properties": {"failed_at": {"type": "null"}}}
        )
    )

    verdict: Literal["true_fault", "false_alarm", "unclear"]
    part: Line | None = None
    note: Words | None = None
    work_order: Line | None = None
    failed_at: UnixSeconds | None = None


class AssignRequest(CaseVersion):
    """Whose case it is; null: nobody's."""

    assignee: Line | None


class CommentRequest(CaseVersion):
    """A line for the case's log."""

    text: Words


class BudgetRequest(_Closed):
    """At most this many false alarms per 100 machine-weeks, over the last ``days``, of a model, a site, both or all."""

    model: Name | None = None
    site: Line | None = None
    per_100_machine_weeks: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    days: Annotated[int, Field(ge=1, le=730), Whole] = 28


class BudgetView(BaseModel):
    """A budget and how it is kept. Rates are false alarms per 100 machine-weeks, with their 95 % interval; ``status``
    is ``kept``, ``exceeded`` or ``unsure`` (too few findings), which ``said`` says in words."""

    id: int
    model: str | None
    site: str | None
    per_100_machine_weeks: float
    days: int
    set_at: float
    set_by: str
    false_alarms: int
    machine_weeks: float
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    status: str
    said: str
    suggestions: list[str]


class LimitView(BaseModel):
    """A limit of triage: what is in force, what it is where nobody set it, and its bounds."""

    name: str
    value: float
    default: float
    low: float
    high: float
    set_at: float | None
    set_by: str | None


class LimitsView(BaseModel):
    """All limits of triage, by name."""

    limits: list[LimitView]


class LimitsRequest(_Closed):
    """Set limits of triage by name; null: back to the default. Those that are not named stay."""

    limits: Annotated[
        dict[str, Annotated[float, Field(allow_inf_nan=False)] | None], Field(min_length=1, max_length=16)
    ]


class ValueView(BaseModel):
    """What the alerts of a model at a site were worth, by what people found.

    A true fault is a save where the machine did not fail. ``precision`` is the share of true faults among true faults
    and false alarms, with its 95 % interval. The lead time is from the first alert to the failure, or to the end of the
    case where it did not come to one; the median of the ``lead_count`` newest.
    """

    model: str
    site: str | None
    true_faults: int
    saves: int
    failures: int
    false_alarms: int
    unclear: int
    precision: float | None
    precision_low: float
    precision_high: float
    lead_seconds_median: float | None
    lead_count: int


class LabelView(BaseModel):
    """What a device's pipeline measured from ``from_at`` to ``to_at`` (Unix seconds; ``from_t_s``, ``to_t_s`` by the
    machine's clock) was: a true fault of ``part``, a false alarm, or unclear."""

    id: int
    case_id: int
    device: str
    pipeline: str
    model: str
    release: int
    point: str | None
    machine: str | None
    site: str | None
    verdict: str
    part: str | None
    from_at: float
    to_at: float
    from_t_s: float
    to_t_s: float
    failed_at: float | None
    resolved_at: float
    who: str


class SilenceRequest(_Closed):
    """Maintenance: of an ``asset`` and what belongs to it, or of the devices of a ``query``. Times are Unix
    seconds; ``from_at`` is now by default."""

    model_config = CLOSED | ConfigDict(
        json_schema_extra=either(
            {"required": ["asset"], "properties": {"asset": {"type": "string"}, "query": {"maxLength": 0}}},
            {
                "required": ["query"],
                "properties": {"asset": {"type": "null"}, "query": {"pattern": r"\S", "format": "wheeltapper-devices"}},
            },
        )
    )

    asset: Name | None = None
    query: QueryText = ""
    from_at: UnixSeconds | None = None
    to_at: UnixSeconds
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_NUL)]


class SilenceView(BaseModel):
    """A silence; ``active`` says whether it holds now."""

    id: int
    asset: str | None
    query: str
    from_at: float
    to_at: float
    reason: str
    who: str
    created_at: float
    active: bool
