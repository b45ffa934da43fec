"""Trials of a release follow the pace of its source, in simulated time: a slow, irregular, silent or broken source says
nothing of the release."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.pace import Pace
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source import deferred
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_agent.update.conditions import Unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.interruption import ExecutionWait
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event
from wheeltapper_agent.update.trial_time import probation_seconds, shadow_seconds
from wheeltapper_agent.update.trials import Trials
from wheeltapper_protocols.wire.assignment import PipelineTarget

HOUR = 3600.0
MACHINE = Machine(SMALL)
TARGET = PipelineTarget(model="bearing", release=1, path="releases/bearing/1/manifest.json", length=1, sha256="0" * 64)


class SimulatedClock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return 1.7e9 + self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class PlannedSource:
    """Gives a window at each planned second; broken, or with a missing sample, in between where planned."""

    clock: Clock
    due_s: list[float]
    incomplete: set[int] = field(default_factory=set)
    fails: set[int] = field(default_factory=set)
    declared: float = 0.0
    dropped = 0
    state = "running"
    spec = SourceSpec(SMALL.sample_rate_hz, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"))

    def __post_init__(self) -> None:
        self.closed = threading.Event()
        self.began, self.index = self.clock.monotonic(), 0
        self.interval_seconds = self.declared

    def windows(self, first: int) -> Iterator[Window]:
        while self.index < len(self.due_s) and not self.closed.is_set():
            if self.clock.monotonic() - self.began < self.due_s[self.index]:
                self.closed.wait(0.001)
                continue
            index, self.index = self.index, self.index + 1
            if index in self.fails:
                raise OSError(5, "planted")
            samples = MACHINE.window(index, index * 10.0)
            if index in self.incomplete:
                samples = samples.copy()
                samples[0, 0] = np.nan
            yield Window(samples, float(index))
        self.closed.wait()
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None:
        self.closed.set()


class Unhurried(Pipeline):
    """A pipeline without a budget of latency: simulated time passes in steps, perhaps while a window is scored."""

    @property
    def budget_p95_ms(self) -> None:
        return None


class Rig:
    """One pipeline with its trials, and a wait that lets simulated time pass."""

    def __init__(self, folder: Path, bundle: Bundle, step_s: float, source: dict[str, Any], **update: Any) -> None:
        self.clock = SimulatedClock()
        self.spool = Spool(folder / "spool.db", monotonic=self.clock.monotonic, now=self.clock.now)
        self.source = PlannedSource(self.clock, **source)
        self.pipeline = Unhurried("main", self.source, self.spool, self.clock)
        self.pipeline.swap(bundle)
        wait = ExecutionWait(self.clock)

        def for_seconds(_execution: Execution, _seconds: float) -> None:
            self.clock.seconds += step_s
            time.sleep(0.002)

        wait.for_seconds = for_seconds  # type: ignore[method-assign,assignment]  # time is simulated
        self.said: list[Unmet] = []
        config = UpdateConfig(shadow_max_load=1e6, **update)
        self.trials = Trials(
            {"main": self.pipeline}, config, self.clock, wait, lambda _execution, unmet: self.said.append(unmet)
        )
        self.bundle = bundle

    def execution(self, **fields: Any) -> Execution:
        return Execution(id="e", state="PROBATION", targets={"main": TARGET}, **fields)

    def observe(self, **fields: Any) -> EffectResult:
        self.pipeline.start()
        return self.trials.observe(self.execution(**fields))

    def close(self) -> None:
        self.pipeline.stop()
        self.spool.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle"), make_bundle()))


@contextlib.contextmanager
def rig(folder: Path, bundle: Bundle, step_s: float, source: dict[str, Any], **update: Any) -> Iterator[Rig]:
    made = Rig(folder, bundle, step_s, source, **update)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("interval", "declared"),
    [(0.5, True), (0.5, False), (60.0, True), (60.0, False), (600.0, False), (HOUR, True), (HOUR, False),
     (24 * HOUR, True)],
)  # fmt: skip
def test_a_slow_source_is_given_its_time(tmp_path: Path, bundle: Bundle, interval: float, declared: bool) -> None:
    due = [interval * (index + 1) for index in range(50)]
    source = {"due_s": due, "declared": interval if declared else 0.0}
    with rig(tmp_path, bundle, interval / 20, source) as made:
        result = made.observe()
        assert (result.event, result.code) == (Event.HEALTHY, "")
        assert made.clock.seconds - 1000.0 < 6 * interval
        if 3 * interval > 120.0 and declared:
            assert {unmet.code for unmet in made.said} == {"update.waiting_windows"}
            assert "main has 0 of 3 windows" in made.said[0].detail


def test_an_irregular_source_is_waited_for(tmp_path: Path, bundle: Bundle) -> None:
    """Windows come when something happens: two soon, the third in the evening."""
    with rig(tmp_path, bundle, 30.0, {"due_s": [10.0, 20.0, 7 * HOUR]}) as made:
        assert made.observe().event is Event.HEALTHY
        assert [unmet.code for unmet in made.said][:1] == ["update.waiting_windows"]
        details = [unmet.detail.partition(": ")[2] for unmet in made.said]
        assert len(details) <= 4  # a reason is said once


def test_a_source_that_is_silent_at_night_is_waited_for_and_said(tmp_path: Path, bundle: Bundle) -> None:
    night = [8 * HOUR + index for index in range(5)]
    with rig(tmp_path, bundle, 60.0, {"due_s": night}) as made:
        assert made.observe().event is Event.HEALTHY
        assert (
            Unmet("update.waiting_windows", "main has 0 of 3 windows: its source gives none [source.silent]")
            in made.said
        )


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        ({}, 24 * HOUR, 25 * HOUR),
        ({"deadline_seconds": 3 * HOUR, "spent_seconds": HOUR}, 2 * HOUR, 2.2 * HOUR),
        ({"deadline_seconds": HOUR, "spent_seconds": HOUR}, 120.0, 300.0),
    ],
)
def test_a_trial_ends_by_wait_or_deadline(
    tmp_path: Path, bundle: Bundle, fields: dict[str, Any], least: float, most: float
) -> None:
    with rig(tmp_path, bundle, 60.0, {"due_s": [30.0]}) as made:
        result = made.observe(**fields)
        assert (result.event, result.code) == (Event.BROKE, "probation.timeout")
        assert least <= made.clock.seconds - 1000.0 <= most


def test_a_source_that_fails_in_probation_says_nothing_of_the_release(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred, "_RETRY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(deferred, "_RETRY_MAX_SECONDS", 0.02)
    source = {"due_s": [5.0 * index for index in range(60)], "fails": set(range(1, 12))}
    with rig(tmp_path, bundle, 5.0, source, probation_timeout_seconds=30.0) as made:
        assert made.observe().event is Event.HEALTHY
        assert any("source.failed" in unmet.detail for unmet in made.said)


def test_windows_that_are_incomplete_say_nothing_of_the_release(tmp_path: Path, bundle: Bundle) -> None:
    source = {"due_s": [10.0 * index for index in range(60)], "incomplete": set(range(50))}
    with rig(tmp_path, bundle, 5.0, source) as made:
        assert made.observe().event is Event.HEALTHY
        assert "main has 0 of 3 windows: its source gives too few that are complete" in [
            unmet.detail for unmet in made.said
        ]


def test_a_release_that_does_not_fit_the_source_goes_back_with_that_code(tmp_path: Path, bundle: Bundle) -> None:
    with rig(tmp_path, bundle, 5.0, {"due_s": [10.0 * index for index in range(60)]}) as made:
        made.source.spec = SourceSpec(1.0, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"))
        result = made.observe()
        assert (result.event, result.code) == (Event.BROKE, "update.input_mismatch")


@pytest.mark.parametrize("min_agreement", [0.0, 0.5])
@pytest.mark.parametrize("interval", [60.0, HOUR])
def test_a_shadow_run_follows_the_pace(tmp_path: Path, bundle: Bundle, min_agreement: float, interval: float) -> None:
    source = {"due_s": [interval * (index + 1) for index in range(50)], "declared": interval}
    with rig(tmp_path, bundle, interval / 20, source, shadow_min_agreement=min_agreement) as made:
        made.pipeline.start()
        reports: list[Any] = []
        result = made.trials.shadow(made.execution(deadline_seconds=7 * 86400.0), {"main": bundle}, reports.append)
        assert (result.event, result.code) == (Event.SHADOWED, "")
        assert reports[0].windows == 3
        assert made.said[0].code == "update.waiting_windows"


def test_a_shadow_run_without_agreement_does_not_wait_for_a_silent_source(tmp_path: Path, bundle: Bundle) -> None:
    with rig(tmp_path, bundle, 5.0, {"due_s": []}) as made:
        made.pipeline.start()
        reports: list[Any] = []
        result = made.trials.shadow(made.execution(), {"main": bundle}, reports.append)
        assert (result.event, reports[0].code) == (Event.SHADOWED, "shadow.timeout")
        assert made.clock.seconds - 1000.0 < 60.0


@given(st.floats(0.1, 1e6), st.floats(0, 1e6), st.integers(1, 1000), st.floats(0, 1e6), st.none() | st.floats(0, 1e7))
def test_no_trial_is_shorter_than_configured_or_longer_than_its_deadline(
    timeout: float, wait: float, windows: int, interval: float, left: float | None
) -> None:
    shadow = shadow_seconds(timeout, windows, interval, left)
    probation = probation_seconds(timeout, wait, windows, interval, left)
    assert min(shadow, probation) >= timeout
    if left is not None:
        assert shadow <= max(timeout, left)
        assert probation <= max(timeout, left)
    else:
        assert min(shadow, probation) >= windows * interval


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 32)), max_size=100), st.floats(0, 1e4))
def test_the_pace_is_the_mean_of_what_came_and_at_least_what_is_declared(
    arrivals: list[tuple[float, int]], declared: float
) -> None:
    pace, now, longest = Pace(), 0.0, 0.0
    for passed, windows in arrivals:
        now += passed
        longest = max(longest, passed)
        pace.add(now, windows)
    found = pace.interval_seconds(declared)
    assert declared <= found <= max(declared, longest * (1 + 1e-9))
    if len(arrivals) < 2:
        assert found == declared
