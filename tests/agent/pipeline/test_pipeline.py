"""The pipeline alone: windows that are ready together, one that makes the call fail, a disk that refuses, observers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from tests.agent.servers import until
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.ledger import MAX_PENDING
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import MAX_BATCH, Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.wire.messages import Alert, Report, Severity, TelemetryRecord

MACHINE = Machine(SMALL)


class BurstSource:
    """A source that has all its windows at once."""

    def __init__(self, count: int, bad_windows: Sequence[int] = ()) -> None:
        self.spec = SourceSpec(SMALL.sample_rate_hz, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"))
        self.count, self.bad_windows, self.taken = count, bad_windows, 0
        self.state, self.dropped = "running", 0

    @property
    def pending(self) -> int:
        return self.count - self.taken

    def windows(self, first: int) -> Iterator[Window]:
        while self.taken < self.count:
            index, self.taken = self.taken, self.taken + 1
            samples = MACHINE.window(index, index * 10.0)
            if index in self.bad_windows:
                samples = samples[:-1]
            yield Window(samples, float(index))
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle"), make_bundle()))


def run(pipeline: Pipeline, bundle: Bundle | None) -> None:
    pipeline.swap(bundle)
    pipeline.start()
    until(lambda: not pipeline._thread.is_alive(), 20, "the end of the stream")


def telemetry(spool: Spool) -> list[TelemetryRecord]:
    return [held.item for held in spool.peek(0, 10_000, ("telemetry",)) if isinstance(held.item, TelemetryRecord)]


def test_windows_that_are_ready_are_scored_together_and_alike(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Bundle.evaluate
    calls = _batch_sizes(monkeypatch)
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", BurstSource(70), spool, SystemClock())
    run(pipeline, bundle)
    assert (pipeline.health().windows, pipeline.health().calls) == (70, 3)
    assert calls == [MAX_BATCH, MAX_BATCH, 70 - 2 * MAX_BATCH]
    found = telemetry(spool)
    assert [record.window for record in found] == list(range(70))
    alone = [float(real(bundle, MACHINE.window(i, i * 10.0)[None]).scores.score[0]) for i in range(70)]
    np.testing.assert_allclose(np.array([record.score for record in found], np.float64), np.array(alone), rtol=1e-5)
    spool.close()


def test_a_window_that_spoils_the_call_is_alone_unscored(tmp_path: Path, bundle: Bundle) -> None:
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", BurstSource(20, bad_windows=(3, 11)), spool, SystemClock())
    run(pipeline, bundle)
    found = telemetry(spool)
    assert [record.window for record in found] == list(range(20))
    assert [record.window for record in found if record.score is None] == [3, 11]
    assert pipeline.health().windows == 18
    assert pipeline.health().calls == 18  # each alone, after the call for all failed
    spool.close()


class RefusingRecords:
    """Records on a disk that is full until ``full`` is set to False."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.full = spool, True

    def append(self, *items: TelemetryRecord | Alert | Report) -> None:
        if self.full:
            raise AgentError("storage.full", "planted")
        self.spool.append(*items)

    def next_window(self, pipeline: str) -> int:
        return self.spool.next_window(pipeline)

    def open_alert(self, pipeline: str) -> Severity:
        return self.spool.open_alert(pipeline)


def test_a_full_disk_keeps_the_first_windows_and_counts_the_others(tmp_path: Path, bundle: Bundle) -> None:
    spool = Spool(tmp_path / "spool.db")
    records = RefusingRecords(spool)
    pipeline = Pipeline("main", BurstSource(MAX_PENDING + 50), records, SystemClock())
    pipeline.swap(bundle)
    pipeline.start()
    until(lambda: pipeline.status().windows == MAX_PENDING + 50, 30, "all windows")
    status = pipeline.status()
    assert (status.source, status.dropped_windows) == ("spool.storage", 50)
    records.full = False
    until(lambda: not pipeline._thread.is_alive(), 10, "the end")
    assert [record.window for record in telemetry(spool)] == list(range(MAX_PENDING))
    spool.close()


class FaultyObserver:
    """An observer that fails at every window."""

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        raise ValueError("planted")

    def end(self) -> Sequence[Alert | Report]:
        raise ValueError("planted")


