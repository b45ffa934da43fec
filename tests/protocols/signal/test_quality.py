"""Data quality: counts of planted faults, compared with a slow and simple count."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wheeltapper_protocols.signal.quality import DataQuality, window_quality

COUNTS = st.builds(DataQuality, **{field: st.integers(0, 2**40) for field in DataQuality.__struct_fields__})


def _noise(samples: int = 4096, channels: int = 2) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((samples, channels)).astype(np.float32)


def test_a_good_window_has_nothing_to_say() -> None:
    assert window_quality(_noise(), full_scale=(16.0, 16.0)) == DataQuality(windows=1, values=8192)


def test_planted_faults_are_counted() -> None:
    samples = _noise()
    samples[10:13, 0] = np.nan
    samples[20, 1] = np.inf
    samples[100:180, 1] = 0.25
    samples[300:363, 0] = 0.5  # one too short
    samples[500, 0], samples[501, 1], samples[502, 1] = 8.0, -8.5, 7.9
    found = window_quality(samples, full_scale=(8.0, 8.0), gap_samples=5, late=True, dropped=2, late_samples=7)
    assert found == DataQuality(
        windows=1,
        values=8192,
        missing=4,
        incomplete=1,
        stuck=80,
        clipped=2,
        late=1,
        gaps=1,
        gap_samples=5,
        dropped=2,
        late_samples=7,
    )


def test_a_dead_sensor_is_stuck_whole_and_huge_numbers_are_not_missing() -> None:
    assert window_quality(np.zeros((4096, 2), np.float32)).stuck == 8192
    huge = np.full((100, 1), 3e38, np.float32) * np.linspace(0.5, 1, 100, dtype=np.float32)[:, None]
    assert window_quality(huge).missing == 0  # though their sum is infinite
    assert window_quality(np.full((64, 1), np.nan, np.float32)).stuck == 0


def test_full_scale_differs_by_channel() -> None:
    samples = np.array([[1.0, 1.0], [2.0, 2.0], [-3.0, -3.0]], np.float32)
    assert window_quality(samples, full_scale=(2.0, 3.0)).clipped == 3
    assert window_quality(samples).clipped == 0


def test_what_is_not_a_window_is_refused() -> None:
    for samples, full_scale in ((np.zeros(4), ()), (np.zeros((4, 2)), (1.0,))):
        with pytest.raises(ValueError):
            window_quality(samples, full_scale=full_scale)
    assert window_quality(np.zeros((0, 2)), full_scale=(1.0, 1.0)).values == 0


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 40), st.integers(1, 3)),
        elements=st.sampled_from([0.0, 1.0, -2.0, np.nan, np.inf]),
    ),
    st.integers(2, 6),
)
def test_agrees_with_a_plain_count(samples: np.ndarray[tuple[int, int], np.dtype[np.float32]], length: int) -> None:
    found = window_quality(samples, full_scale=(2.0,) * samples.shape[1], stuck_samples=length)
    stuck = 0
    for column in samples.T:
        for value, run in itertools.groupby(column.tolist()):
            count = len(list(run))
            stuck += count if count >= length and np.isfinite(value) else 0
    assert found.stuck == stuck
    assert found.missing == sum(not np.isfinite(value) for value in samples.ravel())
    assert found.clipped == sum(value == -2 for value in samples.ravel())


@given(COUNTS, COUNTS, COUNTS)
def test_counts_add(a: DataQuality, b: DataQuality, c: DataQuality) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + DataQuality() == a
    assert msgspec.json.decode(msgspec.json.encode(a + b), type=DataQuality) == a + b


def test_counts_stay_within_what_a_reader_accepts() -> None:
    full = DataQuality(values=2**53)
    assert (full + full).values == 2**53
