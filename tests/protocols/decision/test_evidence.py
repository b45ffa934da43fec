"""Evidence: no kind of rise is drowned by the others, extremes stay numbers, bad sections are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wheeltapper_protocols.decision.evidence import Detector, Evidence, EvidenceSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec

FEATURES = 6
AXES = [[0.5 if row == column else 0.0 for column in range(FEATURES)] for row in range(FEATURES)]


def scoring() -> ScoringSpec:
    return ScoringSpec(
        transform=["affine"] * FEATURES,
        center=[0.0] * FEATURES,
        scale=[1.0] * FEATURES,
        weight=[1.0] * FEATURES,
        down=[0.2] * 5 + [1.0],
        threshold=5.0,
    )


def section(together: float = 1.0, alone: float = 1.0) -> EvidenceSpec:
    return EvidenceSpec(detectors=detectors(), together=together, alone=alone)


def detectors() -> list[Detector]:
    return [
        Detector(kind="level", features=[0], limit=5.0),
        Detector(kind="impulsiveness", features=[1, 2], limit=4.0),
        Detector(kind="modulation", features=[3], limit=8.0),
        Detector(kind="shape", features=list(range(FEATURES)), limit=5.0),
        Detector(kind="density", features=list(range(FEATURES)), limit=5.0, axes=AXES),
    ]


def test_a_rise_of_one_kind_is_not_drowned_by_the_others() -> None:
    rows = np.zeros((1, FEATURES))
    rows[0, 0] = 5.5
    output = np.zeros_like(rows)
    evidence = Evidence(section(), scoring())
    assert evidence.score(rows, output)[0] == pytest.approx(1.1)
    drowned = Scorer(scoring(), tuple("abcdef")).score(rows, output).score[0]
    assert drowned < 0.5
    detector, value = evidence.strongest(rows[0], output[0])
    assert detector.kind == "level"
    assert value == pytest.approx(1.1)
    assert evidence.shares(rows, output)[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_each_kind_has_its_value() -> None:
    rows = np.array([[2.0, 3.0, 1.0, -4.0, 0.0, -4.0]])
    output = np.array([[2.0, 3.0, 1.0, -4.0, 0.0, 1.0]])
    found = Evidence(section(), scoring()).values(rows, output)[0]
    lower = -4.0 * 0.2
    whitened = 0.25 * np.array([4.0, 9.0, 1.0, lower**2, 0.0, 16.0])
    expected = [
        2 / 5, np.sqrt((9 + 1) / 2) / 4, abs(lower) / 8, np.sqrt(25 / FEATURES) / 5,
        np.sqrt(whitened.sum() / FEATURES) / 5,
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected)


@given(arrays(np.float32, (3, FEATURES), elements=st.floats(-1000, 1000, width=32)))
def test_a_score_is_the_greatest_value_and_does_not_depend_on_the_windows_beside_it(rows: np.ndarray) -> None:
    evidence = Evidence(section(), scoring())
    output = np.zeros_like(rows)
    together = evidence.score(rows, output)
    assert np.isfinite(together).all()
    for row in range(3):
        alone = evidence.score(rows[row : row + 1], output[:1])[0]
        assert alone == pytest.approx(together[row])
        assert alone == pytest.approx(evidence.strongest(rows[row], output[row])[1])
    np.testing.assert_allclose(evidence.shares(rows, output).sum(axis=1), 1.0)


def test_missing_features_give_no_score_and_an_overflowing_model_a_high_one() -> None:
    evidence = Evidence(section(), scoring())
    rows, output = np.zeros((2, FEATURES)), np.zeros((2, FEATURES))
    rows[0, 4] = np.nan
    output[1, 2] = -np.inf
    score = evidence.score(rows, output)
    assert np.isnan(score[0])
    assert score[1] > 1e6
    assert evidence.shares(rows, output)[0].tolist() == [1 / FEATURES] * FEATURES


@pytest.mark.parametrize(
    "changes",
    [
        {"features": [0, 0]},
        {"limit": float("inf")},
        {"kind": "density"},
        {"axes": [[1.0]]},
        {"kind": "density", "axes": [[1.0, 2.0]]},
        {"kind": "density", "axes": [[float("nan")]]},
    ],
)
def test_bad_detectors_are_refused(changes: dict[str, object]) -> None:
    good: dict[str, object] = {"kind": "level", "features": [0], "limit": 1.0}
    with pytest.raises(ValueError):
        Detector(**(good | changes))  # type: ignore[arg-type]  # the test passes wrong values on purpose


def test_a_detector_of_a_feature_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="not there"):
        Evidence(EvidenceSpec(detectors=[Detector(kind="level", features=[FEATURES], limit=1.0)]), scoring())


def test_two_kinds_that_agree_need_less_each_and_one_alone_needs_more() -> None:
    evidence = Evidence(section(together=0.5, alone=2.0), scoring())
    # Over their limits: level 1.0 alone; level 1.0 with impulsiveness 0.6; impulsiveness twice is one kind.
    rows = np.array([[5.0, 0, 0, 0, 0, 0], [5.0, 2.4, 2.4, 0, 0, 0], [0, 4.0, 4.0, 0, 0, 0]])
    np.testing.assert_allclose(evidence.score(rows, rows), [0.5, 1.2, 0.5])
    only = Evidence(EvidenceSpec(detectors=detectors()[:1], together=0.5), scoring())
    assert only.score(rows, rows)[0] == pytest.approx(1.0)


def test_all_evidence_together_counts_every_detector() -> None:
    evidence = Evidence(section(), scoring())
    rows = np.array([[6.0, 0, 0, 0, 0, 0], [6.0, 6.0, 6.0, 6.0, 0, 0]])
    output = rows.copy()  # no residual
    score, strength = evidence.score(rows, output), evidence.strength(rows, output)
    assert (strength >= score).all()
    assert strength[0] == pytest.approx(score[0], rel=0.01)
    assert strength[1] > 1.05 * score[1]
    assert np.isfinite(evidence.strength(rows * 1e9, output)).all()
