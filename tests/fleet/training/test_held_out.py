"""Runs that are judged on data that nothing was trained on: windows, segments, the champion, what cannot be judged."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fleet.training.run_sites import held_out, temperature
from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.manifest import Label
from wheeltapper_fleet.learning.datasets.reading import Dataset, open_dataset
from wheeltapper_fleet.learning.datasets.splits import Request
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.judging.judge import HEALTHY, Limits, Other, judge_held_out
from wheeltapper_fleet.training.judging.windows import Truth, held_out_windows
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_fleet.training.runs.child import execute
from wheeltapper_fleet.training.runs.folder import RunFolder, Task
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.manifest.manifest import (
    MANIFEST_FILE,
    Anomaly,
    Budget,
    BundleFile,
    Classification,
    Golden,
    Input,
    Manifest,
    RawInput,
    RemainingLife,
    decode_manifest,
)
from wheeltapper_protocols.signal.recording import Recording

RECIPE = """
recipe = "slow-signal"
model = "coolant"
[data]
dataset = "coolant@1"
[gates]
worse = 0.05
required = {required}
[parameters]
window_samples = 150
sigma = {sigma}
"""
SHAPE = Input(sample_rate_hz=100.0, window_samples=50, channels=["x"], units=["g"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """Eight machines, four of them held out, on two sites."""
    made = DatasetStore(tmp_path_factory.mktemp("store"))
    held_out(made, "coolant", 8)
    return made


def run(path: Path, store: DatasetStore, sigma: float, champion: Path | None = None, required: str = "[]") -> RunFolder:
    folder = RunFolder(path)
    recipe = RECIPE.format(sigma=sigma, required=required)
    folder.begin(Task(run="r-0", recipe=recipe, seed=3, store=store.url, against=champion is not None))
    if champion is not None:
        shutil.copytree(champion, folder.champion)
    return folder


def manifest_of(folder: RunFolder) -> Manifest:
    return decode_manifest((folder.bundle / MANIFEST_FILE).read_bytes())


@pytest.fixture(scope="module")
def champion(store: DatasetStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that seldom alerts."""
    folder = run(tmp_path_factory.mktemp("champion") / "run", store, 8.0)
    outcome = execute(folder)
    assert outcome.state is State.SUCCEEDED, outcome
    made = manifest_of(folder)
    assert made.lineage["judged_on"] == "coolant@1 test, 604 windows of 4 recordings"
    assert "condition" in made.lineage["not_judged"]
    assert "champion" not in made.lineage["not_judged"]
    return folder.bundle


def test_a_bundle_is_held_against_the_champion_and_across_sites(
    tmp_path: Path, store: DatasetStore, champion: Path
) -> None:
    folder = run(tmp_path / "same", store, 8.0, champion, '["champion", "site", "machine"]')
    outcome = execute(folder)
    assert outcome.state is State.SUCCEEDED, outcome
    made = manifest_of(folder)
    gates = {gate.name: gate for gate in made.gates}
    assert (gates["against_champion"].value, gates["against_champion"].limit) == (0.0, -0.05)
    assert "95% confidence" in gates["against_champion"].detail
    assert "is the worst of 2" in gates["worst_site_false_alert_rate"].detail
    assert "worst_machine_false_alert_rate" in gates
    assert made.lineage["champion"] == "coolant, trained on coolant@1"
    assert outcome.metrics["against_champion"] == 0.0
    assert any(text.startswith("not judged: condition") for text in outcome.warnings)
    assert not any(text.startswith("not judged: site") for text in outcome.warnings)


def test_a_bundle_that_is_worse_than_the_champion_is_none(tmp_path: Path, store: DatasetStore, champion: Path) -> None:
    folder = run(tmp_path / "worse", store, 2.0, champion)
    outcome = execute(folder)
    assert (outcome.state, outcome.error_code) == (State.FAILED, "training.gate_failed"), outcome
    assert "against_champion" in str(outcome.error_detail)
    assert not folder.bundle.exists()
    alone = execute(run(tmp_path / "alone", store, 2.0))
    assert alone.state is State.SUCCEEDED, "it fails by the comparison only"


