"""Windows in which channels are missing: scored by the others where the release allows it, else not, and said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.bundles import write_bundle
from tests.agent.pipeline.levels import run
from tests.agent.task_bundles import linear, task_bundle
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.host.status_text import status_lines
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.decision.baseline import BaselineSpec
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.evidence import Detector, EvidenceSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Input
from wheeltapper_protocols.signal.features import FeatureSpec
from wheeltapper_protocols.wire.messages import TelemetryRecord

SHAPE = Input(sample_rate_hz=1000.0, window_samples=16, channels=["x", "y", "z"], units=["g", "g", "g"])
SIGNS = np.tile(np.array([1.0, -1.0], np.float32), 8)[:, None]
NAN = float("nan")


def make(folder: Path, allowed: int, named: int = 3, **fields: Any) -> Bundle:
    """A release whose score is the root mean square, over the channels, of (root mean square - 1) / 0.1."""
    scoring = ScoringSpec(
        transform=["affine"] * named,
        center=[1.0] * named,
        scale=[0.1] * named,
        weight=[1.0] * named,
        down=[1.0] * named,
        threshold=1.0,
    )
    base = {
        "input": SHAPE,
        "features": [FeatureSpec(name=f"{c}.rms", kind="rms", channel=n) for n, c in enumerate("xyz"[:named])],
        "scoring": scoring,
        "missing_channels": allowed,
        "decision": DecisionSpec(smooth_windows=1, raise_windows=2),
    }
    files = task_bundle(
        linear(np.zeros((named, named)), np.zeros(named)), np.ones((2, 16, 3), np.float32), **(base | fields)
    )
    return load_bundle(write_bundle(folder, files))


class Levels:
    """Windows whose channels have these root mean squares; NaN: the channel is missing."""

    def __init__(self, *levels: tuple[float, float, float]) -> None:
        self.spec = SourceSpec(1000.0, 16, ("x", "y", "z"), ("g", "g", "g"))
        self.state, self.dropped, self.levels, self.taken = "running", 0, levels, 0

    @property
    def pending(self) -> int:
        return len(self.levels) - self.taken

    def windows(self, first: int) -> Iterator[Window]:
        for index, level in enumerate(self.levels):
            self.taken += 1
            yield Window(SIGNS * np.array(level, np.float32), float(index))
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db")
    yield made
    made.close()


def play(spool: Spool, bundle: Bundle, *levels: tuple[float, float, float]) -> tuple[Pipeline, list[Any]]:
    pipeline = Pipeline("main", Levels(*levels), spool, SystemClock())
    run(pipeline, bundle)
    held = [each.item for each in spool.peek(0, 1000, ("telemetry",))]
    found = [
        (None if each.score is None else round(each.score, 3), each.partial)
        for each in held
        if isinstance(each, TelemetryRecord)
    ]
    return pipeline, found


def test_a_window_is_scored_by_the_channels_that_are_there(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    levels = [(1.1, 1.2, 1.3), (1.1, 1.2, NAN), (NAN, 1.2, NAN), (NAN, NAN, NAN), (1.1, 1.2, 1.3)]
    pipeline, found = play(spool, make(tmp_path / "b", 2), *levels)
    assert found == [
        (round((14 / 3) ** 0.5, 3), False),
        (round((5 / 2) ** 0.5, 3), True),
        (2.0, True),
        (None, False),
        (round((14 / 3) ** 0.5, 3), False),
    ]
    assert pipeline.status().partly_scored == 2
    assert pipeline.health().error == ""
    body = {"pipelines": {"main": {"windows": 5, "partly_scored": 2}}}
    assert "2 SCORED WITHOUT ALL CHANNELS" in "\n".join(status_lines(body, 0.0))


def test_detectors_of_the_other_channels_decide(tmp_path: Path, spool: Spool) -> None:
    each = [Detector(kind="level", features=[channel], limit=1.0) for channel in range(3)]
    bundle = make(tmp_path / "b", 1, evidence=EvidenceSpec(detectors=each, together=1.0, alone=2.0))
    assert play(spool, bundle, (1.1, 1.3, 1.4), (1.1, 1.3, NAN))[1] == [(2.0, False), (1.5, True)]


def test_more_than_the_release_allows_gives_no_score(tmp_path: Path, spool: Spool) -> None:
    pipeline, found = play(spool, make(tmp_path / "b", 1), (1.1, NAN, NAN), (1.1, 1.1, NAN))
    assert found == [(None, False), (1.0, True)]
    assert pipeline.health().error == ""


def test_without_leave_a_window_with_a_missing_channel_gets_no_score(tmp_path: Path, spool: Spool) -> None:
    pipeline, found = play(spool, make(tmp_path / "b", 0), (1.1, 1.1, NAN), (1.1, 1.1, 1.1))
    assert found == [(None, False), (1.0, False)]
    assert pipeline.status().partly_scored == 0


def test_a_channel_without_a_feature_may_be_missing_where_some_may(tmp_path: Path, spool: Spool) -> None:
    assert play(spool, make(tmp_path / "b", 1, named=2), (1.1, 1.1, NAN))[1] == [(1.0, False)]


def test_what_is_missing_is_logged_once(tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make(tmp_path / "b", 2)
    with caplog.at_level("INFO"):
        pipeline = Pipeline("main", Levels(), spool, SystemClock())
        for level in [(1.0, NAN, 1.0)] * 3 + [(1.0, 1.0, 1.0)] * 2:
            window = Window(SIGNS * np.array(level, np.float32), 0.0)
            pipeline._scoring.rows((window,), bundle)
    assert caplog.text.count("it is scored without the channels y") == 1
    assert caplog.text.count("all channels are there again") == 1


def test_a_window_with_a_missing_channel_is_not_learnt(tmp_path: Path, spool: Spool) -> None:
    spec = BaselineSpec(
        windows=8, outside_windows=8, shift=[9.0] * 3, spread=[1.0] * 3, narrowest=[0.5] * 3, widest=[2.0] * 3
    )
    pipeline, _ = play(spool, make(tmp_path / "b", 1, baseline=spec), (1.1, 1.1, NAN), (1.1, 1.1, 1.1))
    found = pipeline.baseline.status()
    assert found is not None
    assert (found.learned, found.outside) == (1, 0)


def test_manifests_that_cannot_do_without_a_channel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than there are channels"):
        make(tmp_path / "b", 3)


def test_an_unknown_operating_condition_gets_no_score_no_alert_and_is_said(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """The third channel says the condition: its root mean square is known to be about 1 or about 5."""
    usual = ConditionSpec(
        features=[2], centres=[[1.0], [5.0]], reach=[1.5], center=[[1.0, 1.0, 1.0], [4.0, 4.0, 5.0]],
        scale=[[0.1, 0.1, 1.5]] * 2,
    )  # fmt: skip
    bundle = make(tmp_path / "b", 0, condition=usual)
    levels = [(1.0, 1.0, 1.0), (4.0, 4.0, 5.0), *[(9.0, 9.0, 20.0)] * 5, (1.0, 1.0, 1.0), (4.0, 4.0, 1.0)]
    pipeline, found = play(spool, bundle, *levels)
    scores = [score for score, _ in found]
    assert scores[:2] == [0.0, 0.0]
    assert scores[2:7] == [None] * 5
    assert scores[7] == 0.0
    assert scores[8] == pytest.approx((2 * 30.0**2 / 3) ** 0.5, rel=1e-3)  # healthy at the other condition only
    assert not spool.peek(0, 1000, ("alert",))
    assert pipeline.status().unknown_conditions == 5
    assert pipeline.health().error == ""
    assert caplog.text.count("condition.unknown") == 1
    body = {"pipelines": {"main": {"windows": 9, "unknown_conditions": 5}}}
    assert "5 IN AN UNKNOWN CONDITION" in "\n".join(status_lines(body, 0.0))
