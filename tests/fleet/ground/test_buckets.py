"""Token buckets: never more than the burst and the rate allow, and no key for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.ground.buckets import MAX_KEYS, Buckets


@given(st.lists(st.floats(0, 5), max_size=200), st.floats(0.1, 10), st.integers(1, 20))
def test_no_more_is_taken_than_burst_and_rate_allow(steps: list[float], per_second: float, burst: int) -> None:
    buckets, now, taken = Buckets(per_second, burst), 0.0, 0
    for step in steps:
        now += step
        wait = buckets.take("a", now)
        if wait == 0.0:
            taken += 1
        else:
            assert buckets.wait("a", now + wait * 1.000001 + 1e-9) == 0.0
        assert taken <= burst + per_second * now + 1e-6


def test_each_key_has_its_own_and_many_are_forgotten() -> None:
    buckets = Buckets(1.0, 1.0)
    for number in range(3 * MAX_KEYS):
        assert buckets.take(str(number), 0.0) == 0.0
    assert buckets.take(str(3 * MAX_KEYS - 1), 0.0) > 0.0
    assert len(buckets._levels) == MAX_KEYS