def _changed(champion: Path, to: Path, **fields: Any) -> Path:
    from wheeltapper_protocols.manifest.manifest import encode_manifest

    shutil.copytree(champion, to)
    manifest = decode_manifest((to / MANIFEST_FILE).read_bytes())
    (to / MANIFEST_FILE).write_bytes(encode_manifest(replace(manifest, **fields)))
    return to


def test_what_cannot_be_judged_is_named_and_passes_nothing(tmp_path: Path, store: DatasetStore, champion: Path) -> None:
    other = _changed(champion, tmp_path / "other", input=SHAPE)
    folder = run(tmp_path / "run", store, 8.0, other)
    outcome = execute(folder)
    assert outcome.state is State.SUCCEEDED, outcome
    made = manifest_of(folder)
    assert "against_champion" not in {gate.name for gate in made.gates}
    assert "champion: coolant takes other windows" in made.lineage["not_judged"]
    strict = run(tmp_path / "strict", store, 8.0, other, '["champion"]')
    outcome = execute(strict)
    assert (outcome.state, outcome.error_code) == (State.FAILED, "training.not_judged"), outcome
    assert not strict.bundle.exists()
    broken = _changed(champion, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"nothing")
    outcome = execute(run(tmp_path / "broken-run", store, 8.0, broken))
    assert any("champion: coolant cannot be replayed here" in text for text in outcome.warnings), outcome


