"""The specification of a policy: read strictly, and refused with the name of the field. Pure.

Example::

    name = "fan-speed"
    model = "fan-anomaly"

    [when.drift]
    devices = 0.1            # a tenth of the devices that report

    [dataset]
    name = "fans"            # recordings go on top of its newest version

    [run]
    recipe = "anomaly"
    parameters = { condition = "speed" }

    [campaign]               # as `wheeltapper campaign create` takes it
    waves = [{ count = 1 }, {}]

Invariants:
    * What cannot be understood is refused, never guessed: unknown fields are errors.
    * A policy has a condition that begins it, and limits on what it may cost: captures, runs, campaigns, time.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec, read_spec
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse
from wheeltapper_protocols.wire.messages import Name

__all__ = ["MAX_SPEC_BYTES", "PolicySpec", "campaign_of", "parse_policy", "read_policy", "recipe_text"]

MAX_SPEC_BYTES: Final = 256 * 1024
_LONGEST: Final = 1e8
Seconds = Annotated[float, Meta(gt=0, le=_LONGEST)]
Share = Annotated[float, Meta(gt=0, le=1)]
Few = Annotated[int, Meta(ge=1, le=1000)]
_OWN: Final = ("model", "release", "audience", "pipelines", "needs_approval", "approvals", "start_at")
"""Fields of a campaign that the policy decides itself."""
_GATES: Final = ("worse", "worst", "side", "label", "required")
"""Fields of ``[gates]`` that a recipe has under the same name."""


class _Closed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DriftLimit(_Closed, frozen=True, kw_only=True):
    """Crossed when enough devices of those that report drift: their features, or their scores, are not as in
    training."""

    devices: Share = 0.1
    """At least this share of the devices that have reported."""
    features: Share = 0.25
    """A device drifts when at least this share of its features moved, or its score did."""
    psi: Annotated[float, Meta(gt=0, le=100)] = 0.25
    """A feature moved when its population stability index is above this and its sampling noise together."""
    windows: Annotated[int, Meta(ge=1, le=10_000_000)] = 100
    """Windows that a device must have reported to count."""
    hours: Annotated[float, Meta(gt=0, le=24 * 365)] = 24.0
    """Reports of the last hours count."""


class PrecisionLimit(_Closed, frozen=True, kw_only=True):
    """Crossed when people's verdicts say, with 95 % confidence, that fewer alerts are true than ``below``."""

    below: Share
    verdicts: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    """At least so many verdicts (true fault or false alarm)."""
    days: Annotated[float, Meta(gt=0, le=3650)] = 90.0


class QualityLimit(_Closed, frozen=True, kw_only=True):
    """Crossed when the estimate from scores alone says, with 95 % confidence, that ``figure`` is worse than ``limit``:
    lower of ``accuracy``, ``precision`` and ``recall``, higher of the errors ``mae`` and ``rmse``."""

    figure: Literal["accuracy", "precision", "recall", "mae", "rmse"]
    limit: Annotated[float, Meta(gt=0, le=1e12)]
    hours: Annotated[float, Meta(gt=0, le=24 * 365)] = 24.0


class AgeLimit(_Closed, frozen=True, kw_only=True):
    """Crossed when the release was published longer ago than ``days``."""

    days: Annotated[float, Meta(gt=0, le=36500)]


class When(_Closed, frozen=True, kw_only=True):
    """The conditions; any of them begins a cycle."""

    drift: DriftLimit | None = None
    precision: PrecisionLimit | None = None
    quality: QualityLimit | None = None
    age: AgeLimit | None = None


class PolicyAudience(_Closed, frozen=True, kw_only=True):
    """The devices that are asked for recordings, and that the campaign is for."""

    tags: dict[str, str] = {}
    query: Annotated[str, Meta(max_length=2000)] = ""


class CapturePlan(_Closed, frozen=True, kw_only=True):
    """How much is recorded."""

    devices: Few = 5
    """At most so many devices are asked: first those that drift, the others by lot."""
    snapshots: Annotated[int, Meta(ge=1, le=10_000)] = 60
    at_least: Few = 1
    """So many recordings must come."""
    within_seconds: Seconds = 86_400.0


class DatasetPlan(_Closed, frozen=True, kw_only=True):
    """Where recordings go: a new version on top of the newest one, machines on the sides where they were."""

    name: Name
    with_faults: bool = False
    """Whether recordings that somebody called a true fault are taken."""
    within_seconds: Seconds = 3600.0


class RunPlan(_Closed, frozen=True, kw_only=True):
    """What is trained on it: a recipe with its parameters."""

    recipe: Annotated[str, Meta(min_length=1, max_length=64)]
    parameters: dict[str, Any] = {}
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    side: Annotated[str, Meta(max_length=40)] = ""
    only: dict[str, str] = {}
    within_seconds: Seconds = 86_400.0


class PolicyGates(_Closed, frozen=True, kw_only=True):
    """How strictly the bundle is judged on data that it was not trained on: ``[gates]`` of the recipe."""

    champion: bool = True
    """Whether it is compared with the release that ``alias`` names."""
    worse: Annotated[float, Meta(ge=0, le=1)] = 0.02
    worst: Annotated[float, Meta(ge=0, le=1)] = 0.6
    side: Annotated[str, Meta(max_length=40)] = ""
    label: Annotated[str, Meta(max_length=64)] = ""
    required: Annotated[list[Literal["champion", "site", "machine", "condition"]], Meta(max_length=4)] = []
    """What fails the run where the data does not allow to judge it."""


