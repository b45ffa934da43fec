"""A model whose call does not come back: the pipeline goes on in another thread, and no other pipeline notices."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent.pipeline.test_no_score import Levels, bundle, said
from tests.agent.servers import until
from wheeltapper_agent.ground.liveness import Liveness
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.model.inference import LoadedModel
from wheeltapper_agent.pipeline.model_calls import LeftBehind, ModelCalls
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.update.hanging_models import HangingModels
from wheeltapper_protocols.wire.messages import NO_SCORE

LIMIT_SECONDS = 0.3


class HangingModel:
    """A model that does not come back from a window louder than 50 until it is let go, as native code may."""

    def __init__(self, inner: LoadedModel) -> None:
        self.inner, self.let_go, self.hung = inner, threading.Event(), 0
        self.came_back = threading.Event()
        self.provider = inner.provider

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        if float(model_input.max()) > 50.0:
            self.hung += 1
            self.let_go.wait()
            self.came_back.set()
        return self.inner.run(model_input)


def hanging(folder: Path, release: int = 1) -> tuple[Bundle, HangingModel]:
    found = bundle(folder, silent=False, release=release)
    model = HangingModel(found.model)
    return dataclasses.replace(found, model=model), model


class Rig:
    """A pipeline over constant windows, and what looks after models that hang."""

    def __init__(self, folder: Path, levels: list[float], between: Any = None) -> None:
        self.spool = Spool(folder / "spool.db")
        self.pipeline = Pipeline("main", Levels(levels, between), self.spool, SystemClock())
        self.loaded: list[str] = []

    def looked_after(self) -> HangingModels:
        return HangingModels({"main": self.pipeline}, LIMIT_SECONDS, self.loaded.append, SystemClock())

    def records(self, kind: str) -> list[Any]:
        return [held.item for held in self.spool.peek(0, 1000, (kind,))]

    def close(self) -> None:
        self.pipeline.stop()
        self.spool.close()


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for each in made:
        each.close()


def test_the_stream_goes_on_without_a_model_that_hangs(tmp_path: Path, rigs: list[Rig]) -> None:
    found, model = hanging(tmp_path / "a")
    rig = Rig(tmp_path, [1.0, 2.0, 60.0, 3.0, 4.0, 5.0, 6.0])
    rigs.append(rig)
    rig.pipeline.swap(found)
    rig.pipeline.start()
    care = rig.looked_after()
    until(lambda: turned(care, rig.pipeline).finished, 20, "the end of the stream")
    records = rig.records("telemetry")
    assert [each.window for each in records] == list(range(7)), "no window is lost, and none is there twice"
    assert [each.score is not None for each in records] == [True, True] + [False] * 5
    assert rig.pipeline.status().source == "model.hangs"
    assert rig.pipeline.health().error == "model.hangs", "probation rolls such a release back"
    assert [(label, raised) for _, label, raised in said(rig.records("alert"))] == [(NO_SCORE, True)]
    assert model.hung == 1, "it is not called again"
    assert rig.pipeline.busy_seconds == 0.0
    # What comes back much later changes nothing.
    model.let_go.set()
    assert model.came_back.wait(10)
    until(lambda: threading.active_count() < 50 and not _threads("pipeline-main"), 10, "the end of the old thread")
    assert len(rig.records("telemetry")) == 7


def turned(care: HangingModels, pipeline: Pipeline) -> Pipeline:
    """The pipeline, after the service has looked after it once more."""
    care.turn()
    return pipeline


def _threads(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]


def test_another_release_scores_again(tmp_path: Path, rigs: list[Rig]) -> None:
    found, model = hanging(tmp_path / "a")
    again = bundle(tmp_path / "b", silent=False, release=2)
    swapped = threading.Event()

    def between(place: int) -> None:
        if place == 2:
            assert swapped.wait(20)

    rig = Rig(tmp_path, [1.0, 60.0, 2.0, 60.0, 3.0], between)
    rigs.append(rig)
    rig.pipeline.swap(found)
    rig.pipeline.start()
    care = rig.looked_after()
    until(lambda: turned(care, rig.pipeline).model_hangs, 20, "the model that hangs")
    rig.pipeline.swap(again, for_hanging=True)
    assert not rig.pipeline.model_hangs
    swapped.set()
    until(lambda: turned(care, rig.pipeline).finished, 20, "the end of the stream")
    records = rig.records("telemetry")
    assert [each.window for each in records] == list(range(5))
    assert [each.release for each in records if each.score is not None] == [1, 2, 2, 2]
    assert rig.pipeline.status().source == "ended"
    model.let_go.set()


def test_what_was_swapped_in_meanwhile_stays(tmp_path: Path, rigs: list[Rig]) -> None:
    rig = Rig(tmp_path, [1.0])
    rigs.append(rig)
    newer, late = bundle(tmp_path / "b", silent=False, release=2), bundle(tmp_path / "a", silent=False)
    rig.pipeline.swap(newer)
    rig.pipeline.swap(late, for_hanging=True)
    running = rig.pipeline.bundle
    assert running is not None
    assert running.manifest.release == 2


def test_the_watchdog_is_fed_while_one_model_hangs(tmp_path: Path, rigs: list[Rig]) -> None:
    """The watchdog's limit is twice the one of models: it never sees the hanging call."""
    found, model = hanging(tmp_path / "a")
    ended = threading.Event()
    rig = Rig(tmp_path, [60.0, 1.0, 1.0], lambda place: place == 2 and ended.wait(30))
    rigs.append(rig)
    liveness = Liveness(2 * LIMIT_SECONDS)
    liveness.watch("pipeline main", rig.pipeline.alive, rig.pipeline)
    rig.pipeline.swap(found)
    rig.pipeline.start()
    care = rig.looked_after()
    until(lambda: turned(care, rig.pipeline).model_hangs, 20, "the model that hangs")
    until(lambda: rig.pipeline.busy_seconds == 0.0, 20, "the thread that waits for windows")
    assert liveness.troubles() == []
    ended.set()
    model.let_go.set()


