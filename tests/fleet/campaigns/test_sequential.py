"""The sequential tests keep what they promise: exactly where all outcomes can be listed, and by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from wheeltapper_fleet.campaigns.rules.sequential import Evidence, RateTest, ShiftTest

ALPHA = 0.05
RUNS = 500
DEVICES = 80
SURE = 0.999
"""The confidence with which a simulated rate must not lie above what is promised."""


def capital(evidence: Evidence) -> float:
    return math.exp(evidence.log_capital)


# --- exactly ----------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=7), margin=st.sampled_from([0.0, 0.1, -3.0]))
@example(sizes=[1.0] * 7, margin=0.0)
def test_where_signs_are_a_fair_coin_the_capital_is_1_on_average_and_rarely_large(
    sizes: list[float], margin: float
) -> None:
    ends, stopped = [], 0
    for signs in itertools.product((-1.0, 1.0), repeat=len(sizes)):
        test = ShiftTest(margin)
        for sign, size in zip(signs, sizes, strict=True):
            test = test.add(margin + sign * size)
        ends.append(capital(test.evidence))
        stopped += test.evidence.stops(ALPHA)
    assert sum(ends) / len(ends) == pytest.approx(1.0, rel=1e-6)
    assert stopped / len(ends) <= ALPHA


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.25])
def test_where_as_many_fail_as_may_the_capital_is_1_on_average(rate: float) -> None:
    mean = stopped = 0.0
    for outcomes in itertools.product((0.0, 1.0), repeat=10):
        test = RateTest(rate)
        for outcome in outcomes:
            test = test.add(outcome)
        failed = sum(outcomes)
        share = rate**failed * (1 - rate) ** (len(outcomes) - failed)
        mean += share * capital(test.evidence)
        stopped += share * test.evidence.stops(ALPHA)
    assert mean == pytest.approx(1.0)
    assert 0 < stopped <= ALPHA


def test_unanimous_devices_stop_it_as_soon_as_a_mixture_of_bets_can() -> None:
    test = RateTest(0.0)
    for count in range(1, 8):
        test = test.add(1.0)
        stakes = (np.arange(16) + 0.5) / 16
        assert capital(test.evidence) == pytest.approx(np.mean((1 + stakes) ** count))
    assert test.evidence.stops(ALPHA)
    assert test.evidence.p_value < ALPHA


# --- by simulation ----------------------------------------------------------------------------------------------------

LIMITS = stats.t.ppf(1 - ALPHA, np.arange(-1, DEVICES)).tolist()
"""Of Student's t, by the number of values."""
Values = NDArray[np.float64]
Stop = Callable[[Iterator[float]], int | None]
"""Looks after every device; gives the number of devices at which it stopped."""


def looking(test: ShiftTest | RateTest, values: Iterator[float]) -> int | None:
    for value in values:
        test = test.add(value)
        if test.evidence.stops(ALPHA):
            return test.evidence.units
    return None


def t_test_looked_at_again_and_again(values: Iterator[float]) -> int | None:
    """What must not be done: a test for one look, at every look."""
    seen: list[float] = []
    for value in values:
        seen.append(value)
        mean = sum(seen) / len(seen)
        if len(seen) >= 5:
            deviation = math.sqrt(sum((each - mean) ** 2 for each in seen) / (len(seen) - 1))
            if mean / (deviation / math.sqrt(len(seen))) > LIMITS[len(seen)]:
                return len(seen)
    return None


def stops(draw: Callable[[Generator], Values], stop: Stop) -> list[int]:
    """At how many devices each of the runs that stopped did."""
    random = np.random.default_rng(20261129)
    found = (stop(iter(draw(random).tolist())) for _ in range(RUNS))
    return [each for each in found if each is not None]


def surely_at_least(count: int, runs: int = RUNS) -> float:
    """The lower limit of Clopper and Pearson (1934): the rate is, surely enough, at least this."""
    return float(stats.beta.ppf(1 - SURE, count, runs - count + 1)) if count else 0.0


def surely_at_most(count: int, runs: int = RUNS) -> float:
    """The upper limit of Clopper and Pearson."""
    return float(stats.beta.ppf(SURE, count + 1, runs - count)) if count < runs else 1.0