class ApprovalPlan(_Closed, frozen=True, kw_only=True):
    """How long a candidate waits for a person."""

    within_seconds: Seconds = 14 * 86_400.0


class Budget(_Closed, frozen=True, kw_only=True):
    """What a policy may cost at most."""

    captures: Few = 20
    """In a cycle."""
    runs: Few = 4
    """In 30 days."""
    campaigns: Few = 2
    """In 30 days."""


class PolicySpec(_Closed, frozen=True, kw_only=True):
    """A policy, read and checked.

    ``alias`` names the release that is watched; a completed campaign lets it name the new one. ``campaign`` has the
    fields of a campaign but those that the policy decides.
    """

    name: Name
    model: Name
    when: When
    dataset: DatasetPlan
    run: RunPlan
    pipeline: Name = "main"
    alias: Name = "champion"
    audience: PolicyAudience = PolicyAudience()
    captures: CapturePlan = CapturePlan()
    gates: PolicyGates = PolicyGates()
    approval: ApprovalPlan = ApprovalPlan()
    campaign: dict[str, Any] = {}
    campaign_within_seconds: Seconds = 30 * 86_400.0
    """How long the campaign may take."""
    budget: Budget = Budget()
    look_seconds: Annotated[float, Meta(ge=1, le=30 * 86_400)] = 3600.0
    """Between two looks at the conditions."""
    cool_down_seconds: Annotated[float, Meta(ge=1, le=_LONGEST)] = 7 * 86_400.0
    """After a cycle, however it ended, nothing begins for so long."""


def parse_policy(text: str) -> dict[str, Any]:
    """The document of a TOML text.

    Raises:
        FleetError: ``policy.malformed``.
    """
    if len(text) > MAX_SPEC_BYTES:
        raise FleetError("policy.malformed", f"a policy has at most {MAX_SPEC_BYTES} characters", 422)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FleetError("policy.malformed", f"the policy is no TOML: {error}", 422) from error


def read_policy(raw: Mapping[str, Any]) -> PolicySpec:
    """Read and check a specification.

    Raises:
        FleetError: ``policy.invalid``, with the field; ``query.invalid``; ``campaign.*`` for the section ``campaign``.
    """
    try:
        spec = msgspec.convert(_whole_numbers(dict(raw)), PolicySpec)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FleetError("policy.invalid", f"the policy is refused: {error}", 422) from error
    if spec.when == When():
        raise _invalid("when: nothing begins it; give when.drift, when.precision, when.quality or when.age")
    if spec.captures.at_least > spec.captures.devices:
        raise _invalid(f"captures.at_least: {spec.captures.at_least} of {spec.captures.devices} devices cannot come")
    if spec.captures.devices > spec.budget.captures:
        raise _invalid(f"captures.devices: the budget is {spec.budget.captures} captures a cycle")
    if spec.audience.query:
        parse(spec.audience.query)
    if spec.gates.side and spec.gates.side == spec.run.side:
        raise _invalid("gates.side: the run is trained on it; name another one, or leave it out")
    if own := sorted(set(spec.campaign) & set(_OWN)):
        raise _invalid(f"campaign.{own[0]}: the policy decides it; leave it out")
    campaign_of(spec, 2)
    recipe_text(spec, f"{spec.dataset.name}@1", spec.run.seed)
    return spec


def campaign_of(spec: PolicySpec, release: int) -> CampaignSpec:
    """The campaign that takes ``release`` to the policy's devices.

    Raises:
        FleetError: ``campaign.*``.
    """
    audience = {"tags": spec.audience.tags, "query": spec.audience.query}
    own = {"model": spec.model, "release": release, "pipelines": [spec.pipeline], "audience": audience}
    return read_spec({**spec.campaign, **own})


def recipe_text(spec: PolicySpec, dataset: str, seed: int) -> str:
    """The recipe file (TOML) of a run.

    Args:
        spec: the policy.
        dataset: ``NAME@VERSION``.
        seed: of the run.

    Raises:
        FleetError: ``policy.invalid``: a parameter is of a kind that recipe files do not have.
    """
    run = spec.run
    lines = [f"recipe = {_toml(run.recipe)}", f"model = {_toml(spec.model)}", f"seed = {seed}", "", "[data]"]
    lines.append(f"dataset = {_toml(dataset)}")
    if run.side:
        lines.append(f"side = {_toml(run.side)}")
    if run.only:
        lines.append(f"only = {_toml(dict(sorted(run.only.items())))}")
    champion = spec.alias if spec.gates.champion else ""
    judged = {"champion": champion} | {
        name: value for name in _GATES if (value := getattr(spec.gates, name)) != getattr(PolicyGates(), name)
    }
    lines += ["", "[gates]", *(f"{name} = {_toml(value)}" for name, value in judged.items())]
    if run.parameters:
        lines += ["", "[parameters]", *(f"{_toml(name)} = {_toml(value)}" for name, value in run.parameters.items())]
    text = "\n".join(lines) + "\n"
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise _invalid("run.parameters: a text with half a surrogate pair is no text")
    return text


def _toml(value: Any) -> str:
    """A value as TOML. What JSON writes of texts, numbers and lists is TOML as well, but for the character DEL."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(name))} = {_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(f"run.parameters: {value} is no number that a recipe takes")
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
    raise _invalid(f"run.parameters: {type(value).__name__} is nothing that a recipe takes")


def _whole_numbers(value: Any) -> Any:
    """``value`` with numbers such as 5.0 as integers, which JSON does not tell apart."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(each) for each in value]
    return value


def _invalid(what: str) -> FleetError:
    return FleetError("policy.invalid", f"the policy is refused: {what}", 422)