def test_a_dataset_without_a_held_out_side_judges_nothing(tmp_path: Path, champion: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    coming = [Incoming(read=functools.partial(temperature, 9), machine="m", source="m")]
    import_version(store, "coolant", coming)
    for required, wanted in (("[]", None), ('["champion"]', "training.not_judged")):
        folder = run(tmp_path / required.strip('[]"'), store, 8.0, champion, required)
        outcome: Outcome = execute(folder)
        assert outcome.error_code == wanted, outcome
        if wanted is None:
            assert "coolant@1 has no side that was not trained on" in manifest_of(folder).lineage["not_judged"]


# --- windows ----------------------------------------------------------------------------------------------------------


def manifest(**more: Any) -> Manifest:
    files = [BundleFile(name=name, sha256="0" * 64, length=1) for name in ("model.onnx", "golden.npz")]
    given: dict[str, Any] = {
        "model": "m", "created_at": "2026-11-29T10:00:00Z", "files": files, "input": SHAPE, "features": [],
        "raw": RawInput(channels=[0], center=[0.0], scale=[1.0]), "anomaly": Anomaly(output="score", threshold=1.0),
        "decision": DecisionSpec(smooth_windows=1, raise_windows=1, clear_windows=2),
        "golden": Golden(output_atol=1.0, score_rtol=1.0), "budget": Budget(latency_p95_ms=1.0, rss_growth_mb=1.0),
    }  # fmt: skip
    return Manifest(**(given | more))


def recorded(rate_hz: float, samples: int, snapshots: int, step_s: float, **more: Any) -> Recording:
    values = np.arange(snapshots * samples, dtype=np.float32).reshape(snapshots, samples, 1)
    given: dict[str, Any] = {"channels": ("x",), "units": ("g",)} | more
    return Recording(values, np.ones(1), rate_hz, np.arange(float(snapshots)) * step_s, **given)


def dataset(folder: Path, *given: tuple[Recording, list[Label]]) -> Dataset:
    store = DatasetStore(folder / "store")
    coming = [
        Incoming(
            read=lambda recording=recording: recording, machine=f"m{number}", source=f"r{number}", labels=labels,  # type: ignore[misc]
            split="test", condition={"site": "north", "load": number},
        )
        for number, (recording, labels) in enumerate(given)
    ]  # fmt: skip
    import_version(store, "rig", coming, request=Request(by="source"))
    return open_dataset("rig@1", store)


def windows_of(found: Dataset, made: Manifest, truth: Truth) -> tuple[LabelledWindows | None, list[str]]:
    said: list[str] = []
    return held_out_windows(found, "test", {}, made, truth, said.append), said


def test_recordings_become_windows_of_the_release(tmp_path: Path) -> None:
    fault = [Label(name="fault", value="inner", start=1.0, stop=2.0)]
    found, said = windows_of(
        dataset(
            tmp_path,
            (recorded(100.0, 50, 4, 1.0), fault),
            (recorded(200.0, 210, 2, 5.0), [Label(name="verdict", value="true_fault", start=5.0)]),
            (recorded(100.0, 20, 5, 0.2), []),
            (recorded(50.0, 500, 1, 1.0), []),
            (recorded(100.0, 50, 2, 1.0, channels=("y",)), []),
            (recorded(100.0, 50, 2, 1.0, units=("m/s2",)), []),
            (recorded(100.0, 20, 5, 9.0), []),
        ),
        manifest(),
        Truth(healthy_fraction=0.5),
    )
    assert found is not None
    assert found.names == ("r0", "r1", "r2")
    assert [int(np.sum(found.recording == index)) for index in range(3)] == [4, 4, 51]
    labels = np.array(found.labels)
    assert labels[:4].tolist() == ["", "inner", "", ""]
    assert labels[4:8].tolist() == ["", "", "fault", "fault"]
    assert sorted(set(labels[8:])) == ["", HEALTHY[0]]
    assert np.array_equal(found.samples[0, :, 0], np.arange(50))
    assert np.array_equal(found.samples[-1, :, 0], np.arange(50, 100)), "the last window ends with the recording"
    assert found.segments["site"] == ("north",) * 3
    assert found.segments["condition"][1] == "load=1"
    assert said == [
        "recordings that judge nothing (training.channel): r4 of m4: it lacks the channel 'x'",
        "recordings that judge nothing (training.gaps): r6 of m6: it: snapshot 1 does not begin where the one before "
        "ends; this recipe needs a series without gaps: record without pauses, or cut the recording where they are",
        "recordings that judge nothing (training.mixed_input): of 2 the first is r3 of m3: it has 50 Hz, less than the "
        "100 Hz of the model",
    ]


def test_the_life_that_remains_is_that_at_the_windows_end(tmp_path: Path) -> None:
    life = RemainingLife(unit="cycles", cap=100.0, warn_at=10.0)
    made = manifest(task="remaining_life", anomaly=None, remaining_life=life)
    left = [Label(name="remaining_cycles", value=7.0)]
    found, _ = windows_of(
        dataset(tmp_path, (recorded(100.0, 80, 1, 1.0), []), (recorded(100.0, 1, 60, 0.01), left)), made, Truth()
    )
    assert found is not None
    lives = found.remaining_life("cycles")
    assert lives[found.recording == 0].tolist() == list(range(30, -1, -1))
    assert lives[found.recording == 1].tolist() == list(range(17, 6, -1))
    assert windows_of(dataset(tmp_path / "short", (recorded(100.0, 40, 1, 1.0), [])), made, Truth())[0] is None


# --- judging ----------------------------------------------------------------------------------------------------------


def judged(labels: list[str], score: Any, sites: list[str], champion: Any = None, each: int = 40) -> Any:
    """``each`` windows a recording, of which each has a label and a site."""
    count = len(labels)
    data = LabelledWindows(
        input=SHAPE, samples=np.zeros((count * each, 1, 1), np.float32),
        labels=tuple(np.repeat(labels, each).tolist()), recording=np.repeat(np.arange(count), each),
        t_s=np.arange(float(count * each)),
        segments={"machine": tuple(f"m{n}" for n in range(count)), "site": tuple(sites), "condition": ("",) * count},
        sha256=("",) * count, names=("",) * count,
    )  # fmt: skip
    other = champion
    if isinstance(champion, np.ndarray):
        other = Other("against_champion", "m 1", manifest(), {"score": champion})
    return judge_held_out(manifest(), data, {"score": np.asarray(score, dtype=float)}, Limits(), other)


def test_a_site_where_faults_are_not_found_fails_and_small_ones_are_said() -> None:
    labels = ["normal", "fault"] * 3
    random = np.random.default_rng(0)
    good = np.concatenate([random.normal(2.0 * (label == "fault"), 0.3, 40) for label in labels])
    sites = ["a", "a", "b", "b", "c", "c"]
    found = judged(labels, good, sites)
    gates = {gate.name: gate for gate in found.gates}
    assert all(gate.passed for gate in found.gates)
    assert found.figure.startswith("auroc")
    assert "worst_site_auroc" in gates
    assert found.missing == {
        "condition": "no recording says its condition",
        "machine": "0 of 6 machines have 20 windows and 5 of each label with which auroc is judged; 2 are needed",
    }
    bad = good.copy()
    bad[200:240] = random.normal(0.0, 0.3, 40)
    worst = {gate.name: gate for gate in judged(labels, bad, sites).gates}["worst_site_auroc"]
    assert (worst.passed, worst.detail.startswith("'c' is the worst of 3")) == (False, True)
    small = judged(labels, good.reshape(6, 40)[:, :9].reshape(-1), sites, each=9)
    assert small.missing["site"].startswith("0 of 3 sites have 20 windows")


def test_the_worst_of_many_fails_where_it_is_shown_to_be_worse() -> None:
    """Of sixty machines that are alike the worst is bad by chance; one that is really worse is found among them."""
    random = np.random.default_rng(1)
    alike = [random.normal(0.0, 1.0) + random.normal(0.0, 0.5, 40) for _ in range(60)]
    score = np.clip(np.concatenate(alike), 0, None) * (random.random(2400) < 0.08) * 2
    found = {gate.name: gate for gate in judged(["normal"] * 60, score, ["a", "b"] * 30).gates}
    gate = found["worst_machine_false_alert_rate"]
    assert gate.passed, gate
    assert "is the worst of 60" in gate.detail
    assert "99.92% confidence" in gate.detail
    score[40:80] = 3.0
    gate = {each.name: each for each in judged(["normal"] * 60, score, ["a", "b"] * 30).gates}[gate.name]
    assert (gate.passed, gate.detail.startswith("'m1' is the worst of 60: 1,")) == (False, True), gate


def test_a_champion_that_says_nothing_is_no_better() -> None:
    labels = ["normal", "fault"] * 2
    score = np.repeat([0.1, 2.0, 0.1, 2.0], 40) + np.linspace(0, 0.01, 160)
    silent = np.full(160, np.nan)
    better = judged(labels, score, ["a"] * 4, silent).gates[-1]
    assert (better.name, better.passed, better.value) == ("against_champion", True, 0.5)
    worse = judged(labels, silent, ["a"] * 4, score).gates[-1]
    assert (worse.name, worse.passed) == ("against_champion", False)
    assert np.isfinite(worse.value)


def test_without_faults_the_time_with_a_false_alert_counts() -> None:
    quiet, loud = np.zeros(160), np.tile([0.0, 0.0, 0.0, 2.0], 40)
    found = judged(["normal"] * 4, quiet, ["a", "a", "b", "b"], loud)
    assert found.figure.startswith("false_alert_rate 0")
    assert found.gates[-1].value > 0.4
    found = judged(["normal"] * 4, loud, ["a", "a", "b", "b"], quiet)
    assert not found.gates[-1].passed
    loud[:80] = 0.0
    gates = {gate.name: gate for gate in judged(["normal"] * 4, loud, ["a", "a", "b", "b"]).gates}
    assert gates["worst_site_false_alert_rate"].detail.startswith("'b' is the worst of 2")


def test_another_task_and_unknown_labels_are_named() -> None:
    labels = ["normal", "fault"] * 2
    score = np.repeat([0.1, 2.0, 0.1, 2.0], 40)
    section = Classification(classes=["normal", "inner"], normal=["normal"], output="logits")
    classifier = manifest(task="classification", anomaly=None, classification=section)
    theirs = {"score": score, "label": np.zeros(160, dtype=int)}
    other = Other("against_champion", "m 1", classifier, theirs)
    assert "the label 'fault'" in judged(labels, score, ["a"] * 4, other).missing["champion"]
    other = dataclasses.replace(other, manifest=manifest(task="classification", anomaly=None,
        classification=replace(section, classes=["normal", "fault"])))  # fmt: skip
    assert "another task" in judged(labels, score, ["a"] * 4, other).missing["champion"]
    found = judged(["", "", "", ""], score, ["a"] * 4, "it is away")
    assert (found.gates, found.missing["champion"]) == ([], "it is away")
