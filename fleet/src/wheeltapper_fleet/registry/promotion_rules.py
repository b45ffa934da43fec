"""What a release must have before an alias may name it: the rule of a (model, alias), and whether facts meet it. Pure.

Invariants:
    * Every condition that a rule states is judged; one whose fact is missing is not met.
    * A rule that states nothing but approvals is met by them alone.

Example:
    >>> rule = PromotionRule(was_alias="candidate", was_alias_hours=24, approvals=1)
    >>> [(each.name, each.met) for each in judge(rule, Facts(gates={}, named_seconds=3600.0), approvals=1)]
    [('was_alias', False), ('approvals', True)]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from wheeltapper_fleet.ground.body import CLOSED, PRINTABLE, Whole
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = ["ERRORS", "Condition", "Facts", "PromotionRule", "Quality", "QualityNeed", "judge"]

_HOUR_SECONDS: Final = 3600.0
GateName = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=PRINTABLE)]
AliasText = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]


ERRORS: Final = ("mae", "rmse")
"""Figures that are the better the smaller they are."""


class QualityNeed(BaseModel):
    """The quality that devices' scores must show without labels, with 95 % confidence.

    Args:
        figure: of a classifier's windows, or an error of a remaining life in the manifest's unit.
        limit: it is at least this; of an error at most.
        hours: reports of so many hours count.
    """

    model_config = CLOSED

    figure: Literal["accuracy", "precision", "recall", "mae", "rmse"]
    limit: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
    hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] = 168.0


class PromotionRule(BaseModel):
    """What a release must have before the alias may name it. A condition that is left out asks nothing.

    Args:
        gates: gates that its manifest must have, and have passed; a release with a failed gate is never published.
        was_alias: it was this alias of the same model for ``was_alias_hours`` in all.
        approvals: how many persons must approve, none of whom asked for it, each with the role approver or admin.
        campaign_devices: a campaign that completed committed it on as many devices.
        no_open_critical: no case about it that was ever critical is open.
        quality: what its estimated quality must show.
        may_return: an alias may go back, without all of this, to a release that it named before.
    """

    model_config = CLOSED

    gates: Annotated[list[GateName], Field(max_length=64)] = []
    was_alias: AliasText | None = None
    was_alias_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)] = 0.0
    approvals: Annotated[int, Field(ge=0, le=10), Whole] = 0
    campaign_devices: Annotated[int, Field(ge=0, le=10_000_000), Whole] = 0
    no_open_critical: bool = False
    quality: QualityNeed | None = None
    may_return: bool = False

    @model_validator(mode="after")
    def _has_alias(self) -> PromotionRule:
        if self.was_alias_hours and self.was_alias is None:
            raise PydanticCustomError("promotion_rule.invalid", "was_alias_hours needs was_alias: say of which alias")
        return self


@dataclass(frozen=True)
class Quality:
    """A figure as it is estimated: None where there is not enough, and ``why`` says what lacks."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of a release when it is judged.

    Args:
        gates: the gates of its signed manifest, by name, with whether they passed.
        named_seconds: for how long in all ``was_alias`` named it; None: it never did.
        campaign_devices: of its campaigns that completed, the most devices that one committed it on; None: none did.
        open_critical: the numbers of open cases about it that were critical, at most ten.
        quality: of the rule's figure; None: nobody looked.
        was_named: whether the alias that is asked for named it before.
    """

    gates: Mapping[str, bool] = field(default_factory=dict)
    named_seconds: float | None = None
    campaign_devices: int | None = None
    open_critical: tuple[int, ...] = ()
    quality: Quality | None = None
    was_named: bool = False


class Condition(BaseModel):
    """One condition of a rule, whether it is met, and both sides of it in words."""

    name: str
    met: bool
    needed: str
    found: str


def judge(rule: PromotionRule, facts: Facts, approvals: int) -> list[Condition]:
    """Every condition that ``rule`` states; with ``may_return`` and a release that was named before, that one alone.

    Args:
        rule: of the alias.
        facts: of the release.
        approvals: how many persons have approved.
    """
    if rule.may_return and facts.was_named:
        return [Condition(name="may_return", met=True, needed="the alias named it before", found="it did")]
    found = []
    for name in rule.gates:
        said = {None: "not in its manifest", True: "passed", False: "failed"}[facts.gates.get(name)]
        found.append(Condition(name=f"gate {name}", met=said == "passed", needed="passed", found=said))
    if rule.was_alias is not None:
        hours = None if facts.named_seconds is None else facts.named_seconds / _HOUR_SECONDS
        found.append(
            Condition(
                name="was_alias",
                met=hours is not None and hours >= rule.was_alias_hours,
                needed=f"{rule.was_alias} for {rule.was_alias_hours:g} h",
                found="never" if hours is None else f"for {hours:.4g} h",
            )
        )
    if rule.campaign_devices:
        devices = facts.campaign_devices
        found.append(
            Condition(
                name="campaign_devices",
                met=devices is not None and devices >= rule.campaign_devices,
                needed=f"a campaign completed on {rule.campaign_devices} devices",
                found="no campaign completed" if devices is None else f"on {devices}",
            )
        )
    if rule.no_open_critical:
        cases = ", ".join(str(number) for number in facts.open_critical)
        found.append(
            Condition(
                name="no_open_critical",
                met=not facts.open_critical,
                needed="no open case that was critical",
                found=f"case {cases}" if cases else "none",
            )
        )
    if rule.quality is not None:
        found.append(_judge_quality(rule.quality, facts.quality or Quality(why="nobody estimated it")))
    if rule.approvals:
        found.append(
            Condition(
                name="approvals",
                met=approvals >= rule.approvals,
                needed=f"{rule.approvals} by others than who asked",
                found=str(approvals),
            )
        )
    return found


def _judge_quality(need: QualityNeed, found: Quality) -> Condition:
    """Whether the end of the interval that is worse meets the limit."""
    smaller = need.figure in ERRORS
    end = found.high if smaller else found.low
    met = found.value is not None and end is not None and (end <= need.limit if smaller else end >= need.limit)
    said = f"not known: {found.why}"
    if found.value is not None and found.low is not None and found.high is not None:
        said = f"{found.value:.4g}, between {found.low:.4g} and {found.high:.4g}"
    side = "at most" if smaller else "at least"
    needed = f"estimated {side} {need.limit:g} with 95 % confidence, in {need.hours:g} h"
    return Condition(name=f"quality {need.figure}", met=met, needed=needed, found=said)
