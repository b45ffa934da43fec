"""Alerts that outlive a release or a life of the agent, and outputs of a model that must not end the stream."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper

from tests.agent.bundles import write_bundle
from tests.agent.pipeline.levels import LevelSource, alerts, run
from tests.agent.servers import until
from tests.agent.task_bundles import RAW_INPUT, graph, linear, task_bundle
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import Source, SourceSpec, Window
from wheeltapper_agent.source.deferred import DeferredSource
from wheeltapper_agent.update.score_history import ScoreHistory
from wheeltapper_protocols.decision.decision import DecisionSpec, Verdict
from wheeltapper_protocols.manifest.manifest import Anomaly, Manifest, RawInput
from wheeltapper_protocols.wire.messages import Severity, TelemetryRecord


@pytest.fixture(scope="module")
def mean_of_samples(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    files = task_bundle(
        linear(np.full((16, 1), 1 / 16), np.zeros(1)),
        np.ones((2, 16, 1), np.float32),
        input=RAW_INPUT,
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        anomaly=Anomaly(output="score", threshold=1.0),
        decision=DecisionSpec(smooth_windows=1, raise_windows=2, clear_windows=3),
    )
    return load_bundle(write_bundle(tmp_path_factory.mktemp("mean"), files))


@pytest.mark.parametrize("between", ["swap", "restart"])
def test_an_alert_goes_on_until_it_is_cleared(tmp_path: Path, mean_of_samples: Bundle, between: str) -> None:
    spool = Spool(tmp_path / "spool.db")
    levels = [0.1, 0.1, 5.0, 5.0, 5.0, 5.0, 5.0, 0.1, 0.1, 0.1, 0.1]
    if between == "swap":
        source = LevelSource(levels)
        pipeline = Pipeline("main", source, spool, SystemClock())
        source.swap_at[5] = lambda: pipeline.swap(mean_of_samples)
        run(pipeline, mean_of_samples)
    else:
        run(Pipeline("main", LevelSource(levels[:5]), spool, SystemClock()), mean_of_samples)
        spool.close()
        spool = Spool(tmp_path / "spool.db")
        run(Pipeline("main", LevelSource(levels[5:]), spool, SystemClock()), mean_of_samples)
    assert alerts(spool) == [(3, True, "critical"), (9, False, "normal")]
    spool.close()


def test_an_alert_that_was_inherited_is_not_held_against_the_new_release(mean_of_samples: Bundle) -> None:
    history, window = ScoreHistory(), Window(np.zeros((16, 1), np.float32), 0.0)
    old, new = mean_of_samples.manifest, msgspec.structs.replace(mean_of_samples.manifest, release=2)

    def see(manifest: Manifest, alert: bool, changed: bool = False) -> None:
        severity = Severity.WARNING if alert else Severity.NORMAL
        history.observe(
            Observation("main", 0, window, manifest, None, 0.1, Verdict(0.1, severity, alert, changed), 1.0)
        )

    see(old, True, changed=True)
    see(old, True)
    assert history.statistics().alerts == 2
    for _ in range(3):
        see(new, True)
    see(new, False, changed=True)
    assert history.statistics().alerts == 0
    see(new, True, changed=True)
    see(new, True)
    assert history.statistics().alerts == 2


def test_a_score_of_minus_infinity_does_not_end_the_stream(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["input"], ["logs"]),
        helper.make_node("ReduceMean", ["logs"], ["output"], axes=[1]),
    ]
    logarithm = graph(nodes, {}, [None, 16], [None, 1])
    files = task_bundle(
        logarithm,
        np.ones((2, 16, 1), np.float32),
        input=RAW_INPUT,
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        anomaly=Anomaly(output="score", threshold=1.0),
    )
    bundle = load_bundle(write_bundle(tmp_path / "b", files))
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", LevelSource([1.0, 2.0, 0.0, 2.0]), spool, SystemClock())
    run(pipeline, bundle)
    records = [held.item for held in spool.peek(0, 100, ("telemetry",))]
    assert [item.score is None for item in records if isinstance(item, TelemetryRecord)] == [False, False, True, False]
    assert pipeline.health().error == "probation.not_finite"
    spool.close()


@pytest.mark.parametrize(("rate_hz", "release"), [(1000.0, 1), (500.0, None)])
def test_what_a_source_gives_is_looked_at_when_it_is_there(
    tmp_path: Path, mean_of_samples: Bundle, rate_hz: float, release: int | None
) -> None:
    """The active release is loaded at the start, perhaps before anybody knows what its windows will look like."""
    source = LevelSource([0.5, 0.5, 0.5])
    there: list[LevelSource] = []

    def make() -> Source:
        if not there:
            raise AgentError("source.unreadable", "not yet")
        source.spec = SourceSpec(rate_hz, 16, ("x",), ("g",))
        return source

    spool = Spool(tmp_path / "spool.db")
    late = DeferredSource(make, AgentError("source.unreadable", "not yet"), "main")
    pipeline = Pipeline("main", late, spool, SystemClock())
    pipeline.swap(mean_of_samples)
    pipeline.start()
    assert pipeline.status().source == "source.unreadable"
    there.append(source)
    until(lambda: not pipeline._thread.is_alive(), 20, "the end of the stream")
    records = [held.item for held in spool.peek(0, 100, ("telemetry",))]
    assert [(item.release, item.score) for item in records if isinstance(item, TelemetryRecord)] == [
        (release, 0.5 if release else None)
    ] * 3
    assert pipeline.status().source == ("ended" if release else "update.input_mismatch")
    assert pipeline.status().release == release
    spool.close()
