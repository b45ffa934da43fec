"""Telemetry gates: what must hold on updated devices before a wave passes, and what is said of it. Pure.

A device speaks once: by what changed from the time before its update to the time after it
(:class:`Reading`, ``observe_seconds`` each). Where there are devices that are not yet updated, it is compared with one
of them over the same time, so that what happened to all of them counts for nothing; where there are none left, as in
the last wave, with its own past alone: a change of the plant looks like one of the release then, and the sentence says
"no device to compare with".

Invariants:
    * A gate passes only on data: without enough devices it says HOLD, never PASS.
    * BROKEN stays BROKEN. If all is within the limit, it is said with a probability of at most ``alpha`` over the whole
      campaign, however often one looks (:mod:`wheeltapper_fleet.campaigns.rules.sequential`).
    * A value that cannot be told (no score before, no latency at all) is no value: the device is counted as silent.
      Of ``quality`` alone silence is the worst answer: a device that gave windows before its update and none after it.

Example::

    state = begin(LatencyGate(max_increase=0.1))
    state = observe(state, 0, (Reading(...), Reading(...)), control=(Reading(...), Reading(...)))
    judge(state, wave=0, size=40)  # PASS, or HOLD, or BROKEN, with a sentence
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.campaigns.rules.sequential import RateTest, ShiftTest

__all__ = [
    "BUCKET_SECONDS",
    "AlertRateGate",
    "CrashFreeGate",
    "Gate",
    "GatePoint",
    "GateResult",
    "GateState",
    "LatencyGate",
    "QualityGate",
    "Reading",
    "ScoreShiftGate",
    "Verdict",
    "begin",
    "count_ending",
    "is_worth_a_point",
    "judge",
    "kind_of",
    "observe",
    "point_of",
    "read_state",
    "write_state",
]

BUCKET_SECONDS: Final = 300
"""Telemetry is rolled up by so many seconds; the times before and after an update consist of whole ones."""
_LONGEST_SECONDS: Final = 7 * 86_400

Share = Annotated[float, Meta(ge=0, lt=1)]
Alpha = Annotated[float, Meta(ge=1e-6, le=0.5)]


class _Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all gates have: the rate of false stops, and how many devices of each wave must have spoken (all of them,
    in a smaller wave)."""

    alpha: Alpha = 0.05
    minimum_devices: Annotated[int, Meta(ge=1, le=500)] = 10


