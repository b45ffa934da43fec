"""Data quality in a pipeline: windows with holes are recorded and counted, and do not count against the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.bundles import SMALL, make_bundle
from tests.agent.servers import until
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.pipeline.config import QualityConfig
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import Pipeline, WindowCapture
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.signal.quality import DataQuality, StuckRunCounter
from wheeltapper_protocols.wire.messages import TelemetryRecord


class ListSource:
    """A source of given windows."""

    def __init__(self, windows: list[Window], full_scale: tuple[float, ...] = ()) -> None:
        self._windows = windows
        self.spec = SourceSpec(
            SMALL.sample_rate_hz, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"), full_scale
        )
        self.state = "running"
        self.dropped = 0

    def windows(self, first: int) -> Iterator[Window]:
        yield from self._windows[first:]
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db")
    yield made
    made.close()


def _windows() -> list[Window]:
    machine = Machine(SMALL)
    samples = [machine.window(index, index * 10.0) for index in range(12)]
    samples[2][100, 0] = math.nan
    samples[5][:, 1] = math.inf
    samples[7][10:200, 1] = 0.125
    samples[8][3, 0] = -4.0
    gaps, late = {4: 77}, {9: 6.0, 10: 4.0}
    return [Window(each, 10.0 * k, gaps.get(k, 0), late.get(k, 0.0)) for k, each in enumerate(samples)]


def _run(folder: Path, spool: Spool, source: ListSource) -> tuple[Pipeline, QualityObserver, list[TelemetryRecord]]:
    for name, content in make_bundle(1).items():
        (folder / name).write_bytes(content)
    quality = QualityObserver(source, QualityConfig())
    pipeline = Pipeline("main", source, spool, SystemClock(), [quality])
    pipeline.swap(load_bundle(folder))
    pipeline.start()
    until(lambda: pipeline.status().windows == len(_windows()), 20, "all windows")
    pipeline.stop()
    held = spool.peek(0, 1000, ("telemetry",))
    return pipeline, quality, [entry.item for entry in held if isinstance(entry.item, TelemetryRecord)]


def test_windows_with_holes_are_recorded_and_not_scored(tmp_path: Path, spool: Spool) -> None:
    pipeline, quality, records = _run(tmp_path, spool, ListSource(_windows(), (4.0, 16.0)))
    assert [record.window for record in records] == list(range(12))
    assert [record.window for record in records if record.score is None] == [2, 5]
    assert pipeline.health().error == ""
    assert pipeline.health().windows == 10
    assert pipeline.status().source == "ended"
    size = SMALL.window_samples
    assert quality.total == DataQuality(
        windows=12, values=12 * size * 2, missing=1 + size, incomplete=2, stuck=190, clipped=1, late=1, gaps=1,
        gap_samples=77,
    )  # fmt: skip


def test_a_hole_does_not_disturb_the_decisions_after_it(tmp_path: Path, spool: Spool) -> None:
    _, _, records = _run(tmp_path, spool, ListSource(_windows()))
    whole = [Window(np.nan_to_num(window.samples, nan=0.5, posinf=0.5), window.t_s) for window in _windows()]
    (tmp_path / "other").mkdir()
    other = Spool(tmp_path / "other.db")
    _, _, expected = _run(tmp_path / "other", other, ListSource(whole))
    other.close()
    for mine, theirs in zip(records, expected, strict=True):
        assert mine.score in (None, theirs.score)


def test_a_capture_of_windows_with_holes_is_answered(tmp_path: Path, spool: Spool) -> None:
    taken: list[Window] = []
    pipeline = Pipeline("main", ListSource(_windows()), spool, SystemClock())
    pipeline.capture(WindowCapture(3, taken.extend))
    pipeline.start()
    until(lambda: len(taken) == 3, 10, "the capture")
    pipeline.stop()
    assert np.isnan(taken[2].samples[100, 0])


def test_a_capture_ends_when_it_is_due_whatever_the_source_gives(spool: Spool) -> None:
    ended: dict[str, int] = {}
    pipeline = Pipeline("main", ListSource(_windows()), spool, SystemClock())
    pipeline.capture(WindowCapture(3, lambda windows: ended.update(short=len(windows)), expires_at=100.0))
    pipeline.capture(WindowCapture(3, lambda windows: ended.update(long=len(windows)), expires_at=200.0))
    pipeline.end_captures_due(100.0)
    assert ended == {}
    pipeline.end_captures_due(100.1)
    assert ended == {"short": 0}
    pipeline.start()
    until(lambda: len(ended) == 2, 10, "the other one")
    pipeline.stop()
    assert ended == {"short": 0, "long": 3}


def test_a_dead_sensor_is_seen_in_windows_that_are_shorter_than_the_run() -> None:
    """Of 64 equal values, in windows of 16; the living channel and the missing values are not stuck."""
    random = np.random.default_rng(0)
    dead, living = np.full(16, 3.0, np.float32), random.normal(size=(8, 16)).astype(np.float32)
    windows = [Window(np.stack([dead, living[i]], axis=1), float(i)) for i in range(8)]
    observer = QualityObserver(ListSource(windows), QualityConfig())
    found = []
    for index, window in enumerate(windows):
        observer.observe(Observation("main", index, window, None))
        found.append(observer.total.stuck)
    assert found == [0, 0, 0, 16, 32, 48, 64, 80]
    observer.observe(Observation("main", 8, Window(windows[0].samples, 8.0, gap_samples=5), None))
    assert observer.total.stuck == 80
    missing = np.full((16, 2), np.nan, np.float32)
    for index in range(9, 20):
        observer.observe(Observation("main", index, Window(missing, float(index)), None))
    assert observer.total.stuck == 80


@given(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=1, max_size=200), st.integers(1, 7), st.integers(2, 30))
def test_runs_over_short_windows_are_those_of_the_whole(values: list[float], size: int, length: int) -> None:
    """At the end of each window: whether what ends there is a run that is long enough."""
    length = max(length, size + 1)
    runs = StuckRunCounter(length)
    for begin in range(0, len(values) - size + 1, size):
        window = np.array(values[begin : begin + size], np.float32)[:, None]
        run = 1
        while run < begin + size and values[begin + size - 1 - run] == values[begin + size - 1]:
            run += 1
        within = min(run, size)
        known = run if within == size else within  # what began within a window is counted from there
        stuck = runs.count(window, size)
        if within < size:
            assert stuck == 0
        elif values[begin + size - 1] == values[begin + size - 1] and (run - run % size) >= length:
            assert stuck == size
        elif known < length:
            assert stuck == 0
