"""CPU time that drift costs a device for one window: sketches of 26 features and the score, two change detectors.

The baseline in the same run is one call of ``numpy.histogram`` for each feature and window, over the same edges.

    python benchmarks/drift_update.py [--json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from rig import Row, main, row

from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.pipeline.change import ScoreChangeDetector
from wheeltapper_agent.pipeline.drift import BLOCK_WINDOWS, DriftObserver
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Window
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.drift.drift import ChangeSpec, fit_drift_spec
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.manifest.manifest import Budget, BundleFile, Golden, Input, Manifest
from wheeltapper_protocols.signal.features import FeatureSpec

FEATURES = 26
WINDOWS = 64 * 64
REPEATS = 5


def manifest(table: Any, scores: Any) -> Manifest:
    """A manifest with a drift section for ``table`` [window, feature]."""
    one = [1.0] * FEATURES
    scoring = ScoringSpec(transform=["affine"] * FEATURES, center=one, scale=one, weight=one, down=one, threshold=1.0)
    return Manifest(
        model="bench",
        release=1,
        created_at="2026-01-01T00:00:00Z",
        files=[BundleFile(name=name, sha256="00" * 32, length=1) for name in ("model.onnx", "golden.npz")],
        input=Input(sample_rate_hz=12_800.0, window_samples=2048, channels=["x"], units=["g"]),
        features=[FeatureSpec(name=f"x.{number}", kind="rms", channel=0) for number in range(FEATURES)],
        scoring=scoring,
        decision=DecisionSpec(),
        drift=msgspec.structs.replace(fit_drift_spec(table, scores), period_windows=3600),
        golden=Golden(output_atol=0.05, score_rtol=0.02),
        budget=Budget(latency_p95_ms=50.0, rss_growth_mb=96.0),
    )


def best_us(run: Callable[[], None], windows: int) -> float:
    """Microseconds of CPU time for one window, the least of some runs."""
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times) / windows * 1e6


def measure() -> dict[str, float]:
    """Microseconds of each part for one window."""
    random = np.random.default_rng(0)
    seen = manifest(random.lognormal(size=(1000, FEATURES)), random.lognormal(-1, 0.2, 1000))
    table = random.lognormal(size=(WINDOWS, FEATURES)).astype(np.float32)
    scores = random.lognormal(-1, 0.2, WINDOWS).tolist()
    window = Window(np.zeros((4, 1), dtype=np.float32), 0.0)
    observations = [Observation("main", n, window, seen, table[n], scores[n]) for n in range(WINDOWS)]
    assert seen.drift is not None
    references = [*seen.drift.features, seen.drift.score]
    bins = Bins([one.edges for one in references])
    blocks = [np.column_stack([table, scores])[at : at + BLOCK_WINDOWS] for at in range(0, WINDOWS, BLOCK_WINDOWS)]
    edges = [np.array([-np.inf, *one.edges, np.inf]) for one in references]
    few = WINDOWS // 32

    def whole() -> None:
        observer = DriftObserver("main", SystemClock())
        for one in observations:
            observer.observe(one)

    def sketches() -> None:
        merged = bins.empty()
        for block in blocks:
            merged = merged.merged(bins.sketch(block))

    def detectors() -> None:
        watch = ScoreChangeDetector(ChangeSpec())
        for score in scores:
            watch.add(score)

    def histograms() -> None:
        counts = [np.zeros(len(one) - 1, dtype=np.int64) for one in edges]
        for window in table[:few]:
            for column in range(FEATURES):
                counts[column] += np.histogram(window[column], edges[column])[0]

    return {
        "whole": best_us(whole, WINDOWS),
        "sketches": best_us(sketches, WINDOWS),
        "detectors": best_us(detectors, WINDOWS),
        "histograms": best_us(histograms, few),
    }


def rows() -> list[Row]:
    """The figures: ``{name, value, target, holds}`` each."""
    found = measure()
    value = found["whole"] / FEATURES
    ratio = found["whole"] / found["histograms"]
    return [
        {
            "name": f"drift update, all of it, us a feature and window ({FEATURES} features)",
            "value": round(value, 3),
            "target": 1.0,
            "holds": value <= 1.0,
        },
        {
            "name": "drift update against numpy.histogram a feature and window",
            "value": round(ratio, 4),
            "target": 0.1,
            "holds": ratio <= 0.1,
        },
        *(row(f"of it {part}, us a window", round(found[part], 2)) for part in ("sketches", "detectors")),
    ]


if __name__ == "__main__":
    main(rows, "What drift costs")
