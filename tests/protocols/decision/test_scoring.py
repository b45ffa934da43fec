"""Scores: threshold, shares, extremes."""

from __future__ import annotations

import numpy as np
import pytest

from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec


def spec(**changes: object) -> ScoringSpec:
    values: dict[str, object] = {
        "transform": ["log", "affine"],
        "center": [0.0, 1.0],
        "scale": [0.5, 2.0],
        "weight": [1.0, 1.0],
        "down": [0.5, 1.0],
        "threshold": 2.0,
    }
    return ScoringSpec(**(values | changes))  # type: ignore[arg-type]  # the tests pass wrong values on purpose


def test_score_is_one_at_the_threshold_and_shares_sum_to_one() -> None:
    scorer = Scorer(spec(), ("a", "b"))
    rows = scorer.model_input(np.array([[np.e, 5.0], [1 / np.e, 1.0], [1.0, 1.0]]))
    np.testing.assert_allclose(rows, [[2, 2], [-2, 0], [0, 0]], atol=1e-6)
    scores = scorer.score(rows, np.zeros_like(rows))
    np.testing.assert_allclose(scores.score, [1.0, np.sqrt(0.5) / 2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(scores.shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(scorer.usual, [1.0, 1.0])


def test_extremes_stay_finite_and_worse_is_higher() -> None:
    scorer = Scorer(spec(), ("a", "b"))
    rows = scorer.model_input(np.array([[0.0, 0.0], [1e3, 0.0], [1e6, 0.0], [3e38, -3e38]], dtype=np.float32))
    score = scorer.score(rows, np.zeros_like(rows)).score
    assert np.isfinite(score).all()
    assert (np.diff(score[1:]) > 0).all()


def test_nan_gives_a_nan_score_and_equal_shares() -> None:
    scorer = Scorer(spec(), ("a", "b"))
    scores = scorer.score(np.array([[np.nan, 1.0]]), np.zeros((1, 2)))
    assert np.isnan(scores.score[0])
    assert scores.shares.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("changes", [{"scale": [0.0, 1.0]}, {"center": [1.0]}, {"center": [float("nan"), 0.0]}])
def test_bad_scorings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        spec(**changes)