ALL_IS_WELL: dict[str, Callable[[Generator], Values]] = {
    "normal": lambda random: random.normal(0, 1, DEVICES),
    "a shift that is just allowed": lambda random: random.normal(0, 0.3, DEVICES),
    "Cauchy": lambda random: random.standard_cauchy(DEVICES),
    "differences of skewed values": lambda random: random.lognormal(0, 2, DEVICES) - random.lognormal(0, 2, DEVICES),
    "scatter that changes": lambda random: random.normal(0, 1, DEVICES) * np.geomspace(1, 100, DEVICES),
    "no scatter": lambda random: np.zeros(DEVICES),
}


@pytest.mark.parametrize("case", ALL_IS_WELL)
def test_a_shift_test_stops_falsely_no_more_often_than_it_says(case: str) -> None:
    margin = 0.7 if "allowed" in case else 0.0
    count = len(stops(ALL_IS_WELL[case], lambda values: looking(ShiftTest(margin), (margin + v for v in values))))
    assert surely_at_least(count) <= ALPHA


@pytest.mark.parametrize(("rate", "control"), [(0.02, 0.0), (0.25, 0.2), (0.5, 0.5)])
def test_a_rate_test_stops_falsely_no_more_often_than_it_says(rate: float, control: float) -> None:
    def draw(random: Generator) -> Values:
        updated, others = random.random(DEVICES) < rate, random.random(DEVICES) < control
        return updated.astype(np.float64) - others.astype(np.float64)

    count = len(stops(draw, lambda values: looking(RateTest(rate - control), values)))
    assert surely_at_least(count) <= ALPHA


def test_the_same_simulation_finds_a_test_that_is_not_valid() -> None:
    count = len(stops(ALL_IS_WELL["normal"], t_test_looked_at_again_and_again))
    assert surely_at_least(count) > ALPHA


@pytest.mark.parametrize("scatter", [lambda random: random.normal(1, 1, DEVICES), lambda random: np.full(DEVICES, 5.0)])
def test_a_real_shift_is_found(
    scatter: Callable[[Generator], Values],
) -> None:
    found = stops(scatter, lambda values: looking(ShiftTest(0.0), values))
    assert surely_at_most(RUNS - len(found)) <= 0.02  # as good as always within 80 devices
    assert np.median(found) <= 20


def test_a_real_rate_is_found() -> None:
    def draw(random: Generator) -> Values:
        return (random.random(DEVICES) < 0.3).astype(np.float64)

    found = stops(draw, lambda values: looking(RateTest(0.02), values))
    assert surely_at_most(RUNS - len(found)) <= 0.02
    assert np.median(found) <= 30  # a bet that knew the rate would need 16


# --- what it does not take --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        ShiftTest(0.0).add(value)
    with pytest.raises(ValueError, match="from -1 to 1"):
        RateTest(0.1).add(value)
    with pytest.raises(ValueError, match="from -1 to 1"):
        Evidence().add(value)


def test_one_device_never_stops_it_however_bad_it_is() -> None:
    assert not ShiftTest(0.0).add(1e300).evidence.stops(ALPHA)
    assert not RateTest(0.0).add(1.0).evidence.stops(ALPHA)


def test_no_device_is_no_evidence() -> None:
    assert Evidence().p_value == 1.0
    assert not Evidence().stops(ALPHA)


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_what_was_concluded_is_not_taken_back(values: list[float]) -> None:
    test, before = ShiftTest(0.5), 0.0
    for count, value in enumerate(values, 1):
        test = test.add(value)
        assert test.evidence.units == count
        assert test.evidence.largest >= max(before, test.evidence.log_capital)
        assert 0.0 < test.evidence.p_value <= 1.0
        before = test.evidence.largest


@pytest.mark.parametrize("huge", [1e300, 5e-324])
def test_an_extreme_value_breaks_nothing(huge: float) -> None:
    test = ShiftTest(0.0)
    for value in (huge, -huge, 1.0, 1.0):
        test = test.add(value)
    assert math.isfinite(test.evidence.log_capital)