class _Clock(SystemClock):
    """A clock that a test moves."""

    moment = 1000.0

    def monotonic(self) -> float:
        return self.moment


class _Pipeline:
    """A pipeline whose model hangs as often as it is told to."""

    hangs, model_hangs = False, True

    def leave_hanging_model(self, limit_seconds: float) -> bool:
        hung, self.hangs = self.hangs, False
        return hung


def test_a_release_is_loaded_again_ever_later_and_not_for_ever() -> None:
    clock, pipeline, loads = _Clock(), _Pipeline(), list[float]()
    care = HangingModels({"main": pipeline}, 1.0, lambda _: loads.append(clock.moment), clock)  # type: ignore[dict-item]
    waits = []
    for _ in range(6):
        pipeline.hangs, began, known = True, clock.moment, len(loads)
        for _ in range(5000):
            clock.moment += 1.0
            care.turn()
            if care._hanging["main"].attempt is not None:
                until(lambda: len(loads) > known, 10, "the load")  # noqa: B023
                waits.append(clock.moment - began)
                care.turn()
                break
    assert waits == [61.0, 241.0, 961.0, 3601.0]


def test_a_call_that_was_given_up_changes_nothing() -> None:
    clock = _Clock()
    calls = ModelCalls(clock)
    assert calls.run(lambda each: each + 1, 1) == 2
    assert not calls.give_up(0.0), "nothing is under way"

    def slow() -> int:
        clock.moment += 10.0
        assert not calls.give_up(10.0)
        clock.moment += 0.1
        assert calls.give_up(10.0)
        assert not calls.give_up(10.0)
        return 1

    with pytest.raises(LeftBehind):
        calls.run(slow)
    with pytest.raises(ZeroDivisionError):
        calls.run(lambda: 1 // 0)
    assert calls.run(lambda: 3) == 3
