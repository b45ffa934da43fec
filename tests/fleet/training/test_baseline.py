"""A release whose devices learn their own machines: trained on some, right on a louder one, replayed as on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from tests.agent.pipeline.levels import run
from tests.fleet.training.test_anomaly import machine
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.baseline import fit_baseline
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import Bundle, evaluate, read_bundle
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.recording import Recording, write_recording
from wheeltapper_protocols.wire.messages import TelemetryRecord


def louder(recording: Recording, gain: float) -> Recording:
    return replace(recording, samples=(recording.samples * gain).astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    machines = [machine(seed=1), louder(machine(seed=2), 1.25), louder(machine(seed=3), 0.8)]
    made = train_anomaly(machines, healthy_fraction=0.7, out=out, baseline_windows=40)
    assert made.baseline is not None
    assert made.baseline.windows == 40
    return out


def test_a_louder_machine_is_its_own_normal_and_its_fault_is_found(folder: Path) -> None:
    found = read_bundle(folder)
    fleet = Bundle(replace_baseline(found), found.model)
    other = louder(machine(140, seed=4, fault_from=100), 1.5)
    own, plain = evaluate(other, found), evaluate(other, fleet)
    np.testing.assert_array_equal(own.raw_score[:40], plain.raw_score[:40])
    assert np.median(own.raw_score[40:100]) < 0.7 * np.median(plain.raw_score[40:100])
    assert not own.alert[60:100].any()
    assert own.alert[100:].any()


def test_a_machine_that_is_faulty_from_the_first_window_is_not_learnt(folder: Path) -> None:
    found = evaluate(machine(100, seed=5, fault_from=0), read_bundle(folder))
    assert found.alert[-50:].all()


def replace_baseline(found: Bundle) -> Manifest:

    return structs.replace(found.manifest, baseline=None)


class Player:
    """The windows of a recording."""

    def __init__(self, recording: Recording) -> None:
        self.spec = SourceSpec(recording.sample_rate_hz, recording.window_samples, ("de",), ("g",))
        self.state, self.dropped, self.recording, self.taken = "running", 0, recording, 0

    @property
    def pending(self) -> int:
        return self.recording.snapshots - self.taken

    def windows(self, first: int) -> Iterator[Window]:
        for index in range(self.recording.snapshots):
            self.taken += 1
            yield Window(self.recording.physical(slice(index, index + 1))[0], float(index))
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


def test_training_and_device_give_the_same_scores_and_alerts(folder: Path, tmp_path: Path) -> None:
    other = louder(machine(80, seed=6, fault_from=60), 1.3)
    spool = Spool(tmp_path / "spool.db")
    run(Pipeline("main", Player(other), spool, SystemClock()), load_bundle(folder))
    records = [held.item for held in spool.peek(0, 1000, ("telemetry",)) if isinstance(held.item, TelemetryRecord)]
    expected = evaluate(other, read_bundle(folder))
    np.testing.assert_allclose([each.score or 0.0 for each in records], expected.raw_score, rtol=1e-6)
    assert [each.severity != "normal" for each in records] == expected.alert.tolist()
    spool.close()
    write_recording(other, tmp_path / "run.npz")
    rows = list(score_recording(folder, tmp_path / "run.npz"))
    assert [row["alert"] for row in rows] == expected.alert.tolist()


def test_the_limits_are_what_the_machines_differ_by() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal([4.0, 0.0], [1.0, 1.0], (500, 2)), random.normal([-2.0, 0.0], [1.0, 3.0], (500, 2))]
    found = fit_baseline(groups, 100)
    assert found.shift[0] == pytest.approx(6.0, rel=0.05)
    assert found.spread == pytest.approx([1.0, np.sqrt(5.0)], rel=0.05)
    assert found.narrowest == [1.0, 1.0]
    assert found.widest == pytest.approx([1.5, 1.5 * 3 / np.sqrt(5.0)], rel=0.05)


def test_a_baseline_of_too_few_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training\.baseline"):
        train_anomaly([machine(seed=1)], healthy_fraction=0.5, out=tmp_path / "b", baseline_windows=3)