class CountingObserver:
    """An observer that remembers what it saw, and where."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.threads: set[str] = set()
        self.ended = 0

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        self.seen.append(observation)
        self.threads.add(threading.current_thread().name)
        return ()

    def end(self) -> Sequence[Alert | Report]:
        self.ended += 1
        return ()


def test_an_observer_sees_every_window_and_one_that_fails_harms_nothing(tmp_path: Path, bundle: Bundle) -> None:
    spool, observer = Spool(tmp_path / "spool.db"), CountingObserver()
    run(Pipeline("main", BurstSource(10, bad_windows=(4,)), spool, SystemClock(), [FaultyObserver(), observer]), bundle)
    assert [seen.index for seen in observer.seen] == list(range(10))
    assert [seen.index for seen in observer.seen if seen.score is None] == [4]
    assert observer.ended == 1
    assert observer.threads == {"pipeline-main"}
    assert len(telemetry(spool)) == 10
    spool.close()


# --- windows that are gathered ----------------------------------------------------------------------------------------


class PacedSource(BurstSource):
    """A window every 5 ms; ``room`` of them are kept while nobody asks."""

    def __init__(self, count: int, room: int) -> None:
        super().__init__(count)
        self.room, self.began = room, time.monotonic()

    @property
    def pending(self) -> int:
        return min(self.count, int((time.monotonic() - self.began) / 0.005)) - self.taken

    def windows(self, first: int) -> Iterator[Window]:
        self.began = time.monotonic()
        for window in super().windows(first):
            time.sleep(max(0.0, self.began + (self.taken - 1) * 0.005 - time.monotonic()))
            yield window


def _batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = Bundle.evaluate

    def counted(self: Bundle, samples: Any) -> Any:
        calls.append(len(samples))
        return real(self, samples)

    monkeypatch.setattr(Bundle, "evaluate", counted)
    return calls


def test_fast_windows_of_a_source_with_room_are_scored_together(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, spool = _batch_sizes(monkeypatch), Spool(tmp_path / "spool.db")
    run(Pipeline("main", PacedSource(100, 32), spool, SystemClock(), gather_seconds=0.05), bundle)
    assert sum(calls) == 100
    assert len(calls) < 40
    assert [record.window for record in telemetry(spool)] == list(range(100))
    spool.close()


def test_a_source_that_would_lose_windows_is_not_made_to_wait(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool.db")
    waits: list[float] = []

    def noted(seconds: float) -> bool:
        waits.append(seconds)
        return False

    pipeline = Pipeline("main", PacedSource(40, 2), spool, SystemClock(), gather_seconds=0.05)
    monkeypatch.setattr(pipeline._stopping, "wait", noted)
    run(pipeline, bundle)
    assert waits == []
    behind = Pipeline("main", PacedSource(100, 100), spool, SystemClock(), gather_seconds=5.0)
    monkeypatch.setattr(PacedSource, "pending", property(lambda self: self.count - self.taken))
    monkeypatch.setattr(behind._stopping, "wait", noted)
    run(behind, bundle)
    assert len(waits) <= 1  # when nothing was left
    spool.close()


def test_a_window_that_waits_is_written_down_though_the_source_fell_silent(tmp_path: Path, bundle: Bundle) -> None:
    spool, silence = Spool(tmp_path / "spool.db"), threading.Event()

    class SilentSource(BurstSource):
        pending = 0

        def windows(self, first: int) -> Iterator[Window]:
            for window in super().windows(first):
                if self.taken == 6:
                    silence.wait(20)
                yield window

    pipeline = Pipeline("main", SilentSource(6), spool, SystemClock(), wait_seconds=0.4)
    pipeline.swap(bundle)
    pipeline.start()

    def five() -> bool:
        pipeline.flush_due()  # as the agent's main thread does
        return len(telemetry(spool)) >= 5

    until(five, 10, "the windows that were judged")
    silence.set()
    until(lambda: not pipeline._thread.is_alive(), 10, "the end")
    assert [record.window for record in telemetry(spool)] == list(range(6))
    spool.close()


def test_a_pause_ends_when_it_is_told_to() -> None:
    pause = StopEvent()
    assert not pause.wait(0.01)
    threading.Timer(0.05, pause.set).start()
    began = time.monotonic()
    assert pause.wait(20)
    assert time.monotonic() - began < 10
    pause.set()
    assert pause.is_set()
    assert pause.wait(20)
    assert pause.wait(-1)
