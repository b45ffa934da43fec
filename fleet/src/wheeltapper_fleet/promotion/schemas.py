"""Promotions as the API takes them and gives them out. Pure. Times are Unix seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, Whole
from wheeltapper_fleet.registry.promotion_rules import AliasText, Condition, PromotionRule

__all__ = [
    "CardRow",
    "CardSection",
    "ComparedGate",
    "Difference",
    "EstimatedFigure",
    "FieldResult",
    "GateValue",
    "PromotionAnswer",
    "PromotionDetail",
    "PromotionLogEntry",
    "PromotionRequest",
    "PromotionView",
    "QualityView",
    "ReleaseCard",
    "ReleaseComparison",
    "RuleRemoval",
    "RuleRequest",
]

Why = Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)]


class PromotionRequest(BaseModel):
    """Ask that ``alias`` should name ``release`` as soon as its rule is met."""

    model_config = CLOSED

    model: AliasText
    alias: AliasText
    release: Annotated[int, Field(ge=1, le=999_999_999), Whole]
    why: Why = ""


class PromotionAnswer(BaseModel):
    """Approve or reject a promotion."""

    model_config = CLOSED

    why: Why = ""


class RuleRequest(BaseModel):
    """Let an alias have a rule."""

    model_config = CLOSED

    rule: PromotionRule
    why: Why = ""


class RuleRemoval(BaseModel):
    """Let an alias ask nothing of a release."""

    model_config = CLOSED

    why: Why = ""


class PromotionView(BaseModel):
    """Somebody asked that an alias should name a release.

    ``state`` is ``waiting``, ``promoted``, ``rejected``, ``superseded`` (by a newer request for the same alias) or
    ``expired``.
    """

    id: int
    model: str
    alias: str
    release: int
    state: str
    requested_by: str
    requested_at: float
    why: str
    ended_at: float | None


class PromotionLogEntry(BaseModel):
    """One line of the log of rules and promotions, which is only ever added to."""

    id: int
    model: str
    alias: str
    promotion: int | None
    release: int | None
    at: float
    who: str
    event: str
    detail: str


class PromotionDetail(PromotionView):
    """A promotion with the conditions of the alias's rule, as they are met now, and what happened to it."""

    conditions: list[Condition]
    approved_by: list[str]
    log: list[PromotionLogEntry]


class EstimatedFigure(BaseModel):
    """One figure of quality: ``accuracy``, ``precision`` or ``recall`` of a classifier's windows, ``mae`` or ``rmse``.

    ``value`` is between ``low`` and ``high`` (one-sided 95 % each); all are None where there is not enough, and ``why``
    says what lacks. ``reference`` is what it was on held-out windows of training.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    why: str


class QualityView(BaseModel):
    """The estimated quality of a release over reports of ``since`` to ``until`` (Unix seconds).

    ``devices`` reported; ``running`` pipelines say that they run it (counted up to 10,000; None for one device), so the
    others reported nothing: their agents are too old, or silent. ``left_out`` are reports that were not added up.
    ``score_psi`` says how far the scores are from those of healthy windows in training.
    """

    model: str
    release: int
    since: float
    until: float
    kind: str
    unit: str
    devices: int
    running: int | None
    reports: int
    left_out: int
    windows: int
    unscored: int
    score_psi: float | None
    score_psi_noise: float
    figures: list[EstimatedFigure]


class GateValue(BaseModel):
    """What a gate measured, its limit, and what its ``detail`` says of it, such as its confidence."""

    value: float
    limit: float
    passed: bool
    detail: str


class ComparedGate(BaseModel):
    """A gate of two releases; None where a release does not have it."""

    name: str
    one: GateValue | None
    other: GateValue | None


class Difference(BaseModel):
    """A place at which two releases differ, with both values; None where there is none."""

    path: str
    one: str | None
    other: str | None


class FieldResult(BaseModel):
    """What people found of the cases that a release raised; ``precision`` with its 95 % interval, None for none."""

    true_faults: int
    false_alarms: int
    precision: float | None
    precision_low: float
    precision_high: float


class ReleaseComparison(BaseModel):
    """Two releases of a model side by side. ``differences`` are of the signed manifests, at most 200; ``lineage`` says
    what differs in dataset, recipe, parameters, seed and libraries."""

    model: str
    one: int
    other: int
    gates: list[ComparedGate]
    differences: list[Difference]
    more_differences: int
    features_only_one: list[str]
    features_only_other: list[str]
    lineage: list[Difference]
    bytes_one: int
    bytes_other: int
    model_bytes_one: int
    model_bytes_other: int
    field_one: FieldResult
    field_other: FieldResult


class CardRow(BaseModel):
    """One line of a model card."""

    name: str
    value: str


class CardSection(BaseModel):
    """One section of a model card."""

    title: str
    rows: list[CardRow]


class ReleaseCard(BaseModel):
    """The model card of a release, from its signed manifest and the fleet's records."""

    model: str
    release: int
    sections: list[CardSection]
