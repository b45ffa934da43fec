"""Loud windows on which a network overflows: the greatest score, or an alert of its own kind that there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.agent.bundles import write_bundle
from tests.agent.servers import until
from tests.agent.task_bundles import RAW_INPUT, graph, task_bundle
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.newest_score import NewestScore
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.decision.decision import (
    SCORE_LIMIT,
    DecisionSpec,
    DecisionState,
    Verdict,
    count_window,
    initial_state,
    step,
)
from wheeltapper_protocols.decision.score_age import score_term_seconds
from wheeltapper_protocols.manifest.manifest import Anomaly, RawInput
from wheeltapper_protocols.signal.iso20816 import Iso20816
from wheeltapper_protocols.wire.codec import decode, encode
from wheeltapper_protocols.wire.messages import NO_SCORE, Alert, Severity, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

QUICK = DecisionSpec(smooth_windows=1, raise_windows=2, clear_windows=2)


def overflowing(silent: bool) -> bytes:
    """A network that gives 1.5 times e to the mean of 16 samples, or half that (``silent``); beyond 89 it overflows."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Exp", ["mean"], ["loud"]),
        helper.make_node("Mul", ["loud", "factor"], ["other"]),
        helper.make_node("Sub" if silent else "Add", ["loud", "other"], ["output"]),
    ]
    return graph(nodes, {"factor": np.array([0.5], np.float32)}, [None, 16], [None, 1])


def bundle(folder: Path, silent: bool, release: int = 1, **fields: Any) -> Bundle:
    base: dict[str, Any] = {
        "input": RAW_INPUT,
        "raw": RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        "anomaly": Anomaly(output="score", threshold=1000.0),
        "decision": QUICK,
        "release": release,
    }
    files = task_bundle(overflowing(silent), np.zeros((2, 16, 1), np.float32), **(base | fields))
    return load_bundle(write_bundle(folder, files))


class Levels:
    """A source of one window a level; each is constant."""

    def __init__(self, levels: Sequence[float], between: Any = None) -> None:
        self.spec = SourceSpec(1000.0, 16, ("x",), ("g",))
        self.levels, self.between = levels, between
        self.state, self.dropped, self.pending = "running", 0, 0

    def windows(self, first: int) -> Iterator[Window]:
        for place, level in enumerate(self.levels):
            if self.between is not None:
                self.between(place)
            yield Window(np.full((16, 1), level, np.float32), float(first + place))
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


def run(
    folder: Path, found: Bundle | None, levels: Sequence[float], between: Any = None
) -> tuple[list[Any], list[Any]]:
    """The telemetry and the alerts of a pipeline whose spool is in ``folder``."""
    spool = Spool(folder / "spool.db")
    before = spool.figures().seq
    source = Levels(levels)
    pipeline = Pipeline("main", source, spool, SystemClock())
    if between is not None:
        source.between = lambda place: between(pipeline, place)
    pipeline.swap(found)
    pipeline.start()
    until(lambda: not pipeline._thread.is_alive(), 20, "the end of the stream")
    pipeline.stop()
    records = [held.item for held in spool.peek(before, 1000, ("telemetry",))]
    alerts = [held.item for held in spool.peek(before, 1000, ("alert",))]
    spool.close()
    return records, alerts


def said(alerts: Sequence[Alert]) -> list[tuple[int, str | None, bool]]:
    return [(alert.window, alert.label, alert.raised) for alert in alerts]


def test_an_infinite_anomaly_is_the_greatest_score(tmp_path: Path) -> None:
    records, alerts = run(tmp_path, bundle(tmp_path / "b", silent=False), [0.1, 100.0, 100.0, 0.1, 0.1])
    assert [record.score for record in records[1:3]] == [SCORE_LIMIT, SCORE_LIMIT]
    assert records[0].score == pytest.approx(1.5 * np.exp(0.1) / 1000)
    assert [(alert.window, alert.severity, alert.raised) for alert in alerts] == [
        (2, Severity.CRITICAL, True),
        (4, Severity.NORMAL, False),
    ]
    assert decode(Up.ALERT, encode(alerts[0])) == alerts[0]


def test_complete_windows_without_a_score_raise_an_alert_of_their_own(tmp_path: Path) -> None:
    levels = [0.1, 100.0, 0.1, 100.0, 100.0, 100.0, 0.1, 0.1, 0.1]
    records, alerts = run(tmp_path, bundle(tmp_path / "b", silent=True), levels)
    assert [record.score is None for record in records] == [level > 1 for level in levels]
    assert said(alerts) == [(4, NO_SCORE, True), (7, NO_SCORE, False)]
    assert (alerts[0].severity, alerts[0].score, alerts[0].model) == (Severity.WARNING, 0.0, "task")
    assert decode(Up.ALERT, encode(alerts[0])) == alerts[0]


def test_windows_with_missing_samples_count_neither_way(tmp_path: Path) -> None:
    _, alerts = run(tmp_path, bundle(tmp_path / "b", silent=True), [np.nan] * 5 + [100.0, np.nan, 100.0, np.nan])
    assert said(alerts) == [(7, NO_SCORE, True)]


