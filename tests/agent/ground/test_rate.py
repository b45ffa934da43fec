"""A token bucket never grants more than its rate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wheeltapper_agent.ground.rate import TokenBucket


def walk(bucket: TokenBucket, step_seconds: float, steps: int, wanted: float) -> Iterator[tuple[float, float]]:
    now, total = 0.0, 0.0
    for _ in range(steps):
        now += step_seconds
        while bucket.available(now) >= wanted:
            bucket.take(wanted)
            total += wanted
        yield now, total


def test_a_bucket_never_gives_more_than_its_rate() -> None:
    for now, total in walk(TokenBucket(100.0, 50.0, 0.0), 0.013, 2000, 7.0):
        assert total <= 50 + 100 * now + 1e-6
    assert total > 100 * now * 0.9
    still = TokenBucket(10.0, 5.0, 100.0)
    still.take(5.0)
    assert still.available(50.0) == 0  # a clock that runs backwards
    assert still.wait_seconds(5.0, 100.0) == pytest.approx(0.5)
    assert TokenBucket(0.0, 1.0, 0.0).available(0.0) == float("inf")
