"""Windows cut from a stream: the same whatever the chunks, honest about gaps, lateness and clocks that jump."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.framing import Framer

RATE_HZ = 100.0


def _ramp(count: int, first: int = 0) -> NDArray[np.float32]:
    """Sample ``i`` is ``i`` on one channel and ``-i`` on the other."""
    ramp = np.arange(first, first + count, dtype=np.float32)
    return np.stack([ramp, -ramp], axis=1)


def _push(framer: Framer, first: int, count: int, t_s: float | None = None, at_s: float | None = None) -> list[Window]:
    """Samples ``first``, … of the ramp, come when they were measured unless ``at_s`` says otherwise."""
    at_s = (first + count) / RATE_HZ if at_s is None else at_s
    return framer.push(_ramp(count, first), at_s=1000 + at_s, monotonic_s=at_s, t_s=t_s)


def _firsts(windows: list[Window]) -> list[float]:
    return [float(window.samples[0, 0]) for window in windows]


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(0, 30),
    st.lists(st.integers(0, 40), max_size=12),
    st.sampled_from(["none", "chunk", "sample"]),
)
def test_windows_do_not_depend_on_the_chunks(window: int, hop: int, chunks: list[int], times: str) -> None:
    framer, at, found = Framer(Framing(RATE_HZ, 2, window, hop)), 0, []
    for count in chunks:
        samples, at_s = _ramp(count, at), (at + count) / RATE_HZ
        if times == "sample":
            stamps = 50 + np.arange(at, at + count) / RATE_HZ
            found += framer.push_times(samples, stamps, at_s=at_s, monotonic_s=at_s)
        else:
            t_s = 50 + at / RATE_HZ if times == "chunk" else None
            found += framer.push(samples, at_s=50 + at_s, monotonic_s=at_s, t_s=t_s)
        at += count
    step = hop or window
    expected = list(range(0, at - window + 1, step))
    assert _firsts(found) == expected
    for first, made in zip(expected, found, strict=True):
        np.testing.assert_array_equal(made.samples, _ramp(window, first))
        assert made.t_s == pytest.approx(50 + first / RATE_HZ, abs=1e-6)
        assert made.gap_samples == 0
        assert made.samples.dtype == np.float32
        assert made.late_seconds == pytest.approx(0, abs=1e-6)


def test_a_short_gap_is_nan_in_its_place() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    assert _push(framer, 0, 7, t_s=5.0) == []
    first, second = _push(framer, 10, 10, t_s=5.1)
    np.testing.assert_array_equal(first.samples[:7], _ramp(7))
    assert np.isnan(first.samples[7:]).all()
    np.testing.assert_array_equal(second.samples, _ramp(10, 10))
    assert (first.gap_samples, second.gap_samples) == (0, 0)
    assert second.t_s == pytest.approx(5.1)


def test_one_missing_sample_is_seen_where_each_has_its_time() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    keep = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9])
    (window,) = framer.push_times(_ramp(10)[keep], 1e9 + keep / RATE_HZ, at_s=0, monotonic_s=0)
    assert np.flatnonzero(np.isnan(window.samples[:, 0])).tolist() == [3]
    assert window.samples[4, 0] == 4


def test_a_long_gap_gives_up_the_window_begun_and_is_counted() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    assert len(_push(framer, 0, 13, t_s=0.0)) == 1
    (window,) = _push(framer, 1000, 10, t_s=10.0)
    np.testing.assert_array_equal(window.samples, _ramp(10, 1000))
    assert window.gap_samples == 987 + 3  # those that never came, and those of the window given up
    assert window.t_s == pytest.approx(10.0)


def test_what_comes_twice_or_late_is_left_out() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 8, t_s=0.0)
    assert _push(framer, 0, 8, t_s=0.0) == []
    (window,) = _push(framer, 4, 8, t_s=0.04)  # half of it is known
    np.testing.assert_array_equal(window.samples, _ramp(10))
    assert window.late_samples == framer.late_samples == 8 + 4
    assert _push(framer, 12, 8, t_s=0.12)[0].late_samples == 0  # each is told once
    assert window.late_seconds >= 0.08


def test_a_clock_set_back_starts_the_stream_anew() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 13, t_s=5000.0)
    windows = [made for k in range(3) for made in _push(framer, 100 + 10 * k, 10, t_s=100.0 + k / 10)]
    assert _firsts(windows) == [100, 110, 120]
    assert [made.gap_samples for made in windows] == [3, 0, 0]
    assert windows[0].t_s == 100.0


@pytest.mark.parametrize(("window", "chunk", "step_s"), [(6000, 100, 50.0), (4096, 10, 3.0), (6000, 1, 42.0)])
def test_a_clock_set_back_by_less_than_a_window_starts_the_stream_anew(window: int, chunk: int, step_s: float) -> None:
    framer, found, chunks = Framer(Framing(RATE_HZ, 2, window)), [], 300 * 100 // chunk
    for k in range(chunks):
        t_s = 1e9 + k * chunk / RATE_HZ - (step_s if k > chunks // 2 else 0.0)
        found += _push(framer, k * chunk, chunk, t_s=t_s)
    lost = sum(made.late_samples + made.gap_samples for made in found)
    assert 0 < framer.late_samples <= max(4 * chunk, 1.1 * RATE_HZ)
    assert framer.late_samples < step_s * RATE_HZ
    assert len(found) * window + lost > 300 * RATE_HZ - window - framer.late_samples  # all are in a window or told
    assert sum(made.late_samples for made in found) == framer.late_samples
    assert found[-1].t_s < 1e9 + 300 - step_s


def test_what_is_sent_again_is_no_clock_that_was_set_back() -> None:
    framer, found = Framer(Framing(RATE_HZ, 2, 1000)), []
    for k in range(200):
        found += _push(framer, 10 * k, 10, t_s=k / 10)
        if k % 50 == 49:
            for old in range(k - 20, k + 1):  # a burst, when a connection comes back
                found += _push(framer, 10 * old, 10, t_s=old / 10, at_s=(k + 1) / 10 + 0.001 * old)
        for _ in range(3 if k > 150 else 0):  # each payload again and again
            found += _push(framer, 10 * k, 10, t_s=k / 10)
    assert _firsts(found) == [0, 1000]
    assert [made.gap_samples for made in found] == [0, 0]


def test_a_slow_sensor_within_the_tolerance_shows_too() -> None:
    for real_hz in (2000.0, 2800.0, 3600.0, 6400.0):
        framer = Framer(Framing(3200, 1, 1024))
        for k in range(3000):  # 10 ms a chunk: its time may be off by as much
            samples = np.arange(32.0 * k, 32 * k + 32)[:, None]
            framer.push(samples, at_s=0, monotonic_s=32 * k / real_hz, t_s=1e9 + 32 * k / real_hz)
        assert framer.wrong_rate_hz == pytest.approx(real_hz, rel=0.02)


def _rate_seen(seconds: float, chunk: int, stamp: Callable[[int], float], each: bool, hop: int = 0) -> float | None:
    """What a framer for 100 Hz makes of the rate; sample ``i`` has the time ``stamp(i)``."""
    framer, random = Framer(Framing(RATE_HZ, 2, 50)), np.random.default_rng(1)
    samples = random.normal(size=(int(seconds * 400), 2))
    seen, first = None, 0
    while stamp(first) < seconds:
        part, came_s = samples[first : first + chunk], stamp(first + chunk)
        if each:
            times_s = 1e9 + np.array([stamp(i) for i in range(first, first + len(part))])
            framer.push_times(part, times_s, at_s=0, monotonic_s=came_s)
        else:
            framer.push(part, at_s=0, monotonic_s=came_s, t_s=1e9 + stamp(first))
        seen = seen or framer.wrong_rate_hz
        first += hop or chunk
    return seen


WRONG_HZ = [30.0, 50.0, 75.0, 90.0, 110.0, 150.0, 199.0, 202.0, 330.0]


@pytest.mark.parametrize(
    ("rate_hz", "chunk", "each"),
    [
        *itertools.product(WRONG_HZ, [1, 20, 2000], [True]),
        *((rate_hz, 1, False) for rate_hz in WRONG_HZ if rate_hz > 70),  # below, with one time a chunk, it is loss
        *((rate_hz, chunk, False) for chunk in (20, 2000) for rate_hz in WRONG_HZ if rate_hz > RATE_HZ),
    ],
)
def test_a_wrong_rate_shows_in_the_time_stamps(rate_hz: float, chunk: int, each: bool) -> None:
    seen = _rate_seen(15.0 if chunk < 2000 else 130.0, chunk, lambda i: i / rate_hz, each)
    assert seen == pytest.approx(rate_hz, rel=0.02)


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("rate_hz", [95.0, 100.0, 105.0])
@pytest.mark.parametrize("jitter", [0.0, 0.4, 3.0])
def test_a_right_rate_with_jitter_is_never_refused(rate_hz: float, jitter: float, each: bool) -> None:
    noise = np.random.default_rng(2).uniform(-jitter, jitter, 100_000)
    for chunk in (1, 10, 250):
        assert _rate_seen(200.0, chunk, lambda i: max(0.0, (i + noise[i]) / rate_hz), each) is None


def test_bursts_loss_and_repetition_are_no_wrong_rate() -> None:
    keep = np.flatnonzero(np.random.default_rng(3).random(100_000) < 0.7)
    for each in (True, False):
        assert _rate_seen(100.0, 1, lambda i: keep[i] / RATE_HZ, each) is None  # 30 % are lost
        assert _rate_seen(100.0, 50, lambda i: (i + 450 * (i // 50)) / RATE_HZ, each) is None  # measures, then rests
        assert _rate_seen(100.0, 50, lambda i: i / RATE_HZ, each, hop=25) is None  # each comes twice
    assert _rate_seen(100.0, 1, lambda i: (i - i % 10) / RATE_HZ, True) is None  # ten have the same time


def test_a_rate_that_is_put_right_is_right() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 50))
    t_s, seen = 0.0, []
    for k in range(1000):
        framer.push(_ramp(10, 10 * k), at_s=0, monotonic_s=t_s, t_s=t_s)
        t_s += 10 / (150 if k < 500 else 100)
        seen.append(framer.wrong_rate_hz is not None)
    assert not any(seen[:150])
    assert all(seen[200:500])
    assert not any(seen[550:])


def test_a_clock_set_forward_loses_nothing() -> None:
    for jump_s, each in itertools.product((20.0, 1.7e9), (True, False)):
        framer, found = Framer(Framing(RATE_HZ, 2, 5000)), []
        for k in range(2000):
            t_s = k / 10 + (jump_s if k >= 1000 else 0.0)
            if each:
                times_s = k / 10 + np.arange(10) / RATE_HZ
                times_s[5 if k == 1000 else 0 :] += jump_s if k >= 1000 else 0.0  # in the middle of a chunk
                found += framer.push_times(_ramp(10, 10 * k), times_s, at_s=0, monotonic_s=(k + 1) / 10)
            else:
                found += _push(framer, 10 * k, 10, t_s=t_s)
        assert [made.gap_samples for made in found] == [0, 0, 5 if each else 0, 0][: len(found)]
        assert not any(np.isnan(made.samples).any() for made in found)
        assert found[-1].t_s > jump_s


def test_a_gap_is_never_longer_than_the_time_that_passed() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 10, t_s=1000.0)
    (bogus,) = _push(framer, 310, 10, t_s=9.9e11)  # 3 s were lost, and the clock is nonsense
    assert bogus.gap_samples == 300
    (after,) = _push(framer, 320, 10, t_s=1003.2)
    assert after.gap_samples == 0
    assert after.t_s == pytest.approx(1003.2)


def test_a_stream_that_was_late_and_has_a_gap_still_counts_it() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 10, t_s=0.0, at_s=0.1)
    (window,) = _push(framer, 10_000, 10, t_s=100.0, at_s=400.0)  # was stored meanwhile
    assert window.gap_samples == 9990


def test_a_clock_that_is_known_to_be_set_moves_the_stream() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 13, t_s=100.0)
    framer.shift(1e9)
    (window,) = _push(framer, 13, 10, t_s=1e9 + 100.13)
    np.testing.assert_array_equal(window.samples, _ramp(10, 10))
    assert window.gap_samples == 0
    assert window.t_s == pytest.approx(1e9 + 100.1)
    (window,) = _push(framer, 23, 10, t_s=1e9 + 100.23)
    assert window.late_seconds == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("slow", [0.0, 0.002, 0.01, 0.05, -0.05])
def test_without_times_a_slow_sensor_is_not_late(slow: float) -> None:
    framer, found = Framer(Framing(RATE_HZ, 2, 100)), []
    jitter_s = np.random.default_rng(4).uniform(0, 0.3, 20_000)
    for k in range(20_000):
        found += _push(framer, 10 * k, 10, at_s=(k + 1) / 10 * (1 + slow) + jitter_s[k])
    assert max(made.late_seconds for made in found) < 1


@pytest.mark.parametrize(("every_s", "count"), [(60.0, 400), (6.0, 100), (2.0, 100), (600.0, 1000)])
def test_without_times_bursts_are_not_late(every_s: float, count: int) -> None:
    framer, found = Framer(Framing(RATE_HZ, 2, 100)), []
    for k in range(300):
        found += _push(framer, count * k, count, at_s=every_s * (k + 1))
    assert max(made.late_seconds for made in found) < 1


def test_without_times_what_was_held_up_is_late() -> None:
    framer, late_s = Framer(Framing(RATE_HZ, 2, 100)), []
    for k in range(1000):
        came_s = k + 1 if not 500 <= k < 512 else 512.0 + 0.01 * (k - 500)  # 12 s are held up, then come at once
        for made in _push(framer, 100 * k, 100, at_s=came_s):
            late_s.append(made.late_seconds)
    assert late_s[500] == pytest.approx(11, abs=0.5)
    assert late_s[505] == pytest.approx(6, abs=0.5)
    assert max(late_s[:500] + late_s[515:]) < 0.5


def test_a_rate_a_little_off_never_becomes_a_gap() -> None:
    framer, found = Framer(Framing(RATE_HZ, 2, 10)), []
    for k in range(500):  # the sensor's clock is 0.5 % fast
        found += _push(framer, 10 * k, 10, t_s=k * 0.1 * 1.005)
    assert len(found) == 500
    assert not any(np.isnan(made.samples).any() or made.gap_samples for made in found)
    stamps = np.arange(5000) / RATE_HZ * 1.005
    timed = Framer(Framing(RATE_HZ, 2, 10)).push_times(_ramp(5000), stamps, at_s=0, monotonic_s=0)
    assert len(timed) == 500
    assert not any(np.isnan(made.samples).any() for made in timed)


def test_without_times_a_break_is_as_long_as_it_took() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 13)
    framer.restart()
    (window,) = _push(framer, 500, 10, at_s=5.0)
    assert window.gap_samples == pytest.approx(477 + 3, abs=2)
    assert window.t_s == pytest.approx(1000 + 4.9)


def test_late_is_later_than_the_quickest() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    delays_s = [0.30, 0.25, 0.25, 3.25, 0.25]
    late_s = [
        _push(framer, 10 * k, 10, t_s=k / 10, at_s=(k + 1) / 10 + delay_s)[0].late_seconds
        for k, delay_s in enumerate(delays_s)
    ]
    assert late_s == [0, 0, pytest.approx(0, abs=0.01), pytest.approx(3, abs=0.01), pytest.approx(0, abs=0.01)]


@pytest.mark.parametrize("t_s", [float("nan"), float("inf"), -1.0, 1.7e12])
def test_impossible_times_are_refused_and_change_nothing(t_s: float) -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 5, t_s=1.0)
    with pytest.raises(ValueError):
        _push(framer, 5, 5, t_s=t_s)
    with pytest.raises(ValueError):
        framer.push_times(_ramp(2), np.array([1.05, t_s]), at_s=0, monotonic_s=0)
    (window,) = _push(framer, 5, 5, t_s=1.05)
    np.testing.assert_array_equal(window.samples, _ramp(10))


def test_a_jump_to_the_end_of_time_is_one_gap_and_no_memory() -> None:
    framer = Framer(Framing(1e6, 2, 10))
    framer.push(_ramp(5), at_s=0, monotonic_s=0, t_s=0.0)
    (window,) = framer.push(_ramp(10), at_s=0, monotonic_s=1e12, t_s=1e12)
    assert window.gap_samples == 2**53
    for shape in ((3, 3), (3,)):
        with pytest.raises(ValueError):
            framer.push(np.zeros(shape), at_s=0, monotonic_s=0)


def test_windows_stay_what_they_were() -> None:
    for hop in (0, 3):
        framer = Framer(Framing(RATE_HZ, 2, 10, hop))
        found: list[Window] = []
        for k in range(40):
            found += _push(framer, 7 * k, 7)
        for k, made in enumerate(found):
            np.testing.assert_array_equal(made.samples, _ramp(10, (hop or 10) * k))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 25), st.one_of(st.none(), st.floats(0, 1e12), st.floats(0, 3)), st.floats(0, 1e9)),
        max_size=25,
    ),
    st.integers(0, 20),
)
def test_no_order_of_times_breaks_it(chunks: list[tuple[int, float | None, float]], hop: int) -> None:
    framer, found, pushed = Framer(Framing(RATE_HZ, 1, 10, hop)), [], 0
    for count, t_s, at_s in chunks:
        samples: NDArray[Any] = np.arange(pushed, pushed + count, dtype=np.float32)[:, None]
        found += framer.push(samples, at_s=at_s, monotonic_s=at_s, t_s=t_s)
        pushed += count
    for made in found:
        assert made.samples.shape == (10, 1)
        assert 0 <= made.t_s <= 1e12 + 1
        assert made.gap_samples >= 0
        assert made.late_seconds >= 0
        real = made.samples[np.isfinite(made.samples)]
        assert (np.diff(real) > 0).all()  # in order, none twice
