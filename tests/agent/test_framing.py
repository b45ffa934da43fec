"""Windows cut from a stream: the same whatever the chunks, honest about gaps, lateness and clocks that jump."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wheeltapper_agent.core.framing import Framer, Framing
from wheeltapper_agent.ports import Window

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
    assert framer.late_samples == 8 + 4
    assert window.late_seconds >= 0.08


def test_a_clock_set_back_starts_the_stream_anew() -> None:
    framer = Framer(Framing(RATE_HZ, 2, 10))
    _push(framer, 0, 13, t_s=5000.0)
    windows = [made for k in range(3) for made in _push(framer, 100 + 10 * k, 10, t_s=100.0 + k / 10)]
    assert _firsts(windows) == [100, 110, 120]
    assert [made.gap_samples for made in windows] == [3, 0, 0]
    assert windows[0].t_s == 100.0


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
    (window,) = framer.push(_ramp(10), at_s=0, monotonic_s=0, t_s=1e12)
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