def test_the_alert_outlives_a_restart_and_ends_once(tmp_path: Path) -> None:
    found = bundle(tmp_path / "b", silent=True)
    _, alerts = run(tmp_path, found, [100.0] * 3)
    assert said(alerts) == [(1, NO_SCORE, True)]
    _, alerts = run(tmp_path, found, [100.0] * 3)
    assert said(alerts) == []
    _, alerts = run(tmp_path, found, [0.1] * 4)
    assert said(alerts) == [(7, NO_SCORE, False)]


def test_the_alert_of_a_score_is_another_one(tmp_path: Path) -> None:
    loud = bundle(tmp_path / "loud", silent=False)
    _, alerts = run(tmp_path, loud, [10.0] * 3)
    assert said(alerts) == [(1, None, True)]
    silent = bundle(tmp_path / "silent", silent=True, release=2)
    _, alerts = run(tmp_path, silent, [100.0] * 3 + [0.1] * 2)
    # The score is 0 again in the same two windows: both alerts end.
    assert said(alerts) == [(4, NO_SCORE, True), (7, None, False), (7, NO_SCORE, False)]


def test_another_release_or_none_ends_it(tmp_path: Path) -> None:
    silent, loud = bundle(tmp_path / "s", silent=True), bundle(tmp_path / "l", silent=False, release=2)

    def swap(pipeline: Pipeline, place: int, to: Bundle | None) -> None:
        if place == 3:
            pipeline.swap(to)

    _, alerts = run(
        tmp_path / "s", silent, [100.0] * 3 + [0.1] * 3, lambda pipeline, place: swap(pipeline, place, loud)
    )
    assert [(alert.window, alert.raised, alert.release) for alert in alerts] == [(1, True, 1), (4, False, 2)]
    _, alerts = run(
        tmp_path / "l", silent, [100.0] * 3 + [0.1] * 3, lambda pipeline, place: swap(pipeline, place, None)
    )
    assert [(alert.window, alert.raised, alert.release) for alert in alerts] == [(1, True, 1), (3, False, 1)]


def test_a_zone_decides_where_the_model_is_silent(tmp_path: Path) -> None:
    found = bundle(
        tmp_path / "b",
        silent=True,
        input=RAW_INPUT,
        iso20816=Iso20816(group=1, foundation="rigid", channels=[0], low_hz=60.0, high_hz=400.0, raises=True),
    )
    samples = (1e4 * np.sin(2 * np.pi * 125 * np.arange(16) / 1000) + 1e5)[None, :, None].astype(np.float32)
    evaluation = found.evaluate(samples)
    assert np.isnan(evaluation.scores.score).all()
    state, verdict = found.decide(DecisionState(), evaluation)
    state, verdict = found.decide(state, evaluation)
    assert (verdict.zone, verdict.severity, verdict.valid) == ("D", Severity.CRITICAL, True)
    assert all(np.isfinite(reason.value) for reason in verdict.reasons)


# --- the rule, alone --------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_alert_follows_runs_of_windows(scored: list[bool], raise_windows: int) -> None:
    spec = DecisionSpec(raise_windows=raise_windows)
    state = DecisionState()
    on, last, length = False, True, 0
    for each in scored:
        state = count_window(spec, state, each)
        length = length + 1 if each is last else 1
        last = each
        if on is each and length >= raise_windows:
            on = not each
        assert state.no_score is on


def test_a_score_does_not_touch_the_alert() -> None:
    state = initial_state(Severity.NORMAL, no_score=True)
    after, _ = step(DecisionSpec(), state, 0.5)
    assert after.no_score
    assert step(DecisionSpec(), state, float("nan"))[0] == state


# --- how old a score is -----------------------------------------------------------------------------------------------


def test_a_score_is_the_present_one_for_five_windows() -> None:
    assert score_term_seconds(None) == 600.0
    assert score_term_seconds(0.1) == 60.0
    assert score_term_seconds(60.0) == 300.0
    newest = NewestScore(pace_seconds=60.0)
    verdict = Verdict(0.5, Severity.NORMAL, False, False)
    for minute in range(10):
        newest.take([verdict], 60.0 * minute)
    assert newest.present(540.0 + 299.0) is verdict
    assert newest.present(540.0 + 301.0) is None
    newest.take([None], 600.0)
    assert newest.present(601.0) is None
    assert (newest.unscored, newest.at) == (1, 540.0)
    newest.take([verdict, verdict], 660.0)
    assert newest.present(661.0) is verdict
    newest.forget()
    assert newest.present(661.0) is None


def test_telemetry_has_no_score_where_there_is_none(tmp_path: Path) -> None:
    records, _ = run(tmp_path, bundle(tmp_path / "b", silent=True), [100.0])
    assert isinstance(records[0], TelemetryRecord)
    assert (records[0].score, records[0].model) == (None, "task")
