"""Whatever a source does wrong is the trouble of its pipeline alone: it is counted, shown, and tried again."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from tests.agent.servers import DeviceServer, until
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.host.status_text import status_lines
from wheeltapper_agent.host.uninstall import is_state
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline import ledger
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source import deferred, opening
from wheeltapper_agent.source.base import Source, SourceContext, SourceKind, SourceSpec, Window
from wheeltapper_agent.source.kinds import source_kind
from wheeltapper_agent.update.running import Running
from wheeltapper_agent.update.slots import Slots
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Status, TelemetryRecord

SPEC = SourceSpec(100.0, 4, ("x",), ("g",))


class Nothing(BaseException):
    """What ``except Exception`` does not catch."""


class BrokenSource:
    """Gives windows, and does wrong what ``fault`` names until ``mended`` is set."""

    made = 0

    def __init__(self, fault: str, mended: threading.Event, error: Callable[[], BaseException] = Nothing) -> None:
        self.fault, self.mended, self.error = fault, mended, error
        self.closed = threading.Event()
        type(self).made += 1
        self._break("make")

    def _break(self, where: str) -> None:
        if self.fault == where and not self.mended.is_set():
            raise self.error()

    def _ask(self, where: str, answer: Any) -> Any:
        self._break(where)
        return answer

    spec = property(lambda self: self._ask("spec", SPEC))
    state = property(lambda self: self._ask("state", "running"))
    dropped = property(lambda self: self._ask("dropped", 0))
    pending = property(lambda self: self._ask("pending", 0))

    def model_ready(self) -> None:
        self._break("model_ready")

    def close(self) -> None:
        self.closed.set()
        self._break("close")

    def windows(self, first: int) -> Iterator[Any]:
        self._break("windows")
        return self._windows(first)

    def _windows(self, first: int) -> Iterator[Any]:
        self._break("first")
        index = first
        while not self.closed.wait(0.01):
            if index == first + 2:
                self._break("middle")
                if self.fault == "ends" and not self.mended.is_set():
                    return
                if self.fault == "garbage" and not self.mended.is_set():
                    yield self.error()
            index += 1
            yield Window(np.full((4, 1), index, np.float32), float(index))


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "_RETRY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(deferred, "_RETRY_MAX_SECONDS", 0.1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle"), make_bundle()))


def _opened(
    monkeypatch: pytest.MonkeyPatch, folder: Path, make: Callable[[Any, SourceContext], Source]
) -> deferred.DeferredSource:
    monkeypatch.setattr(opening, "source_kind", lambda _kind: SourceKind(type(SMALL), make))
    return opening.make_or_defer_source("main", SMALL, folder, SystemClock())


ERRORS: list[Callable[[], BaseException]] = [Nothing, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration,
                                             lambda: OSError(5, "Input/output error"), MemoryError]  # fmt: skip


@pytest.mark.parametrize("fault", ["make", "windows", "first", "middle", "ends"])
def test_it_is_made_again_until_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    mended, sources = threading.Event(), iter([*ERRORS, *ERRORS])
    monkeypatch.setattr(BrokenSource, "made", 0)
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource(fault, mended, next(sources, Nothing)))
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", source, spool, SystemClock())
    pipeline.start()
    try:
        until(lambda: pipeline.failures >= len(ERRORS), 20, "the failures")
        assert pipeline.alive()
        trouble = pipeline.trouble
        assert trouble is not None
        assert (trouble.code, trouble.times >= 1) == ("source.failed", True)
        assert pipeline.status().source == "source.failed"
        assert pipeline.status().detail == trouble.message != ""
        assert BrokenSource.made >= len(ERRORS)
        mended.set()
        before = pipeline.status().windows
        until(lambda: pipeline.status().windows > before + 3, 20, "windows")
        assert pipeline.trouble is None
        assert pipeline.status().source == "running"
        assert pipeline.status().faults >= len(ERRORS)
    finally:
        pipeline.stop()
    spool.flush()
    records = [held.item for held in spool.peek(0, 10_000, ("telemetry",)) if isinstance(held.item, TelemetryRecord)]
    assert [record.window for record in records] == list(range(len(records)))
    assert len(records) == pipeline.status().windows
    spool.close()


@pytest.mark.parametrize("fault", ["spec", "state", "dropped", "pending", "model_ready", "close"])
def test_a_question_that_it_cannot_answer_stops_no_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource(fault, threading.Event()))
    with_spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", source, with_spool, SystemClock())
    source.model_ready()
    pipeline.start()
    until(lambda: pipeline.status().windows > 5, 20, "windows")
    assert encode(Status(online=True, pipelines={"main": pipeline.status()}))
    pipeline.stop()
    assert not pipeline._thread.is_alive()
    assert pipeline.failures >= 1 or fault == "close"  # it is not waited for at the end
    with_spool.close()


GARBAGE: list[Any] = [
    None, "window", (np.zeros((4, 1), np.float32), 0.0), Window(None, 0.0), Window([[1.0]], 0.0),  # type: ignore[arg-type]
    Window(np.zeros(4, np.float32), 0.0), Window(np.zeros((4, 1), object), 0.0), Window(np.zeros((4, 1), complex), 0.0),
    Window(np.array([["a"]]), 0.0), Window(np.zeros((4, 1), np.float32), None),  # type: ignore[arg-type]
    Window(np.zeros((4, 1), np.float32), 0.0, gap_samples=-1),
    Window(np.zeros((4, 1), np.float32), 0.0, late_seconds=float("nan")),
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda each: repr(each)[:40])
def test_what_is_no_window_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, garbage: Any
) -> None:
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource("garbage", threading.Event(), lambda: garbage))
    given = source.windows(0)
    assert [next(given).t_s for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert (source.dropped, source.failures) == (1, 1)
    assert "is no window" in source.faults[0].text
    source.close()


def test_numbers_of_another_type_become_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(np.full((4, 1), 7, np.int16), 0.0)
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource("garbage", threading.Event(), lambda: window))  # type: ignore[arg-type,return-value]
    given = source.windows(0)
    found = [next(given) for _ in range(3)][2]
    assert found.samples.dtype.name == "float32"
    assert found.samples[0, 0] == 7
    source.close()


def test_numbers_of_numpy_become_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record can be made of the others: one window would hold up all that follow."""
    window = Window(np.zeros((4, 1), np.float32), np.float32(7.0), np.int64(2), np.float64(0.5), np.int16(1))  # type: ignore[arg-type]
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource("garbage", threading.Event(), lambda: window))  # type: ignore[arg-type,return-value]
    given = source.windows(0)
    found = [next(given) for _ in range(3)][2]
    numbers = (found.t_s, found.gap_samples, found.late_seconds, found.late_samples)
    assert numbers == (7.0, 2, 0.5, 1)
    assert [type(number) for number in numbers] == [float, int, float, int]
    source.close()


