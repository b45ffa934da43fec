"""The baseline of a device's machine: learnt, kept over restarts, power cuts and releases, refused, reset."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from tests.agent.bundles import write_bundle
from tests.agent.pipeline.levels import LevelSource, alerts, run
from tests.agent.spool_kit import Clock
from tests.agent.task_bundles import RAW_INPUT, linear, task_bundle
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.baseline import WRITE_SECONDS
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.pipeline.remembered import read_file
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.decision.baseline import BaselineSpec
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Input, Manifest
from wheeltapper_protocols.signal.features import FeatureSpec
from wheeltapper_protocols.wire.messages import Alert, BaselineReport, Report, TelemetryRecord

LEARN = BaselineSpec(
    windows=10, outside_windows=10, shift=[10.0], spread=[1.0], narrowest=[0.5], widest=[2.0], tolerance=4.0
)
DECISION = DecisionSpec(smooth_windows=1, raise_windows=2, clear_windows=3)
WORN = DecisionSpec(smooth_windows=1, raise_windows=2, clear_windows=3, slow_drift=0.3, slow_limit=3.0)
SPOTS = [1.4, 1.6] * 5
"""Ten windows of a machine that is at 1.5 where the fleet is at 1.0: at 4 to 6 scales."""


def make(folder: Path, **fields: Any) -> Bundle:
    """A release whose score is a quarter of (root mean square - 1.0) / 0.1."""
    scoring = ScoringSpec(transform=["affine"], center=[1.0], scale=[0.1], weight=[1.0], down=[1.0], threshold=4.0)
    base = {
        "input": RAW_INPUT,
        "features": [FeatureSpec(name="x.rms", kind="rms", channel=0)],
        "scoring": scoring,
        "decision": DECISION,
        "baseline": LEARN,
    }
    files = task_bundle(linear(np.zeros((1, 1)), np.zeros(1)), np.ones((2, 16, 1), np.float32), **(base | fields))
    return load_bundle(write_bundle(folder, files))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(tmp_path_factory.mktemp("bundle"))


SIGNS = np.tile(np.array([1.0, -1.0], np.float32), 8)[:, None]


class Vibration(LevelSource):
    """Windows of one root mean square each."""

    def windows(self, first: int) -> Iterator[Window]:
        for window in super().windows(first):
            yield replace(window, samples=window.samples * SIGNS)


class Ready(Vibration):
    """All windows are ready at once."""

    taken = 0

    @property
    def pending(self) -> int:
        return len(self.levels) - self.taken

    def windows(self, first: int) -> Iterator[Window]:
        for window in super().windows(first):
            self.taken += 1
            yield window


class Device:
    """A device whose agent may be started again and again."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.spool = Spool(folder / "spool.db")
        self.file = folder / "baselines" / "main.json"

    def play(self, levels: Sequence[float], bundle: Bundle, source: type[Vibration] = Vibration) -> Pipeline:
        """A life of the agent: it takes these windows."""
        pipeline = Pipeline("main", source(levels), self.spool, self.clock, baseline_file=self.file)
        run(pipeline, bundle)
        return pipeline

    def scores(self) -> list[float | None]:
        held = [each.item for each in self.spool.peek(0, 10_000, ("telemetry",))]
        return [
            None if item.score is None else round(item.score, 3) for item in held if isinstance(item, TelemetryRecord)
        ]

    def events(self) -> list[str]:
        held = [each.item.body for each in self.spool.peek(0, 10_000, ("report",)) if isinstance(each.item, Report)]
        return [body.event for body in held if isinstance(body, BaselineReport)]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.spool.close()


def phase(pipeline: Pipeline) -> str:
    found = pipeline.baseline.status()
    assert found is not None
    return str(found.phase)


@pytest.mark.parametrize("source", [Vibration, Ready])
def test_a_machine_is_scored_by_its_own_values_from_the_window_after_it_is_learned(
    device: Device, bundle: Bundle, source: type[Vibration]
) -> None:
    pipeline = device.play([*SPOTS, 1.5, 1.5, 1.7], bundle, source)
    scores = device.scores()
    assert scores[:10] == [1.0, 1.5] * 5, "while it learns, the scores are the fleet's"
    assert scores[10:12] == [0.0, 0.0]
    assert scores[12] == pytest.approx(2.0 / np.std([4, 6] * 5, ddof=1) / 4, rel=1e-3)
    assert device.events() == ["learned"]
    found = pipeline.baseline.status()
    assert found is not None
    assert (found.phase, found.learned, found.windows, found.outside) == ("learned", 10, 10, 0)
    assert [(each.feature, each.shift, each.limited) for each in found.features] == [("x.rms", 5.0, False)]
    assert pipeline.status().baseline == found
    assert pipeline.bundle is not None
    assert pipeline.bundle.manifest is bundle.manifest, "the manifest stays the signed one"


