"""Several machines of a kind: one release, each device with its own baseline, and limits that all of them share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import structs

from tests.fleet.training.test_evidence import machine, named
from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_fleet.training import budget
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.evaluate import Bundle, evaluate, read_bundle
from wheeltapper_protocols.signal.recording import Recording, write_recording

LEVELS = (0.4, 1.0, 3.0)
"""How loud the machines of training are."""


def worn(recording: Recording, first: int, gain: float = 1.35) -> Recording:
    """Louder by a third from snapshot ``first`` on, with small impacts."""
    samples = recording.samples.copy()
    samples[first:] *= gain
    samples[first:, ::97] += 1.2 * samples[first:].std()
    return replace(recording, samples=samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    fleet = [named(machine(60 + 10 * seed, seed, level), f"m{seed}") for seed, level in enumerate(LEVELS)]
    train_anomaly(fleet, healthy_fraction=1.0, out=out)
    return out


def test_by_default_each_device_learns_as_many_windows_as_every_machine_has(folder: Path) -> None:
    made = read_bundle(folder).manifest
    assert made.baseline is not None
    assert made.baseline.windows == 60
    assert made.evidence is not None
    assert {each.kind for each in made.evidence.detectors} > {"level", "impulsiveness", "density"}
    assert all(gate.passed for gate in made.gates)


@pytest.mark.parametrize("level", [0.4, 0.8, 2.0, 3.5])
def test_a_machine_that_training_has_not_seen_is_silent_until_it_wears(folder: Path, level: float) -> None:
    found = evaluate(worn(machine(200, 30, level), 150), read_bundle(folder))
    assert not found.alert[:150].any()
    assert found.first_alert is not None
    assert found.first_alert < 165


def test_the_fleets_values_alone_would_not_find_what_the_own_baseline_finds(folder: Path) -> None:
    bundle = read_bundle(folder)
    plain = Bundle(structs.replace(bundle.manifest, baseline=None), bundle.model)
    wear = worn(machine(200, 31, 0.8), 150)
    assert evaluate(wear, plain).first_alert is None
    assert evaluate(wear, bundle).first_alert is not None


def test_a_device_replays_what_training_computes(folder: Path, tmp_path: Path) -> None:
    wear = worn(machine(120, 32, 2.0), 90)
    write_recording(wear, tmp_path / "run.npz")
    rows = list(score_recording(folder, tmp_path / "run.npz"))
    expected = evaluate(wear, read_bundle(folder))
    assert [row["alert"] for row in rows] == expected.alert.tolist()
    assert expected.alert.any()


def test_a_machine_far_beyond_those_of_training_is_not_believed(folder: Path) -> None:
    found = evaluate(machine(150, 33, 40.0), read_bundle(folder))
    assert found.alert[20:].all()


def test_recordings_that_name_the_same_machine_are_of_one(tmp_path: Path) -> None:
    days = [machine(40, seed) for seed in range(3)]
    made = train_anomaly(days, healthy_fraction=1.0, out=tmp_path / "b")
    assert made.baseline is None
    assert made.evidence is not None
    assert "level" in {each.kind for each in made.evidence.detectors}
    assert [key for key in made.lineage if key.startswith("recording-")] == [
        "recording-0",
        "recording-1",
        "recording-2",
    ]


def test_so_few_windows_of_a_machine_are_no_baseline(tmp_path: Path) -> None:
    short = [named(machine(15, seed), f"m{seed}") for seed in range(2)]
    assert train_anomaly(short, healthy_fraction=1.0, out=tmp_path / "b").baseline is None


def test_shared_limits_keep_the_budget_where_scores_are_normal() -> None:
    random = np.random.default_rng(0)
    machines = [random.normal(size=(400, 3)) for _ in range(8)]
    limit = budget.shared_limits(machines, 360.0, 1000.0, 3, np.zeros(3))
    later = random.normal(size=(200_000, 3))
    alarms = sum((budget.sustained(later[:, [i]], 3) >= limit[i]).sum() for i in range(3))
    assert alarms / (200_000 / 360.0) < 1.0  # the budget: one in an hour


def test_machines_that_differ_have_higher_shared_limits() -> None:
    random = np.random.default_rng(1)
    alike = [random.normal(size=(200, 1)) for _ in range(5)]
    apart = [values + 2.0 * number for number, values in enumerate(alike)]
    narrow, wide = (budget.shared_limits(each, 360.0, 1.0, 3, np.zeros(1)) for each in (alike, apart))
    assert wide > narrow + 4.0  # the middle of them is 4 higher, and a further machine may be anywhere


def slowly_worn(recording: Recording, first: int, gain: float) -> Recording:
    """Louder from snapshot ``first`` on, by so little that no window warns."""
    samples = recording.samples.copy()
    samples[first:] *= gain
    return replace(recording, samples=samples)


def test_wear_that_never_warns_by_its_level_is_found_by_its_sum(folder: Path) -> None:
    bundle = read_bundle(folder)
    decision = bundle.manifest.decision
    assert (decision.slow_drift, decision.slow_limit) == (0.5, 40.0)
    without = Bundle(structs.replace(bundle.manifest, decision=structs.replace(decision, slow_limit=0.0)), bundle.model)
    wear = slowly_worn(machine(700, 34), 150, 1.16)
    assert evaluate(wear, without).first_alert is None
    found = evaluate(wear, bundle)
    assert found.first_alert is not None
    assert 200 < found.first_alert < 650
    assert not evaluate(machine(700, 34), bundle).alert.any()


def test_the_sum_keeps_its_share_of_the_budget() -> None:
    random = np.random.default_rng(2)

    def scores(windows: int) -> npt.NDArray[np.float64]:
        """Healthy ones that hang together."""
        noise = random.normal(size=windows)
        for index in range(1, windows):
            noise[index] += 0.9 * noise[index - 1]
        return np.asarray(0.42 + 0.06 * noise)

    limit = budget.slow_limit([scores(4000) for _ in range(5)], 360.0, 20_000.0)
    assert 0 < limit <= 200
    total, highest, alarms = 0.0, 0.0, 0
    for score in scores(100_000):
        total = max(0.0, total + min(score, 1.0) - budget.SLOW_REFERENCE)
        highest = max(highest, total)
        if total >= limit:
            total, alarms = 0.0, alarms + 1
    assert alarms <= 0.1 * 20.0 * 100_000 / 360.0  # a tenth of 20 an hour
    assert highest > 1.0  # the sum does move


def test_scores_that_are_high_anyway_have_no_sum() -> None:
    assert budget.slow_limit([np.full(100, 0.6)], 360.0, 1.0) == 0.0
    assert budget.slow_limit([np.full(100, 0.1)], 360.0, 1.0) == 40.0
