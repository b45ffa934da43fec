"""Sketches: their counts, merging in any order, and payloads that a reader refuses."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.vectors.make_vectors import EPOCH, SKETCHES, VALUES
from wheeltapper_protocols.drift.drift import fit_drift_spec
from wheeltapper_protocols.drift.sketch import (
    MAX_BINS,
    MAX_SKETCH_BYTES,
    Bins,
    Sketches,
    decode_sketches,
    encode_sketches,
)
from wheeltapper_protocols.wire import codec
from wheeltapper_protocols.wire import messages as m
from wheeltapper_protocols.wire.topics import Up

EDGES = [[-1.0, 0.0, 0.5, 2.0], [0.0], [-1e30, 1e30]]
values = st.lists(st.tuples(*[st.floats(width=32) for _ in EDGES]), max_size=30)
Rows = list[tuple[float, ...]]


def block(rows: Rows) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(-1, len(EDGES))


def assert_same(one: Sketches, other: Sketches) -> None:
    """Check that two sketches are equal: exactly, but for mean and m2, which may differ by rounding."""
    for field in ("counts", "bins", "missing", "low", "high"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)
    size = np.maximum(np.abs(np.where(one.n > 0, one.low, 0)), np.abs(np.where(one.n > 0, one.high, 0)))
    assert np.all(np.abs(one.mean - other.mean) <= 1e-12 * size)
    assert np.all(np.abs(one.m2 - other.m2) <= 1e-11 * size * size * np.maximum(one.n, 1))


@given(values, values, values)
def test_merging_is_associative_and_commutative(a: Rows, b: Rows, c: Rows) -> None:
    bins = Bins(EDGES)
    one, two, three = (bins.sketch(block(rows)) for rows in (a, b, c))
    whole = bins.sketch(block(a + b + c))
    assert_same(one.merged(two).merged(three), one.merged(two.merged(three)))
    assert_same(one.merged(two), two.merged(one))
    assert_same(one.merged(two).merged(three), whole)
    assert_same(one.merged(bins.empty()), one)
    assert_same(bins.empty().merged(one), one)


@given(values)
def test_a_sketch_counts_every_value_once(rows: Rows) -> None:
    sketches = Bins(EDGES).sketch(block(rows))
    for feature, edges in enumerate(EDGES):
        column = block(rows)[:, feature]
        finite = column[np.isfinite(column)]
        bounds = [-np.inf, *np.asarray(edges, dtype=np.float32), np.inf]
        wanted = [int(np.sum((finite >= low) & (finite < high))) for low, high in itertools.pairwise(bounds)]
        assert sketches.counts[feature, : len(wanted)].tolist() == wanted
        assert not sketches.counts[feature, len(wanted) :].any()
        assert sketches.missing[feature] == len(column) - len(finite)
        assert sketches.n[feature] == len(finite)
        if len(finite):
            assert (sketches.low[feature], sketches.high[feature]) == (finite.min(), finite.max())
            assert sketches.mean[feature] == pytest.approx(finite.mean(), rel=1e-12, abs=1e-12 * np.abs(finite).max())


def test_moments_of_many_merges_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    data = random.normal(1e6, 1.0, (6400, 3)).astype(np.float32)  # a mean a million deviations away
    bins = Bins(EDGES)
    merged = bins.empty()
    for start in range(0, len(data), 64):
        merged = merged.merged(bins.sketch(data[start : start + 64]))
    wide = data.astype(np.float64)
    np.testing.assert_allclose(merged.mean, wide.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.m2 / len(data), wide.var(axis=0), rtol=1e-9)


def test_sketches_of_other_bins_are_not_merged() -> None:
    with pytest.raises(ValueError, match="other bins"):
        Bins([[0.0]]).empty().merged(Bins([[0.0, 1.0]]).empty())
    with pytest.raises(ValueError, match="values must be"):
        Bins([[0.0]]).sketch(np.zeros((3, 2)))


@pytest.mark.parametrize(
    "edges", [[], [1.0, 1.0], [2.0, 1.0], [math.nan], [1.0, math.inf], [1e39], [1.0, 1 + 1e-12], [*range(MAX_BINS)]]
)
def test_edges_that_are_no_edges_are_refused(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="edges"):
        Bins([edges])


@given(values)
def test_the_wire_form_comes_back(rows: Rows) -> None:
    sketches = Bins(EDGES).sketch(block(rows))
    payload = encode_sketches(sketches)
    back = decode_sketches(payload)
    for field in ("counts", "bins", "missing", "mean", "m2", "low", "high"):
        np.testing.assert_array_equal(getattr(back, field), getattr(sketches, field), field)
    assert encode_sketches(back) == payload


def test_the_golden_sketches_keep_their_meaning() -> None:
    sketches = decode_sketches(SKETCHES)
    assert sketches.counts.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert sketches.bins.tolist() == [4, 3]
    assert sketches.missing.tolist() == [0, 1]
    np.testing.assert_array_equal(sketches.mean, [1.125, 2.0])
    np.testing.assert_array_equal(sketches.m2, [3.6875, 42.0])
    assert (sketches.low.tolist(), sketches.high.tolist()) == ([0.0, -2.0], [2.5, 7.0])
    assert VALUES.shape == (4, 2)


def test_sketches_that_are_cut_anywhere_are_refused() -> None:
    for stop in range(len(SKETCHES)):
        with pytest.raises(ValueError):
            decode_sketches(SKETCHES[:stop])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused_with_value_error_alone(payload: bytes) -> None:
    for content in (payload, b"\x01" + payload, SKETCHES[:20] + payload):
        try:
            sketches = decode_sketches(content)
        except ValueError:
            continue
        assert decode_sketches(encode_sketches(sketches)).n.tolist() == sketches.n.tolist()


def test_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="cap"):
        decode_sketches(b"\x01" + bytes(MAX_SKETCH_BYTES))
    with pytest.raises(ValueError, match="cap"):
        decode_sketches(b"\x01\x81\x04")  # 513 features
    with pytest.raises(ValueError, match="bins"):
        decode_sketches(b"\x01\x01\x29\x00" + bytes(41))
    many = Bins([[0.0]]).empty()
    with pytest.raises(ValueError, match="too great"):
        encode_sketches(with_count(many, 2**32))
    with pytest.raises(ValueError, match="too many"):
        encode_sketches(Bins([[0.0]] * 513).empty())


def with_count(sketches: Sketches, count: int) -> Sketches:
    counts = sketches.counts.copy()
    counts[0, 0] = count
    return Sketches(counts, sketches.bins, sketches.missing, sketches.mean, sketches.m2, sketches.low, sketches.high)


def encoded_report(sketches: Sketches) -> bytes:
    body = m.DriftReport(
        pipeline="main",
        model="bearing-anomaly",
        release=3,
        why="period",
        first_window=0,
        last_window=3599,
        first_t_s=0.0,
        last_t_s=3599.0,
        windows=3600,
        sketches=encode_sketches(sketches.part(slice(0, -1))),
        score=encode_sketches(sketches.part(slice(len(sketches) - 1, None))),
    )
    return codec.encode(m.Report(epoch=EPOCH, oldest=1, seq=1, at=1.7e9, body=body))


def test_a_feature_takes_at_most_250_bytes_of_a_report() -> None:
    random = np.random.default_rng(1)
    features = 26
    spec = fit_drift_spec(random.lognormal(size=(1000, features)), random.lognormal(size=1000))
    bins = Bins([one.edges for one in (*spec.features, spec.score)])
    hour = bins.sketch(random.lognormal(size=(3600, features + 1)))
    usual = len(encoded_report(hour)) / features
    assert usual < 130  # the report's own fields included
    fullest = Sketches(
        np.full_like(hour.counts, 2**32 - 1), hour.bins, np.full_like(hour.missing, 2**32 - 1),
        hour.mean, hour.m2, hour.low, hour.high,
    )  # fmt: skip
    assert len(encoded_report(fullest)) / features <= 250
    assert isinstance(codec.decode(Up.REPORT, encoded_report(fullest)), m.Report)


def test_the_widest_report_that_is_possible_fits_into_a_payload() -> None:
    edges = [[float(edge) for edge in range(MAX_BINS - 1)]] * 512
    sketches = Bins([*edges, edges[0]]).empty()
    full = Sketches(
        np.full_like(sketches.counts, 2**32 - 1), sketches.bins, np.full_like(sketches.missing, 2**32 - 1),
        np.full_like(sketches.mean, 1.0), sketches.m2, np.zeros_like(sketches.low), np.full_like(sketches.high, 2.0),
    )  # fmt: skip
    assert len(encoded_report(full)) <= codec.MAX_PAYLOAD_BYTES


def test_a_report_with_bad_sketches_is_refused_where_it_is_made() -> None:
    report = codec.decode(Up.REPORT, encoded_report(Bins([[0.0]] * 2).empty()))
    assert isinstance(report, m.Report)
    with pytest.raises(ValueError, match="version"):
        msgspec.structs.replace(report.body, sketches=b"?")