def test_it_goes_on_after_a_restart(device: Device, bundle: Bundle) -> None:
    assert phase(device.play(SPOTS[:6], bundle)) == "learning"
    device.clock.seconds -= 500.0
    assert phase(device.play(SPOTS[6:], bundle)) == "learned"
    assert phase(device.play([1.5], bundle)) == "learned"
    assert device.scores()[-1] == 0.0
    assert device.events() == ["learned"], "a restart is no event"


def test_a_machine_that_is_faulty_already_does_not_become_its_own_normal(
    device: Device, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = device.play([4.0] * 15, bundle)
    assert (phase(pipeline), device.events()) == ("refused", ["refused"])
    assert device.scores() == [7.5] * 15
    assert [at for at, raised, _ in alerts(device.spool) if raised] == [1]
    assert caplog.text.count("baseline.refused") == 1
    assert phase(device.play(SPOTS, bundle)) == "refused", "it stays until somebody has looked"


def test_nothing_is_learnt_while_an_alert_of_before_is_on(device: Device, bundle: Bundle, tmp_path: Path) -> None:
    device.play([3.0] * 5, make(tmp_path / "plain", baseline=None))
    pipeline = device.play([1.9] * 20, bundle)
    found = pipeline.baseline.status()
    assert found is not None
    assert (found.phase, found.learned) == ("learning", 0)
    found = device.play([1.0] * 5, make(tmp_path / "other", release=2)).baseline.status()
    assert found is not None
    assert found.learned == 3, "from the window on that cleared it"


def test_a_release_with_the_same_features_keeps_it_and_going_back_finds_it(
    device: Device, bundle: Bundle, tmp_path: Path
) -> None:
    moved = ScoringSpec(transform=["affine"], center=[1.2], scale=[0.2], weight=[1.0], down=[1.0], threshold=4.0)
    second = make(tmp_path / "second", release=2, scoring=moved)
    other = make(tmp_path / "other", release=3, features=[FeatureSpec(name="x.peak", kind="peak", channel=0)])
    device.play(SPOTS, bundle)
    assert phase(device.play([1.5], second)) == "learned"
    assert device.scores()[-1] == pytest.approx(0.0, abs=1e-6)
    shadowed = device.play([1.5], bundle).baseline
    assert shadowed.preview(second).task.usual == pytest.approx([1.5])
    assert shadowed.preview(other) is other
    assert phase(device.play([1.5], other)) == "learning"
    assert phase(device.play([1.5], bundle)) == "learned"
    assert device.events() == ["learned", "kept"]


def test_a_reset_learns_anew(device: Device, bundle: Bundle) -> None:
    pipeline = device.play(SPOTS, bundle)
    pipeline.baseline.reset()
    assert phase(pipeline) == "learning"
    assert read_file(device.file) == ()
    source = Vibration([*SPOTS, 1.5, *SPOTS, 1.5])
    pipeline = Pipeline("main", source, device.spool, device.clock, baseline_file=device.file)
    source.swap_at[11] = pipeline.baseline.reset
    run(pipeline, bundle)
    assert device.scores()[20:] == [0.0, *[1.0, 1.5] * 5, 0.0]
    assert device.events() == ["learned", "learned", "reset", "learned"]


def test_a_release_without_one_has_nothing_to_reset(device: Device, tmp_path: Path) -> None:
    pipeline = device.play([1.0], make(tmp_path / "plain", baseline=None))
    assert pipeline.status().baseline is None
    assert not device.file.exists()
    with pytest.raises(AgentError, match=r"baseline\.none"):
        pipeline.baseline.reset()


def test_it_comes_into_force_when_it_is_on_disk(
    device: Device, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Later(Vibration):
        def windows(self, first: int) -> Iterator[Window]:
            for window in super().windows(first):
                if window.t_s == 14.0:
                    monkeypatch.undo()
                    device.clock.seconds += 2 * WRITE_SECONDS
                yield window

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("wheeltapper_agent.pipeline.remembered.write_atomic", refuse)
    pipeline = device.play([*SPOTS, *[1.5] * 6], bundle, Later)
    assert device.scores()[10:] == [1.25] * 5 + [0.0]
    assert phase(pipeline) == "learned"
    assert caplog.text.count("storage.full") == 1


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_power_cut_at_any_write_leaves_the_old_or_the_new(
    device: Device, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, call: str, cut: int
) -> None:
    device.play(SPOTS[:4], bundle)
    before = read_file(device.file)[0].baseline.learned
    real, calls = getattr(os, call), [0]

    def dies(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] >= cut:  # from here on the device has no power: nothing is written any more
            raise OSError(errno.EIO, "no power")
        return real(*args, **more)

    monkeypatch.setattr(f"wheeltapper_agent.ground.files.os.{call}", dies)
    device.play(SPOTS[4:], bundle)
    monkeypatch.undo()
    assert before <= read_file(device.file)[0].baseline.learned <= 10
    assert phase(device.play(SPOTS, bundle)) == "learned"


def test_a_file_that_cannot_be_read_is_said_and_learnt_anew(
    device: Device, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    device.file.parent.mkdir()
    device.file.write_bytes(b'{"releases": [{}]}')
    assert phase(device.play(SPOTS, bundle)) == "learned"
    assert device.events() == ["unreadable", "learned"]
    assert "baseline.unreadable" in caplog.text


def test_an_agent_that_is_restarted_often_finds_slow_wear(device: Device, tmp_path: Path) -> None:
    worn: Manifest | Bundle = make(tmp_path / "worn", baseline=None, decision=WORN)
    assert isinstance(worn, Bundle)
    for _ in range(4):
        device.play([1.24] * 3, worn)  # the score is 0.6: 0.3 a window
    found = [each.item for each in device.spool.peek(0, 100, ("alert",)) if isinstance(each.item, Alert)]
    assert [(each.window, each.slowly, each.raised) for each in found] == [(9, True, True)]
    assert [reason.feature for reason in found[0].reasons] == ["x.rms"]
    device.play([1.24] * 3, make(tmp_path / "next", baseline=None, decision=WORN, release=2))
    assert len(alerts(device.spool)) == 1, "it goes on with another release"


class AtSpeed(LevelSource):
    """A vibration of one root mean square, beside the machine's speed, as pairs."""

    def __init__(self, states: Sequence[tuple[float, float]]) -> None:
        super().__init__([])
        self.spec = SourceSpec(1000.0, 16, ("x", "speed"), ("g", "1/s"))
        self.states = states

    def windows(self, first: int) -> Iterator[Window]:
        for index, (level, speed) in enumerate(self.states):
            yield Window(np.hstack([SIGNS * np.float32(level), np.full((16, 1), speed, np.float32)]), float(index))
        self.state = "ended"


def test_a_baseline_learnt_under_one_condition_holds_under_the_others(device: Device, tmp_path: Path) -> None:
    scoring = ScoringSpec(
        transform=["affine"] * 2,
        center=[1.0, 10.0],
        scale=[0.1, 1.0],
        weight=[1.0, 0.0],
        down=[1.0] * 2,
        threshold=1.0,
    )
    condition = ConditionSpec(
        features=[1], centres=[[10.0], [20.0]], reach=[5.0], center=[[1.0, 10.0], [4.0, 20.0]], scale=[[0.1, 1.0]] * 2
    )
    spec = BaselineSpec(
        windows=8, outside_windows=8, shift=[9.0, 0.0], spread=[1.0] * 2, narrowest=[1.0] * 2, widest=[1.0] * 2
    )
    fields: dict[str, Any] = {
        "input": Input(sample_rate_hz=1000.0, window_samples=16, channels=["x", "speed"], units=["g", "1/s"]),
        "features": [
            FeatureSpec(name="x.rms", kind="rms", channel=0),
            FeatureSpec(name="speed.value", kind="value", channel=1),
        ],
        "scoring": scoring,
        "condition": condition,
        "decision": DECISION,
        "baseline": spec,
    }
    samples = np.hstack([SIGNS, np.full((16, 1), 10.0, np.float32)])[None].repeat(2, axis=0)
    model = linear(np.zeros((2, 2)), np.zeros(2))
    bundle = load_bundle(write_bundle(tmp_path / "at-speed", task_bundle(model, samples, **fields)))
    states = [(1.3, 10.0)] * 7 + [(7.0, 90.0), (1.3, 10.0), (4.3, 20.0), (4.4, 20.0)]
    pipeline = Pipeline("main", AtSpeed(states), device.spool, device.clock, baseline_file=device.file)
    run(pipeline, bundle)
    assert device.scores() == [*[3.0] * 7, None, 3.0, 0.0, 1.0], "the window in an unknown condition was not learnt"
    assert phase(pipeline) == "learned"
    other = replace_struct(condition, reach=[4.0])
    files = task_bundle(model, samples, **(fields | {"release": 2, "condition": other}))
    unlike = load_bundle(write_bundle(tmp_path / "unlike", files))
    assert pipeline.baseline.preview(unlike) is unlike, "with other conditions it is learnt anew"