class _Watching(_Gate, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gate on telemetry: ``observe_seconds`` before an update are compared with as many after it."""

    observe_seconds: Annotated[int, Meta(ge=BUCKET_SECONDS, le=_LONGEST_SECONDS, multiple_of=BUCKET_SECONDS)] = 900


class LatencyGate(_Watching, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="latency"):
    """The mean time to score a window rises by at most ``max_increase`` (0.1: by a tenth)."""

    max_increase: Annotated[float, Meta(ge=0, le=100)] = 0.1


class ScoreShiftGate(_Watching, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="score_shift"):
    """The mean score moves by at most ``max_shift``, up or down (1.0 is the warning threshold)."""

    max_shift: Annotated[float, Meta(ge=0, le=1e6)] = 0.1


class QualityGate(_Watching, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="quality"):
    """On at most ``max_share`` of the devices the share of windows that are missing rises by more than
    ``max_increase``."""

    max_increase: Share = 0.01
    max_share: Share = 0.05


class AlertRateGate(_Watching, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="alert_rate"):
    """On at most ``max_share`` of the devices the share of windows with a warning or a critical score rises by more
    than ``max_increase``."""

    max_increase: Share = 0.01
    max_share: Share = 0.05


class CrashFreeGate(_Gate, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="crash_free"):
    """At least ``min_share`` of the devices that activated the release keep it; the others rolled it back, because it
    crashed, was too slow or went wrong in probation."""

    min_share: Annotated[float, Meta(gt=0, le=1)] = 0.98


Gate = LatencyGate | ScoreShiftGate | QualityGate | AlertRateGate | CrashFreeGate


class Verdict(StrEnum):
    """What a gate says of a wave. HOLD: there is not enough data yet."""

    PASS = "PASS"  # noqa: S105  # no password
    HOLD = "HOLD"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Reading:
    """Sums over the windows of one device in one span of time.

    ``alarms`` are windows with a warning or critical severity; latencies are in milliseconds.
    """

    windows: int = 0
    missing: int = 0
    scored: int = 0
    score_sum: float = 0.0
    latencies: int = 0
    latency_sum_ms: float = 0.0
    alarms: int = 0


@dataclass(frozen=True)
class GateState:
    """What a gate has seen in the campaign so far.

    Args:
        gate: what it asks.
        tests: one; of a gate that looks both ways, upwards and downwards.
        devices: updated devices that spoke.
        compared: those of them that were compared with one that is not yet updated.
        silent: updated devices of which nothing can be told.
        by_wave: how many of ``devices`` are of which wave.
        total: sum of the values: of the changes, or of the devices that got worse.
        control_total: the same of the devices that were compared with.
    """

    gate: Gate
    tests: tuple[ShiftTest | RateTest, ...]
    devices: int = 0
    compared: int = 0
    silent: int = 0
    total: float = 0.0
    control_total: float = 0.0
    by_wave: tuple[int, ...] = ()


@dataclass(frozen=True)
class GateResult:
    """What a gate says, with its figures. ``p_value`` is always valid; None without data."""

    kind: str
    verdict: Verdict
    sentence: str
    devices: int
    p_value: float | None


@dataclass(frozen=True)
class GatePoint:
    """How a gate stood when so many ``devices`` had spoken.

    ``evidence`` is the logarithm of the capital against the release, divided among the tests; the gate breaks where it
    reaches ``log(1 / alpha)``. ``mean`` is of updated devices, ``control_mean`` of those that they were compared with.
    """

    devices: int
    evidence: float
    mean: float
    control_mean: float | None


Pair = tuple[Reading, Reading]
"""Before and after."""
_POINT_GROWTH: Final = 0.02
_STORED: Final = tuple(name for name in GateState.__dataclass_fields__ if name != "gate")


class _Stored(Struct, frozen=True, kw_only=True):
    devices: int
    compared: int
    silent: int
    total: float
    control_total: float
    by_wave: tuple[int, ...]


class _OfShifts(_Stored, frozen=True, kw_only=True):
    tests: tuple[ShiftTest, ...]


class _OfRates(_Stored, frozen=True, kw_only=True):
    tests: tuple[RateTest, ...]


def begin(gate: Gate) -> GateState:
    """A gate that has seen nothing."""
    match gate:
        case LatencyGate():
            return GateState(gate, (ShiftTest(math.log1p(gate.max_increase)),))
        case ScoreShiftGate():
            return GateState(gate, (ShiftTest(gate.max_shift), ShiftTest(gate.max_shift)))
        case CrashFreeGate():
            return GateState(gate, (RateTest(1.0 - gate.min_share),))
        case _:
            return GateState(gate, (RateTest(gate.max_share),))


def observe(state: GateState, wave: int, device: Pair, control: Pair | None) -> GateState:
    """The gate after an updated device of ``wave`` (from 0) spoke.

    ``control`` is one that is not yet updated; None: there is none. One of which nothing can be told is as none.
    """
    value = _change(state.gate, device)
    if value is None:
        return replace(state, silent=state.silent + 1)
    of_control = None if control is None else _change(state.gate, control)
    seen = replace(
        state,
        compared=state.compared + (of_control is not None),
        control_total=state.control_total + (of_control or 0.0),
    )
    return _add(seen, wave, value, value - (of_control or 0.0))


def count_ending(state: GateState, wave: int, kept: bool) -> GateState:
    """A :class:`CrashFreeGate` after a device that activated the release kept it or rolled it back."""
    value = 0.0 if kept else 1.0
    return _add(state, wave, value, value)


def judge(state: GateState, *, wave: int, size: int) -> GateResult:
    """What the gate says of ``wave`` (from 0), of which ``size`` devices can speak."""
    kind = kind_of(state.gate)
    p_value = min(1.0, len(state.tests) * min(test.evidence.p_value for test in state.tests))
    needed = max(1, min(state.gate.minimum_devices, size))
    in_wave = state.by_wave[wave] if wave < len(state.by_wave) else 0
    if state.devices == 0:
        verdict = Verdict.HOLD
    elif p_value <= state.gate.alpha:
        verdict = Verdict.BROKEN
    else:
        verdict = Verdict.PASS if in_wave >= needed else Verdict.HOLD
    return GateResult(
        kind=kind,
        verdict=verdict,
        sentence=f"{kind}: {_sentence(state, verdict, p_value, in_wave, needed)}",
        devices=state.devices,
        p_value=p_value if state.devices else None,
    )


def point_of(state: GateState) -> GatePoint | None:
    """How a gate stands now; None: no device has spoken."""
    if not state.devices:
        return None
    evidence = max(test.evidence.log_capital for test in state.tests) - math.log(len(state.tests))
    control = state.control_total / state.compared if state.compared else None
    return GatePoint(state.devices, evidence, state.total / state.devices, control)


def is_worth_a_point(before: int, devices: int) -> bool:
    """Whether so many more ``devices`` spoke than ``before`` that a curve should have a point: a fiftieth more, so that
    50,000 devices leave some 400 points."""
    return devices > before and devices >= before * (1 + _POINT_GROWTH)


def write_state(state: GateState) -> Any:
    """The state as values of JSON, without the gate itself."""
    return msgspec.to_builtins({name: getattr(state, name) for name in _STORED})


def read_state(gate: Gate, stored: Any) -> GateState:
    """The state that :func:`write_state` wrote of ``gate``.

    Raises:
        msgspec.ValidationError: it is no state of such a gate.
    """
    fresh = begin(gate)
    found: _OfShifts | _OfRates
    if isinstance(fresh.tests[0], ShiftTest):
        found = msgspec.convert(stored, _OfShifts)
    else:
        found = msgspec.convert(stored, _OfRates)
    if [test.margin for test in found.tests] != [test.margin for test in fresh.tests]:
        raise msgspec.ValidationError("it is of a gate with another limit")
    return GateState(gate, **{name: getattr(found, name) for name in _STORED})


def kind_of(gate: Gate) -> str:
    """The name of the gate's kind."""
    return str(type(gate).__struct_config__.tag)


def _add(state: GateState, wave: int, value: float, difference: float) -> GateState:
    """The gate after one more device of ``wave``: ``value`` is its own, ``difference`` that from its control."""
    first, *more = state.tests
    counts = [*state.by_wave, *[0] * (wave + 1 - len(state.by_wave))]
    counts[wave] += 1
    return replace(
        state,
        tests=(first.add(difference), *(test.add(-difference) for test in more)),
        devices=state.devices + 1,
        total=state.total + value,
        by_wave=tuple(counts),
    )


_LARGEST_LOG: Final = 700.0
"""e to this is still a number."""
_LEAST_P: Final = 1e-300


def _change(gate: Gate, device: Pair) -> float | None:
    """What changed on a device: a logarithm, a difference of scores, or 1.0 if it got worse than the gate allows and
    0.0 if not; None where it cannot be told."""
    before, after = device
    match gate:
        case LatencyGate():
            if min(before.latencies, after.latencies) == 0 or min(before.latency_sum_ms, after.latency_sum_ms) <= 0:
                return None
            now, once = (math.log(each.latency_sum_ms) - math.log(each.latencies) for each in (after, before))
            return now - once if math.isfinite(now - once) else None
        case ScoreShiftGate():
            if min(before.scored, after.scored) == 0:
                return None
            shift = after.score_sum / after.scored - before.score_sum / before.scored
            return shift if math.isfinite(shift) else None
        case QualityGate():
            if before.windows == 0:
                return None
            share = after.missing / after.windows if after.windows else 1.0
            return float(share - before.missing / before.windows > gate.max_increase)
        case AlertRateGate():
            if min(before.scored, after.scored) == 0:
                return None
            return float(after.alarms / after.scored - before.alarms / before.scored > gate.max_increase)
        case CrashFreeGate():
            return None


def _sentence(state: GateState, verdict: Verdict, p_value: float, in_wave: int, needed: int) -> str:
    if state.devices == 0:
        silent = f"; {state.silent} updated devices are silent" if state.silent else ""
        return f"no data yet: 0 of {needed} devices of this wave{silent}"
    found = f"{_found(state)}, on {state.devices} updated devices {_compared(state)}"
    if verdict is Verdict.BROKEN:
        often = 1 / max(p_value, _LEAST_P)
        return f"{found}; if the limit were kept, so much would be seen once in {often:.3g} campaigns at most"
    if verdict is Verdict.HOLD:
        return f"{found}; waiting for {needed - in_wave} more devices of this wave"
    return found


def _found(state: GateState) -> str:
    """What was seen, and the limit."""
    gate = state.gate
    mean = state.total / state.devices
    beside = state.control_total / state.compared if state.compared else 0.0
    match gate:
        case LatencyGate():
            return f"{_percent(math.expm1(min(mean - beside, _LARGEST_LOG)))} (limit {_percent(gate.max_increase)})"
        case ScoreShiftGate():
            return f"scores moved by {mean - beside:+.3g} (limit {gate.max_shift:g})"
        case CrashFreeGate():
            kept = state.devices - round(state.total)
            return f"{kept} of {state.devices} kept the release (at least {100 * gate.min_share:g} %)"
        case QualityGate() | AlertRateGate():
            what = "miss more windows" if isinstance(gate, QualityGate) else "give more alarms"
            seen = f"{round(state.total)} of {state.devices} {what}"
            against = f", {round(state.control_total)} of {state.compared} others do" if state.compared else ""
            return f"{seen}{against} (limit {100 * gate.max_share:g} % of the devices)"


def _percent(share: float) -> str:
    return f"{100 * share:+.3g} %"


def _compared(state: GateState) -> str:
    if isinstance(state.gate, CrashFreeGate):
        return "that activated it"
    if state.compared == state.devices:
        return "against as many that are not updated"
    if state.compared == 0:
        return "against their own past, with no device to compare with"
    return f"against {state.compared} that are not updated, the others against their own past"
