"""The statistics of shadow and probation, against numpy and scipy; what each rule lets pass and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.agent.bundles import make_bundle
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.update.comparison import QUANTILES, Pair, compare
from wheeltapper_agent.update.probation import (
    ProbationRules,
    WindowStatistics,
    alert_rate_p_value,
    judge,
    shift_in_spreads,
    window_statistics,
)
from wheeltapper_agent.update.score_history import ScoreHistory
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.manifest.manifest import decode_manifest
from wheeltapper_protocols.wire.messages import Severity

MANIFEST = decode_manifest(make_bundle()["manifest.json"])
_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(deadline=None)
@given(_scores)
def test_the_statistics_are_numpys_and_scipys(scores: list[float]) -> None:
    found = window_statistics(scores, 0, scores)
    assert found.windows == found.calls == len(scores)
    assert found.score_median == pytest.approx(np.median(scores))
    assert found.score_mad == pytest.approx(stats.median_abs_deviation(scores), abs=1e-9)
    assert found.latency_p95_ms == pytest.approx(np.percentile(scores, 95, method="inverted_cdf"))


def test_a_call_that_was_held_up_counts_once_however_many_windows_it_had() -> None:
    history = ScoreHistory()
    window = Window(np.zeros((4, 1), np.float32), 0.0)
    verdict = Verdict(0.5, Severity.NORMAL, alert=False, changed=False)
    for call, (windows, latency_ms) in enumerate([(10, 90.0), (2, 1.0), (1, 1.2)], start=1):
        for _ in range(windows):
            history.observe(Observation("main", 0, window, MANIFEST, None, 0.5, verdict, latency_ms, call))
    found = history.statistics()
    assert (found.windows, found.calls, found.latency_median_ms) == (13, 3, 1.2)
    assert judge(ProbationRules(), None, found, 50.0) is None


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_fishers_test_is_scipys(old_alerts: int, old_rest: int, new_alerts: int, new_rest: int) -> None:
    old = WindowStatistics(windows=old_alerts + old_rest, alerts=old_alerts)
    new = WindowStatistics(windows=new_alerts + new_rest, alerts=new_alerts)
    table = [[new_alerts, new_rest], [old_alerts, old_rest]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert alert_rate_p_value(old, new) == pytest.approx(expected, rel=1e-6)


OLD = WindowStatistics(
    windows=100, calls=100, score_median=0.4, score_mad=0.1, alerts=1, latency_median_ms=1.0, latency_p95_ms=2.0
)


@pytest.mark.parametrize(
    ("new", "old", "code"),
    [
        (
            WindowStatistics(
                windows=30, score_median=0.5, score_mad=0.1, calls=30, latency_median_ms=1.0, latency_p95_ms=3.0
            ),
            OLD,
            "",
        ),
        (
            WindowStatistics(windows=30, calls=30, score_median=0.5, latency_median_ms=1.0, latency_p95_ms=51.0),
            OLD,
            "latency",
        ),
        (
            WindowStatistics(windows=5, calls=5, score_median=0.5, latency_median_ms=1.0, latency_p95_ms=51.0),
            OLD,
            "",
        ),  # p95 of few
        (
            WindowStatistics(windows=5, calls=5, score_median=0.5, latency_median_ms=51.0, latency_p95_ms=51.0),
            None,
            "latency",
        ),
        # The board was busy for a moment: within the budget that is nobody's fault.
        (WindowStatistics(windows=30, calls=30, score_median=0.5, latency_median_ms=1.0, latency_p95_ms=49.0), OLD, ""),
        (WindowStatistics(windows=30, calls=30, score_median=0.5, latency_median_ms=4.9, latency_p95_ms=11.0), OLD, ""),
        (
            WindowStatistics(windows=30, calls=30, score_median=0.5, latency_median_ms=5.1, latency_p95_ms=5.2),
            OLD,
            "latency",
        ),
        (WindowStatistics(windows=19, calls=19, score_median=0.5, latency_median_ms=5.1, latency_p95_ms=5.2), OLD, ""),
        (WindowStatistics(windows=30, score_median=2.0), OLD, "score_shift"),
        (WindowStatistics(windows=30, score_median=-2.0), OLD, "score_shift"),  # a model that went blind is no better
        (WindowStatistics(windows=2, score_median=2.0), OLD, ""),  # too few
        (WindowStatistics(windows=30, score_median=2.0), None, ""),  # a first release has no yardstick
        (
            WindowStatistics(windows=30, score_median=2.0),
            WindowStatistics(windows=19, score_median=0.4, score_mad=0.1),
            "",
        ),
        (WindowStatistics(windows=3, score_median=0.4, alerts=3), OLD, "alert_rate"),
        (WindowStatistics(windows=30, score_median=0.4, alerts=1), OLD, ""),
        (WindowStatistics(windows=30, score_median=0.4, alerts=10), OLD, "alert_rate"),
        # Many windows of few calls: the p95 is still that of few.
        (WindowStatistics(windows=90, calls=5, score_median=0.5, latency_median_ms=1.0, latency_p95_ms=51.0), OLD, ""),
        # Two calls with many windows: perhaps one of them was held up.
        (WindowStatistics(windows=20, calls=2, score_median=0.5, latency_median_ms=51.0, latency_p95_ms=90.0), OLD, ""),
        (
            WindowStatistics(windows=20, calls=3, score_median=0.5, latency_median_ms=51.0, latency_p95_ms=90.0),
            OLD,
            "latency",
        ),
        (WindowStatistics(), OLD, ""),
    ],
)
def test_what_probation_lets_pass(new: WindowStatistics, old: WindowStatistics | None, code: str) -> None:
    found = judge(ProbationRules(), old, new, 50.0)
    assert (found.code if found else "") == (f"probation.{code}" if code else "")


def test_every_rule_can_be_switched_off() -> None:
    off = ProbationRules(max_shift=0.0, alert_alpha=0.0, latency_ratio=0.0)
    bad = WindowStatistics(windows=30, score_median=9.0, alerts=30, latency_p95_ms=40.0)
    assert judge(off, OLD, bad, 50.0) is None


def test_scores_that_hardly_move_are_no_yardstick() -> None:
    still = WindowStatistics(windows=100, score_median=0.1)
    assert shift_in_spreads(still, WindowStatistics(windows=5, score_median=0.2), 0.05) == pytest.approx(2.0)


def test_a_false_alarm_is_rare_and_a_shift_is_found() -> None:
    """Over 500 draws of the same distribution none is refused; of one three warning thresholds higher, all are."""
    random = np.random.default_rng(5)
    for _ in range(500):
        old, new = random.lognormal(-1.0, 0.4, 100), random.lognormal(-1.0, 0.4, 5)
        calm = (
            window_statistics(list(old), int(np.sum(old > 1)), [1.0]),
            window_statistics(list(new), int(np.sum(new > 1)), [1.0]),
        )
        assert judge(ProbationRules(), *calm, 50.0) is None
        wild = window_statistics(list(new + 3), 0, [1.0])
        assert judge(ProbationRules(), calm[0], wild, 50.0) is not None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=50))
def test_the_comparison_is_numpys(scores: list[tuple[float, float]]) -> None:
    pairs = [Pair(a, b, "normal", "normal", 1.0, 2.0) for a, b in scores]
    found = compare(pairs)
    active, shadow = np.array(scores).T
    assert found.mean_difference == pytest.approx(np.mean(shadow - active), abs=1e-9)
    assert found.sd_difference == pytest.approx(np.std(shadow - active, ddof=1), abs=1e-9)
    assert found.shadow_quantiles == pytest.approx(np.quantile(shadow, QUANTILES), abs=1e-9)
    if np.std(active) > 1e-3 and np.std(shadow) > 1e-3:
        assert found.correlation == pytest.approx(stats.pearsonr(active, shadow).statistic, abs=1e-6)
    assert (found.agreement, found.kappa) == (1.0, None)


def test_agreement_and_kappa() -> None:
    """Cohen's own kind of example: 45 yes-yes, 15 yes-no, 25 no-yes, 15 no-no give kappa 0.1304."""
    cells = [("w", "w", 45), ("w", "n", 15), ("n", "w", 25), ("n", "n", 15)]
    pairs = [Pair(0.0, 0.0, a, b, 1.0, 1.0) for a, b, count in cells for _ in range(count)]
    found = compare(pairs)
    assert found.agreement == pytest.approx(0.6)
    assert found.kappa == pytest.approx(0.1304, abs=1e-4)
    assert found.correlation is None
    with pytest.raises(ValueError, match="no pairs"):
        compare([])
    assert math.isfinite(compare(pairs[:1]).agreement)
