"""Telemetry gates: what each says of devices that got better, worse, or nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.campaigns.rules.gates import (
    AlertRateGate,
    CrashFreeGate,
    Gate,
    GateState,
    LatencyGate,
    QualityGate,
    Reading,
    ScoreShiftGate,
    Verdict,
    begin,
    count_ending,
    judge,
    observe,
    read_state,
    write_state,
)

FINE = Reading(windows=900, missing=0, scored=900, score_sum=270.0, latencies=900, latency_sum_ms=1800.0, alarms=0)
"""Fifteen minutes of a device: a window a second, a mean score of 0.3, 2 ms each."""
WORSE = {
    "latency": replace(FINE, latency_sum_ms=2700.0),
    "score_shift": replace(FINE, score_sum=720.0),
    "quality": replace(FINE, windows=900, missing=90, scored=810, score_sum=243.0),
    "alert_rate": replace(FINE, alarms=90),
}
GATES: dict[str, Gate] = {
    "latency": LatencyGate(max_increase=0.1),
    "score_shift": ScoreShiftGate(max_shift=0.1),
    "quality": QualityGate(),
    "alert_rate": AlertRateGate(),
}


def after(state: GateState, count: int, reading: Reading, control: Reading | None = FINE) -> GateState:
    for _ in range(count):
        state = observe(state, 0, (FINE, reading), None if control is None else (FINE, control))
    return state


def verdict(state: GateState, size: int = 100) -> Verdict:
    return judge(state, wave=0, size=size).verdict


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("control", [FINE, None])
def test_worse_devices_break_it_and_equal_ones_pass(kind: str, control: Reading | None) -> None:
    assert verdict(after(begin(GATES[kind]), 30, FINE, control)) is Verdict.PASS
    assert verdict(after(begin(GATES[kind]), 30, WORSE[kind], control)) is Verdict.BROKEN


@pytest.mark.parametrize("kind", GATES)
def test_what_happens_to_all_devices_is_not_the_release(kind: str) -> None:
    assert verdict(after(begin(GATES[kind]), 200, WORSE[kind], WORSE[kind])) is Verdict.PASS
    alone = judge(after(begin(GATES[kind]), 200, WORSE[kind], None), wave=0, size=200)
    assert alone.verdict is Verdict.BROKEN
    assert "no device to compare with" in alone.sentence


@pytest.mark.parametrize("kind", GATES)
def test_of_each_kind_of_harm_only_its_gate_is_broken(kind: str) -> None:
    for other in set(GATES) - {kind}:
        assert verdict(after(begin(GATES[other]), 60, WORSE[kind])) is Verdict.PASS


def test_a_score_may_not_fall_either() -> None:
    state = after(begin(ScoreShiftGate(max_shift=0.1)), 40, replace(FINE, score_sum=9.0))
    assert verdict(state) is Verdict.BROKEN
    assert "scores moved by -0.29 (limit 0.1)" in judge(state, wave=0, size=40).sentence


def test_faster_devices_do_not_break_the_latency_gate() -> None:
    assert verdict(after(begin(LatencyGate()), 500, replace(FINE, latency_sum_ms=90.0))) is Verdict.PASS


@pytest.mark.parametrize("gate", [*GATES.values(), CrashFreeGate()])
def test_no_data_is_never_a_pass(gate: Gate) -> None:
    for size in (0, 1, 100):
        found = judge(begin(gate), wave=0, size=size)
        assert found.verdict is Verdict.HOLD
        assert "no data yet" in found.sentence
        assert found.p_value is None


@pytest.mark.parametrize("kind", sorted(set(GATES) - {"quality"}))
@pytest.mark.parametrize("empty", [Reading(), replace(FINE, latencies=0, scored=0)])
def test_a_device_of_which_nothing_can_be_told_is_counted_as_silent(kind: str, empty: Reading) -> None:
    state = begin(GATES[kind])
    for device in ((empty, FINE), (FINE, empty), (empty, empty)):
        state = observe(state, 0, device, None)
    assert (state.devices, state.silent) == (0, 3)
    assert "3 updated devices are silent" in judge(state, wave=0, size=3).sentence


def test_a_device_that_went_silent_has_the_worst_quality() -> None:
    assert verdict(after(begin(QualityGate()), 20, Reading())) is Verdict.BROKEN
    new = observe(begin(QualityGate()), 0, (Reading(), FINE), None)
    assert (new.devices, new.silent) == (0, 1)


def test_a_control_that_says_nothing_is_as_good_as_none() -> None:
    state = after(begin(LatencyGate()), 12, FINE, Reading())
    assert (state.devices, state.compared) == (12, 0)
    mixed = after(state, 12, FINE)
    assert "against 12 that are not updated, the others against their own past" in judge(mixed, wave=0, size=9).sentence


def test_enough_devices_of_this_very_wave_must_have_spoken() -> None:
    state = after(begin(LatencyGate(minimum_devices=10)), 9, FINE)
    waiting = judge(state, wave=0, size=50)
    assert waiting.verdict is Verdict.HOLD
    assert "waiting for 1 more devices of this wave" in waiting.sentence
    assert judge(state, wave=0, size=9).verdict is Verdict.PASS  # a smaller wave: all of it
    assert judge(after(state, 1, FINE), wave=0, size=50).verdict is Verdict.PASS
    assert judge(after(state, 99, FINE), wave=1, size=50).verdict is Verdict.HOLD
    assert observe(state, 2, (FINE, FINE), None).by_wave == (9, 0, 1)


def test_broken_stays_broken() -> None:
    state = after(begin(LatencyGate()), 15, WORSE["latency"])
    assert verdict(after(state, 500, replace(FINE, latency_sum_ms=900.0))) is Verdict.BROKEN


def test_releases_that_are_rolled_back_break_the_crash_free_gate() -> None:
    state = begin(CrashFreeGate(min_share=0.9))
    for kept in [True] * 20 + [False] * 2:
        state = count_ending(state, 0, kept)
    assert verdict(state) is Verdict.PASS
    for _ in range(9):
        state = count_ending(state, 0, False)
    found = judge(state, wave=0, size=40)
    assert found.verdict is Verdict.BROKEN
    assert "20 of 31 kept the release (at least 90 %)" in found.sentence


def test_noisy_devices_with_an_allowed_change_break_nothing() -> None:
    """Latencies that differ tenfold between devices and scatter by a third each time, 5 % more after the update."""
    random = np.random.default_rng(7)
    broken = 0
    for _ in range(200):
        state = begin(LatencyGate(max_increase=0.05))
        for own, other in 1800.0 * 10 ** random.random((60, 2)):
            noise = random.lognormal(0, 0.3, 4)
            device = (replace(FINE, latency_sum_ms=own * noise[0]), replace(FINE, latency_sum_ms=1.05 * own * noise[1]))
            control = (replace(FINE, latency_sum_ms=other * noise[2]), replace(FINE, latency_sum_ms=other * noise[3]))
            state = observe(state, 0, device, control)
        broken += verdict(state) is Verdict.BROKEN
    assert broken <= 23  # of 200 at a rate of 5 %: more has a probability below 0.1 %


numbers = st.integers(0, 10**9)
readings = st.builds(
    Reading, numbers, numbers, numbers, st.floats(-1e100, 1e100), numbers, st.floats(0, 1e100), numbers
)


@given(
    gate=st.sampled_from(list(GATES.values())),
    devices=st.lists(st.tuples(readings, readings, readings, readings, st.integers(0, 5)), max_size=8),
)
def test_any_readings_give_a_verdict_and_a_state_that_can_be_stored(
    gate: Gate, devices: list[tuple[Reading, Reading, Reading, Reading, int]]
) -> None:
    state = begin(gate)
    for one, two, three, four, wave in devices:
        state = observe(state, wave, (one, two), (three, four))
    assert state.devices + state.silent == len(devices)
    assert sum(state.by_wave) == state.devices
    judge(state, wave=0, size=len(devices))
    stored = msgspec.json.decode(msgspec.json.encode(write_state(state)))
    assert read_state(gate, stored) == state


@pytest.mark.parametrize(("before_ms", "after_ms"), [(5e-324, 1e100), (1e100, 5e-324), (5e-324, 5e-324)])
def test_latencies_without_measure_have_a_verdict(before_ms: float, after_ms: float) -> None:
    state = begin(LatencyGate())
    for _ in range(40):
        pair = Reading(9, 9, 0, 0.0, 2, before_ms, 0), Reading(9, 9, 0, 0.0, 2, after_ms, 0)
        state = observe(state, 0, pair, pair[:1] * 2)
    assert state.devices == 40
    assert math.isfinite(state.total)
    assert judge(state, wave=0, size=40).sentence


@pytest.mark.parametrize("change", [{"tests": []}, {"devices": "x"}, {"tests": [{"margin": 9.0}]}, {"by_wave": None}])
def test_a_state_of_another_gate_is_refused(change: dict[str, Any]) -> None:
    stored = {**write_state(begin(LatencyGate())), **change}
    with pytest.raises(msgspec.ValidationError):
        read_state(LatencyGate(), stored)


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "latency", "max_share": 0.1},
        {"kind": "latency", "max_increase": -0.1},
        {"kind": "latency", "observe_seconds": 301},
        {"kind": "latency", "observe_seconds": 0},
        {"kind": "quality", "alpha": 0},
        {"kind": "quality", "alpha": 0.9},
        {"kind": "quality", "max_increase": 1.0},
        {"kind": "crash_free", "observe_seconds": 300},
        {"kind": "crash_free", "min_share": 0},
        {"kind": "speed"},
        {"max_increase": 0.1},
        {"kind": "latency", "minimum_devices": 0},
    ],
)
def test_what_a_gate_does_not_know_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, Gate)


def test_all_pairs_of_kind_and_verdict_have_a_sentence() -> None:
    for gate, reading in itertools.product(GATES.values(), [FINE, *WORSE.values()]):
        for count in (0, 1, 40):
            found = judge(after(begin(gate), count, reading), wave=0, size=20)
            assert found.sentence.startswith(f"{found.kind}: ")