def test_garbage_without_end_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flood(BrokenSource):
        def _windows(self, first: int) -> Iterator[Any]:
            while True:
                yield None

    source = _opened(monkeypatch, tmp_path, lambda *_: Flood("", threading.Event()))
    steps = source.steps(0)
    for _ in range(100):
        assert next(steps) is None
    assert (source.state, source.dropped) == ("source.garbage", 100)
    source.close()


def test_a_window_of_another_form_is_not_scored_nor_held_against_the_model(tmp_path: Path, bundle: Bundle) -> None:
    class Short:
        """Windows that have half the samples that it says; the features would take them."""

        spec = SourceSpec(SMALL.sample_rate_hz, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"))
        dropped, state = 0, "running"

        def windows(self, first: int) -> Iterator[Window]:
            for index in range(3):
                yield Window(np.ones((SMALL.window_samples // 2, 2), np.float32), float(index))
            self.state = "ended"

        def model_ready(self) -> None: ...

        def close(self) -> None: ...

    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", Short(), spool, SystemClock())
    pipeline.swap(bundle)
    pipeline.start()
    until(lambda: not pipeline._thread.is_alive(), 20, "the end of the stream")
    records = [held.item for held in spool.peek(0, 100, ("telemetry",)) if isinstance(held.item, TelemetryRecord)]
    assert [record.score for record in records] == [None] * 3
    assert pipeline.health().error == ""
    assert pipeline.status().source == "source.garbage"
    assert pipeline.failures == 3
    spool.close()


def test_a_source_that_hangs_while_it_is_made_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_OPEN_SECONDS", 0.1)
    monkeypatch.setattr(deferred, "_HANG_SECONDS", 0.1)
    let_go, made = threading.Event(), []

    def make(*_: object) -> Source:
        made.append(1)
        let_go.wait(20)
        return BrokenSource("", let_go)

    source = _opened(monkeypatch, tmp_path, make)
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", source, spool, SystemClock())
    pipeline.start()
    until(lambda: pipeline.status().source == "source.hangs", 10, "the state")
    assert pipeline.trouble is not None
    let_go.set()
    until(lambda: pipeline.status().windows > 2, 10, "windows")
    assert made == [1]
    pipeline.stop()
    spool.close()


def test_pipelines_whose_sources_hang_stop_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(BrokenSource):
        def close(self) -> None:
            threading.Event().wait(30)

        def _windows(self, first: int) -> Iterator[Any]:
            threading.Event().wait(30)
            yield None

    clock = SystemClock()
    pipelines = []
    for index in range(4):
        source = _opened(monkeypatch, tmp_path, lambda *_: Deaf("", threading.Event()))
        pipelines.append(Pipeline(f"p{index}", source, Spool(tmp_path / f"{index}.db"), clock))
        pipelines[-1].start()
    began = clock.monotonic()
    for pipeline in pipelines:
        pipeline.begin_to_stop()
    for pipeline in pipelines:
        pipeline.stop(1.0)
    assert clock.monotonic() - began < 4.0  # one after another would take eight


def test_a_fault_in_the_work_on_a_window_loses_that_window_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource("", threading.Event()))
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", source, spool, SystemClock())
    real, times = pipeline._ledger.add, iter(range(10**9))

    def add(judged: Any) -> Any:
        if 3 <= next(times) < 6:
            raise SystemExit
        return real(judged)

    monkeypatch.setattr(pipeline._ledger, "add", add)
    pipeline.start()
    until(lambda: pipeline.failures == 3, 10, "the faults")
    until(lambda: pipeline.status().windows > 10, 10, "windows")
    assert pipeline.alive()
    assert pipeline.trouble is None
    assert pipeline.status().dropped_windows == 3
    pipeline.stop()
    spool.close()


def test_a_record_that_cannot_be_encoded_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _opened(monkeypatch, tmp_path, lambda *_: BrokenSource("", threading.Event()))
    spool = Spool(tmp_path / "spool.db")
    real = ledger._record

    def record(observation: Any) -> Any:
        made = real(observation)
        return msgspec.structs.replace(made, label="\ud800") if observation.index in (2, 3) else made

    monkeypatch.setattr(ledger, "_record", record)
    pipeline = Pipeline("main", source, spool, SystemClock())
    pipeline.start()
    until(lambda: pipeline.status().windows > 8, 10, "windows")
    pipeline.stop()
    assert pipeline.status().dropped_windows >= 2
    assert pipeline.status().source != "spool.storage"
    assert spool.figures().held > 4
    spool.close()


def test_a_release_that_cannot_be_loaded_for_whatever_reason_does_not_keep_the_agent_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: DeviceServer
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Running, "_load", fail)
    monkeypatch.setattr(Slots, "active", lambda *_: "bearing-1-00000000")
    (tmp_path / "state").mkdir()
    config = AgentConfig(
        device=DeviceConfig(state_dir=tmp_path / "state"),
        delivery=DeliveryConfig(flush_seconds=0.0),
        pipelines=(PipelineConfig(name="main", source=SMALL),),
    )
    agent = Agent(config, Profile(name="test"), server.identity(tmp_path / "identity"))
    monkeypatch.setattr(agent.pipelines["main"], "flush_due", fail)
    running = threading.Thread(target=agent.run, daemon=True)
    running.start()
    until(lambda: agent.pipelines["main"].status().windows > 2, 20, "windows")
    until(lambda: agent._faults.total >= 1, 20, "a turn of the main loop")
    assert agent.pipelines["main"].status().source == "runtime.load"
    assert running.is_alive()
    agent.stop()
    running.join(20)
    assert not running.is_alive()


def _has_failed(pipeline: Pipeline) -> bool:
    return pipeline.status().faults >= 2


def test_one_broken_source_leaves_the_agent_and_its_watchdog_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: DeviceServer
) -> None:
    """Every kind of fault in one agent, beside a pipeline that works."""
    faults = ("make", "windows", "first", "middle", "ends", "spec", "state", "close")
    made = iter(faults)
    names: dict[str, str] = {}

    def make(_config: Any, context: SourceContext) -> Source:
        fault = names.setdefault(context.pipeline, next(made, ""))
        return BrokenSource(fault, threading.Event(), SystemExit)

    real, broken_kind = source_kind, SourceKind(type(SMALL), make)
    monkeypatch.setattr(opening, "source_kind", lambda kind: real(kind) if kind == "simulator" else broken_kind)
    plug_in = dataclasses.replace(SMALL, kind="broken")  # type: ignore[arg-type]  # the kind of a plug-in
    (tmp_path / "state").mkdir()
    config = AgentConfig(
        device=DeviceConfig(state_dir=tmp_path / "state"),
        delivery=DeliveryConfig(flush_seconds=0.0),
        pipelines=(
            PipelineConfig(name="good", source=SMALL),
            *(PipelineConfig(name=fault, source=plug_in) for fault in faults),
        ),
    )
    agent = Agent(config, Profile(name="test"), server.identity(tmp_path / "identity"))
    running = threading.Thread(target=agent.run, daemon=True)
    running.start()
    try:
        for fault in faults:
            if fault != "close":
                until(functools.partial(_has_failed, agent.pipelines[fault]), 20, fault)
        until(lambda: agent.pipelines["good"].status().windows > 3, 20, "windows of the other pipeline")
        assert agent._liveness.troubles() == []
        body = agent._status.answer({"ask": "status"})
        for fault in ("make", "windows", "first"):
            found = body["pipelines"][fault]
            assert found["source"] == found["trouble"]["code"] == "source.failed"
            assert found["trouble"]["times"] >= 2
            assert "SystemExit" in found["trouble"]["message"]
        assert body["pipelines"]["good"]["trouble"] is None
        text = "\n".join(status_lines(body | {"running": True}, 0.0))
        assert "TROUBLE  SystemExit" in text
        assert encode(agent._status.message())
    finally:
        agent.stop()
        running.join(20)
    assert not running.is_alive()
    assert [entry.name for entry in (tmp_path / "state").iterdir() if not is_state(entry.name)] == []
