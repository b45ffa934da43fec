"""The specification of a campaign: read strictly, and refused when the campaign is created.

Invariants:
    * A spec that :func:`read_spec` and :func:`plan_waves` accept has abort rules that can be reached, and waves that
      cover the audience exactly once.
    * What cannot be understood is refused, never guessed: unknown fields are errors.

Example::

    spec = read_spec({"model": "bearing", "release": 4, "waves": [{"percent": 10}, {}], "soak_seconds": 3600.0})
    plan_waves(spec, ["press-1", "press-2", "press-3"])  # (("press-1",), ("press-2", "press-3"))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.campaigns.rules.gates import Gate
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse
from wheeltapper_protocols.wire.messages import Name, Release

__all__ = [
    "ALL_PIPELINES",
    "BEFORE",
    "DAYS",
    "FAILURE_STATES",
    "AbortAction",
    "AbortRule",
    "Audience",
    "CampaignSpec",
    "Rate",
    "RetryRule",
    "Success",
    "WaveSpec",
    "Window",
    "plan_waves",
    "read_spec",
]

ALL_PIPELINES: Final = "*"
BEFORE: Final = "before"
"""What ``rollback_to`` says for the release that each device ran before."""
FAILURE_STATES: Final = frozenset({"FAILED", "REJECTED", "ROLLED_BACK", "CANCELLED", "SUPERSEDED"})
RETRIED_STATES: Final[tuple[Literal["FAILED", "REJECTED", "ROLLED_BACK"], ...]] = ("FAILED", "REJECTED", "ROLLED_BACK")
Code = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.]{0,78}\*?\Z")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_STEPS: Final = 100
TimeOfDay = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
TimeZone = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,63}\Z")]
PerMinute = Annotated[float, Meta(gt=0, le=1e6)]
Percent = Annotated[float, Meta(gt=0, le=100)]
Positive = Annotated[int, Meta(ge=1)]


class AbortAction(StrEnum):
    """What happens when an abort rule is broken: the campaign pauses, or it aborts and cancels what is pending, or it
    also takes the devices on which it committed to the release ``rollback_to``, or each to the one that it ran
    ``before``."""

    PAUSE = "PAUSE"
    CANCEL_PENDING = "CANCEL_PENDING"
    ROLLBACK_TO = "ROLLBACK_TO"


class Audience(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices a campaign is for: those in ``devices`` (empty: any) that carry all of ``tags``, match ``query``
    (in the language of :mod:`wheeltapper_fleet.ground.query`), and committed the release of the campaign
    ``committed_in``, if that is given.

    It is evaluated once, when the campaign is created. Where it is ``continuous``, a device that enters it later (it
    enrols, or its tags or its state change) joins the last wave, and the campaign does not complete by itself.
    """

    devices: list[Name] = []
    tags: dict[str, str] = {}
    query: Annotated[str, Meta(max_length=2000)] = ""
    committed_in: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")] = ""
    continuous: bool = False


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many devices of a wave are told in a minute: always ``per_minute``, or faster as it goes well.

    With the other three the rate grows by ``factor`` with every ``every_successes`` of the wave that committed, up to
    ``maximum_per_minute``.
    """

    per_minute: PerMinute
    factor: Annotated[float, Meta(gt=1, le=100)] | None = None
    every_successes: Positive | None = None
    maximum_per_minute: PerMinute | None = None

    def at(self, successes: int) -> float:
        """Devices a minute after ``successes``."""
        if self.factor is None or self.every_successes is None or self.maximum_per_minute is None:
            return self.per_minute
        steps = min(successes // self.every_successes, _MOST_STEPS)
        return min(self.per_minute * self.factor**steps, max(self.maximum_per_minute, self.per_minute))


class WaveSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share of the audience: ``percent`` of the whole, a ``count``, or ``devices`` by name. None of
    them: the rest. Without a ``rate`` all of it is told at once.
    """

    percent: Percent | None = None
    count: Positive | None = None
    devices: Annotated[list[Name], Meta(min_length=1)] | None = None
    rate: Rate | None = None


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which devices may be told: on ``days``, from ``begin`` to ``end`` (HH:MM). Where ``end`` is not after
    ``begin``, it is on the next day."""

    days: Annotated[tuple[Day, ...], Meta(min_length=1, max_length=7)] = DAYS
    begin: TimeOfDay
    end: TimeOfDay


class Success(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many executions of a wave must be COMMITTED for it to pass: ``percent`` of the wave, or a ``count``."""

    percent: Percent | None = None
    count: Positive | None = None

    def needed(self, size: int) -> int:
        """Successes needed in a wave of ``size`` devices; all of them if neither percent nor count is given."""
        if self.count is not None:
            return self.count
        return max(1, math.ceil(size * (100.0 if self.percent is None else self.percent) / 100 - 1e-9))


class AbortRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on failures. Broken when at least ``percent`` or ``count`` of the executions ended in ``states``.

    It is looked at from ``minimum_executed`` executions on. ``percent`` is of what was executed (assigned and ended),
    never of the whole wave. ``scope`` says whether the executions of the whole campaign count, or of the wave alone.
    """

    states: Annotated[tuple[str, ...], Meta(min_length=1)] = ("FAILED", "REJECTED", "ROLLED_BACK")
    percent: Percent | None = None
    count: Positive | None = None
    minimum_executed: Positive = 1
    scope: Literal["wave", "campaign"] = "campaign"

    def __str__(self) -> str:
        limits = [f"{self.percent:g} %"] if self.percent is not None else []
        limits += [str(self.count)] if self.count is not None else []
        return f"{' or '.join(limits)} or more of what this {self.scope} executed ended {', '.join(self.states)}"


class RetryRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A failure that a device is asked again after: in one of ``states``, for one of ``codes`` (empty: any).

    A code may end in ``*``. The device is asked ``times`` more times at most, the first time after ``backoff_seconds``,
    then after twice as long each time. What is asked again has not failed yet: it counts neither for nor against.
    """

    states: Annotated[tuple[Literal["FAILED", "REJECTED", "ROLLED_BACK"], ...], Meta(min_length=1)] = RETRIED_STATES
    codes: Annotated[tuple[Code, ...], Meta(max_length=32)] = ()
    times: Annotated[int, Meta(ge=1, le=10)] = 1
    backoff_seconds: Annotated[float, Meta(ge=0, le=1e7)] = 60.0

    def covers(self, state: str, code: str) -> bool:
        """Whether it is about a failure in ``state`` with ``code``."""
        fits = not self.codes or any(
            code.startswith(each[:-1]) if each.endswith("*") else code == each for each in self.codes
        )
        return state in self.states and fits

    def waits_seconds(self, attempt: int) -> float:
        """How long it waits after the failed ``attempt`` (from 1)."""
        return float(self.backoff_seconds * 2 ** (attempt - 1))


class CampaignSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which release goes to which devices, in which waves, and under which conditions it goes on.

    ``pipelines`` ``["*"]`` means every pipeline that the device's last status message names. Where two campaigns meet
    on a pipeline, the one with the higher ``priority`` decides, else the newer one. ``make_default``: once completed,
    the release becomes the default release of its audience. ``gates`` hold a wave until they have enough data, and stop
    the campaign as ``on_abort`` says if one is broken, or has had to wait for data for ``gate_wait_seconds``. With
    ``needs_approval`` it starts once ``approvals`` persons have approved it, none of whom made or started it.
    Devices are told only within the ``windows``, at any time
    where there are none; their times are those of ``time_zone``.
    """

    model: Name
    release: Release
    pipelines: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)] = ("main",)
    audience: Audience = Audience()
    waves: Annotated[tuple[WaveSpec, ...], Meta(min_length=1, max_length=100)] = (WaveSpec(),)
    success: Success = Success()
    soak_seconds: Annotated[float, Meta(ge=0, le=1e8)] = 0.0
    abort: Annotated[tuple[AbortRule, ...], Meta(max_length=32)] = ()
    on_abort: AbortAction = AbortAction.PAUSE
    rollback_to: Release | Literal["before"] | None = None
    gates: Annotated[tuple[Gate, ...], Meta(max_length=16)] = ()
    gate_wait_seconds: Annotated[float, Meta(ge=0, le=1e8)] = 86_400.0
    approvals: Annotated[int, Meta(ge=1, le=10)] = 1
    execution_deadline_seconds: Annotated[float, Meta(gt=0, le=1e8)] = 3600.0
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    needs_approval: bool = False
    start_at: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    retry: Annotated[tuple[RetryRule, ...], Meta(max_length=16)] = ()
    windows: Annotated[tuple[Window, ...], Meta(max_length=50)] = ()
    time_zone: TimeZone = "UTC"
    make_default: bool = False

    @property
    def longest_seconds(self) -> float:
        """How long it lasts from its start if each wave takes all the time that it may, and nobody pauses it."""
        waits = self.gate_wait_seconds if self.gates else 0.0
        return len(self.waves) * (self.execution_deadline_seconds + self.soak_seconds + waits)


def read_spec(raw: CampaignSpec | Mapping[str, Any]) -> CampaignSpec:
    """Read and check a spec.

    Raises:
        FleetError: ``campaign.spec_invalid`` (a field), ``campaign.rule_invalid`` (an abort rule, a success condition),
            ``campaign.gate_invalid`` (a gate), ``campaign.waves_invalid`` (a wave of two sizes, half a growing rate),
            ``query.invalid``.
    """
    try:
        built = msgspec.to_builtins(raw) if isinstance(raw, CampaignSpec) else dict(raw)
        spec = msgspec.convert(_whole_numbers(built), CampaignSpec)
        for pipeline in spec.pipelines:
            if pipeline != ALL_PIPELINES:
                msgspec.convert(pipeline, Name)
    except msgspec.ValidationError as error:
        raise FleetError(f"campaign.{_part(str(error))}_invalid", f"the campaign is refused: {error}", 422) from error
    if ALL_PIPELINES in spec.pipelines and len(spec.pipelines) > 1:
        raise FleetError("campaign.spec_invalid", "pipelines: use '*' alone or name them", 422)
    if ALL_PIPELINES in spec.pipelines and spec.make_default:
        raise FleetError("campaign.spec_invalid", "make_default: name the pipelines instead of '*'", 422)
    if spec.audience.query:
        parse(spec.audience.query)
        if spec.make_default:
            raise FleetError("campaign.spec_invalid", "make_default: a default release has no query, only tags", 422)
    if spec.make_default and spec.audience.committed_in:
        raise FleetError("campaign.spec_invalid", "make_default: a default release is not for committed_in", 422)
    if spec.on_abort is AbortAction.ROLLBACK_TO and spec.rollback_to is None:
        raise FleetError(
            "campaign.spec_invalid", 'on_abort ROLLBACK_TO: say to which release in rollback_to, or "before"', 422
        )
    if spec.success.percent is not None and spec.success.count is not None:
        raise _rule_invalid("success: give percent or count, not both")
    for number, wave in enumerate(spec.waves, start=1):
        if sum(each is not None for each in (wave.percent, wave.count, wave.devices)) > 1:
            raise _waves_invalid(f"wave {number}: give percent, count or devices, not more than one")
        rate = wave.rate
        if (
            rate is not None
            and len({each is None for each in (rate.factor, rate.every_successes, rate.maximum_per_minute)}) > 1
        ):
            message = "a rate that grows needs factor, every_successes and maximum_per_minute"
            raise _waves_invalid(f"wave {number}: {message}")
    for rule in spec.abort:
        if rule.percent is None and rule.count is None:
            raise _rule_invalid("abort rule: give percent, count or both, else it can never be broken")
        unknown = sorted(set(rule.states) - FAILURE_STATES)
        if unknown:
            raise _rule_invalid(f"abort rule: {unknown} are not ways to fail; use some of {sorted(FAILURE_STATES)}")
    return spec


def _part(message: str) -> str:
    """Which part of a spec msgspec's ``message`` is about."""
    if "$.gates" in message:
        return "gate"
    return "rule" if "$.abort" in message or "$.success" in message else "spec"


