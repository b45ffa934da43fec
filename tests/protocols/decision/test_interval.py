"""Intervals around predictions: their ends, and manifests that hold one or none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.interval import Interval
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Budget,
    BundleFile,
    Golden,
    Input,
    Manifest,
    RawInput,
    RemainingLife,
    decode_manifest,
    encode_manifest,
)

TWO = Interval(coverage=0.9, edges=[50.0], below=[5.0, 20.0], above=[8.0, 30.0])
numbers = st.floats(0, 1000)


def test_each_range_of_values_has_its_own_ends() -> None:
    low, high = TWO.around(np.array([3.0, 49.9, 50.0, math.nan]), cap=70.0)
    np.testing.assert_allclose(low, [0.0, 44.9, 30.0, math.nan])
    np.testing.assert_allclose(high, [11.0, 57.9, 70.0, math.nan])


@given(
    st.lists(numbers, min_size=1, max_size=5), st.lists(st.tuples(numbers, numbers), min_size=6, max_size=6), numbers
)
def test_the_value_is_within_its_interval(edges: list[float], widths: list[tuple[float, float]], value: float) -> None:
    rising = sorted({edge + 1 for edge in edges})
    used = widths[: len(rising) + 1]
    interval = Interval(coverage=0.9, edges=rising, below=[a for a, _ in used], above=[b for _, b in used])
    low, high = interval.around(np.array([value]), cap=900.0)
    assert low[0] >= 0
    assert low[0] <= min(value, 900.0) <= high[0] or low[0] > 900.0
    assert high[0] <= 900.0


@pytest.mark.parametrize(
    ("edges", "below", "above"),
    [([], [1.0, 2.0], [1.0]), ([5.0, 5.0], [1.0] * 3, [1.0] * 3), ([math.inf], [1.0] * 2, [1.0] * 2)],
)
def test_what_is_no_interval_is_refused(edges: list[float], below: list[float], above: list[float]) -> None:
    with pytest.raises(ValueError, match=r"interval|below"):
        Interval(coverage=0.9, edges=edges, below=below, above=above)


def manifest(interval: Interval | None) -> Manifest:
    return Manifest(
        model="life",
        task="remaining_life",
        created_at="2026-01-01T00:00:00+00:00",
        files=[BundleFile(name=name, sha256="0" * 64, length=1) for name in (MODEL_FILE, GOLDEN_FILE)],
        input=Input(sample_rate_hz=1.0, window_samples=16, channels=["x"], units=["g"]),
        features=[],
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0]),
        remaining_life=RemainingLife(unit="cycles", cap=100.0, warn_at=10.0, interval=interval),
        decision=DecisionSpec(),
        golden=Golden(output_atol=0.1, score_rtol=0.1),
        budget=Budget(latency_p95_ms=1.0, rss_growth_mb=1.0),
    )


def test_a_manifest_without_an_interval_keeps_its_bytes_and_one_with_it_is_read_again() -> None:
    assert "interval" not in json.loads(encode_manifest(manifest(None)))["remaining_life"]
    made = manifest(TWO)
    again = decode_manifest(encode_manifest(made))
    assert again == made
    assert isinstance(again.remaining_life, RemainingLife)
    assert again.remaining_life.interval == TWO