def _whole_numbers(value: Any) -> Any:
    """``value`` with 5.0 as 5: JSON has one kind of number, and a count may come as either."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole_numbers(each) for key, each in value.items()}
    return [_whole_numbers(each) for each in value] if isinstance(value, list | tuple) else value


def plan_waves(spec: CampaignSpec, audience: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Which devices each wave takes; every device of the audience is in exactly one.

    Cost: proportional to the audience for each wave (100 at most), some 10 ms for 100,000 devices.

    Raises:
        FleetError: ``campaign.audience_empty``, ``campaign.waves_invalid``, ``campaign.rule_unreachable``.
    """
    left = list(dict.fromkeys(audience))
    total = len(left)
    if total == 0:
        raise FleetError("campaign.audience_empty", "no enrolled device is in the audience", 422)
    named = {device for wave in spec.waves for device in wave.devices or ()}
    waves: list[tuple[str, ...]] = []
    percent = 0.0
    for index, wave in enumerate(spec.waves):
        before = math.ceil(total * percent / 100 - 1e-9)
        percent += wave.percent or 0.0
        size = math.ceil(total * percent / 100 - 1e-9) - before
        taken = _take(wave, left, named, size if wave.percent is not None else wave.count, index)
        gone = set(taken)
        left = [device for device in left if device not in gone]
        waves.append(taken)
    if left:
        raise _waves_invalid(
            f"{len(left)} devices are in no wave; end with a wave without percent, count or devices to take the rest"
        )
    _check_reachable(spec, [len(wave) for wave in waves])
    return tuple(waves)


def _take(wave: WaveSpec, left: list[str], named: set[str], size: int | None, index: int) -> tuple[str, ...]:
    if wave.devices is not None:
        there = set(left)
        unknown = [device for device in wave.devices if device not in there]
        if unknown:
            raise _waves_invalid(
                f"wave {index + 1}: {unknown[:5]} are not in the audience, or already in a wave before it"
            )
        return tuple(dict.fromkeys(wave.devices))
    free = [device for device in left if device not in named]
    if size is not None and size > len(free):
        raise _waves_invalid(f"wave {index + 1} wants {size} devices, but only {len(free)} are left")
    taken = tuple(free if size is None else free[:size])
    if not taken:
        raise _waves_invalid(f"wave {index + 1} would be empty")
    return taken


def _check_reachable(spec: CampaignSpec, sizes: list[int]) -> None:
    if spec.success.count is not None and spec.success.count > min(sizes):
        raise _unreachable(f"success: {spec.success.count} successes can never come from a wave of {min(sizes)}")
    for rule in spec.abort:
        most = max(sizes) if rule.scope == "wave" else sum(sizes)
        if rule.minimum_executed > most or (rule.percent is None and rule.count is not None and rule.count > most):
            raise _unreachable(f"abort rule: it needs more executions than the {most} that its {rule.scope} has")


def _rule_invalid(message: str) -> FleetError:
    return FleetError("campaign.rule_invalid", message, 422)


def _waves_invalid(message: str) -> FleetError:
    return FleetError("campaign.waves_invalid", message, 422)


def _unreachable(message: str) -> FleetError:
    return FleetError("campaign.rule_unreachable", message, 422)
