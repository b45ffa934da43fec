"""Executed runs: the same in the same way, whatever goes wrong; a real trainer beside a real API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.learning.rig import vibration
from tests.fleet.training.run_sites import RECIPE, coolant, held_out, install
from tests.fleet.trust.bundles import write_bundle
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.runs import child
from wheeltapper_fleet.training.runs.child import MODULE, Report, execute
from wheeltapper_fleet.training.runs.execution import Execution
from wheeltapper_fleet.training.runs.folder import Progress, RunFolder, Task
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, Gate, decode_manifest
from wheeltapper_protocols.python_path import python_command

FAILED_GATE = Gate(name="auroc", value=0.5, limit=0.8, passed=False)
STRANGE = RECIPE.replace("slow-signal", "strange")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    made = DatasetStore(tmp_path_factory.mktemp("store"))
    coolant(made)
    return made


def ready(path: Path, store: DatasetStore, recipe: str = RECIPE, **given: Any) -> RunFolder:
    folder = RunFolder(path)
    folder.begin(Task(run="r-0", recipe=recipe, seed=3, store=store.url, **given))
    return folder


def watched(folder: RunFolder) -> Outcome:
    """The outcome of the folder's run in a process of its own."""
    with Execution(folder, MODULE) as execution:
        assert execution.wait(120)
        return execution.outcome()


def test_the_same_run_makes_the_same_model_and_says_what_it_depends_on(tmp_path: Path, store: DatasetStore) -> None:
    one = execute(ready(tmp_path / "one", store))
    folder = ready(tmp_path / "other", store, cause="policy p-1")
    other = watched(folder)
    assert (one.state, other.state) == (State.SUCCEEDED, State.SUCCEEDED), other
    assert set(one.digests) == {"data", "code", "environment", "recipe", "model"}
    assert one.digests == other.digests
    assert one.parameters["sigma"] == "3.75"
    manifest = decode_manifest((folder.bundle / MANIFEST_FILE).read_bytes())
    assert (manifest.lineage["run"], manifest.lineage["cause"]) == ("r-0", "policy p-1")
    assert manifest.lineage["dataset"] == "coolant@1"
    assert one.metrics == {gate.name: one.metrics[gate.name] for gate in manifest.gates}
    third = execute(ready(tmp_path / "third", store, RECIPE + "[parameters]\nwindow_samples = 150\n"))
    changed = {name for name in one.digests if one.digests[name] != third.digests[name]}
    assert changed == {"recipe", "model"}


@pytest.mark.parametrize(
    ("recipe", "code", "says"),
    [
        (RECIPE + "[parameters]\nwindow_samples = 9000\n", "training.too_little", "record longer"),
        (RECIPE.replace("coolant", "nothing"), "dataset.not_found", "nothing"),
        (RECIPE.replace('dataset = "coolant"', 'recordings = ["a.npz"]'), "run.recordings", "dataset"),
        (RECIPE.replace("slow-signal", "unknown"), "recipe.unknown", "slow-signal"),
        (STRANGE + '[parameters]\ndo = "raise"\n', "run.crashed", "no such thing"),
        (STRANGE + '[parameters]\ndo = "die"\n', "run.died", "goodbye"),
    ],
)
def test_whatever_goes_wrong_is_an_outcome(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch, recipe: str, code: str, says: str
) -> None:
    site = str(install(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", site)
    monkeypatch.syspath_prepend(site)
    folder = ready(tmp_path / "run", store, recipe)
    outcome = watched(folder) if code == "run.died" else execute(folder)
    assert (outcome.state, outcome.error_code) == (State.FAILED, code), outcome
    assert says in str(outcome.error_detail)
    assert not folder.bundle.exists()
    assert folder.outcome() == outcome
    if code == "run.crashed":
        assert (set(outcome.plots), dict(outcome.metrics)) == ({"loss"}, {"Präzision@10": 0.25})
        assert outcome.error_detail == "ValueError: no such thing: ? ?"


# --- a trainer beside a service ---------------------------------------------------------------------------------------


class Bench:
    """Trainers as processes, beside a real admin API."""

    def __init__(self, server: AdminServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.client = FleetClient(server.url, server.token)
        self.processes: list[subprocess.Popen[str]] = []
        self.site = install(folder / "site")
        coolant(DatasetStore(server.data_dir / "datasets"))
        self.token = server.token_of("trainer", name="bench")

    def trainer(self, *options: str) -> subprocess.Popen[str]:
        environment = dict(os.environ, WHEELTAPPER_URL=self.server.url, WHEELTAPPER_API_TOKEN=self.token)
        environment["PYTHONPATH"] = str(self.site)
        folder = ("--folder", str(self.folder / "runs"))
        process = subprocess.Popen(
            python_command("-m", "wheeltapper_fleet", "trainer", "--every", "0.1", *folder, *options),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def until(self, run: str, state: str) -> dict[str, Any]:
        """The run, once it is in a state."""
        return self.wait(lambda: self.client.run(run), lambda found: found["state"] == state)

    def wait(self, ask: Callable[[], dict[str, Any]], enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 100
        while not enough(found := ask()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.client.close()


@pytest.fixture
def bench(server: AdminServer, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(server, tmp_path / "bench")
    try:
        yield made
    finally:
        made.close()


def running_children(bench: Bench) -> list[int]:
    """Processes that train for this bench."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if b"runs.child" in line and str(bench.folder).encode() in line:
            found.append(int(entry.parent.name))
    return found


def test_a_trainer_executes_a_queued_run_and_brings_a_bundle_that_a_device_takes(bench: Bench) -> None:
    run = bench.client.queue_run(RECIPE, seed=5)
    assert (run["state"], run["dataset"], run["seed"]) == ("QUEUED", "coolant@1", 5)
    out, err = bench.trainer("--once", "--json").communicate(timeout=120)
    assert json.loads(out) == {"state": "SUCCEEDED"}, err
    found = bench.client.run(run["id"])
    assert (found["state"], found["model"], found["cause_kind"]) == ("SUCCEEDED", MODEL, "person")
    assert found["metrics"]
    assert [gate["passed"] for gate in found["gates"]] == [True] * len(found["gates"])
    bench.client.fetch_run_bundle(run["id"], bench.folder / "fetched")
    loaded = load_bundle(bench.folder / "fetched")
    self_test(loaded)
    assert (loaded.manifest.lineage["run"], loaded.manifest.lineage["seed"]) == (run["id"], "5")
    assert loaded.manifest.file(loaded.manifest.model_file).sha256 == found["digests"]["model"]
    assert bench.client.releases() == []  # nothing is published by it
    assert not (bench.folder / "runs" / run["id"]).exists()
    routes = [each["route"] for each in bench.client.audit()]
    assert any("finish" in route for route in routes)
    assert not any("run-claims" in route for route in routes)
    with pytest.raises(FleetError) as caught:
        bench.client.fetch_run_bundle(run["id"], bench.folder / "fetched")
    assert caught.value.code == "run.out_exists"


def test_a_cancelled_run_is_killed_and_a_trainer_that_stops_gives_its_run_back(bench: Bench) -> None:
    first = bench.client.queue_run(STRANGE)["id"]
    second = bench.client.queue_run(STRANGE)["id"]
    process = bench.trainer()
    bench.wait(lambda: bench.client.run(first), lambda found: found["progress_text"] == "strange work")
    assert len(running_children(bench)) == 1
    bench.client.cancel_run(first)
    bench.until(second, "RUNNING")
    assert bench.client.run(first)["state"] == "CANCELLED"
    bench.wait(lambda: bench.client.run(second), lambda found: found["progress_text"] == "strange work")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    found = bench.client.run(second)
    assert (found["state"], found["attempt"]) == ("QUEUED", 1)
    assert running_children(bench) == []


def test_a_run_that_fails_says_why_and_ends_no_trainer(bench: Bench) -> None:
    failed = bench.client.queue_run(RECIPE + "[parameters]\nwindow_samples = 9000\n")["id"]
    assert bench.trainer("--once").wait(120) == 1
    found = bench.client.run(failed)
    assert (found["state"], found["error_code"]) == ("FAILED", "training.too_little")
    assert found["ended_by"] == found["trainer"]
    assert (bench.folder / "runs" / failed / "log.txt").exists()


@pytest.mark.parametrize("gates", [(), (FAILED_GATE,), (replace(FAILED_GATE, passed=True, value=float("nan")),)])
def test_what_a_recipe_wrote_is_read_again(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch, gates: tuple[Gate, ...]
) -> None:
    """A recipe of others says that it is done, and left a bundle that no device and no service would take."""
    monkeypatch.setattr(child, "train_recipe", lambda *given: write_bundle(given[3].out, "coolant", 1, gates))
    folder = ready(tmp_path / "run", store)
    outcome = execute(folder)
    assert outcome.state is State.FAILED, outcome
    assert outcome.error_code in ("training.gate_failed", "manifest.malformed"), outcome
    assert not folder.bundle.exists()


def test_a_trainer_that_cannot_write_gives_its_run_back_and_ends(bench: Bench) -> None:
    run = bench.client.queue_run(RECIPE)["id"]
    (bench.folder / "runs").mkdir()
    (bench.folder / "runs" / run).write_text("no folder can be made here")
    process = bench.trainer()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "[run.io]" in err) == (1, True), err
    assert bench.client.run(run)["state"] == "QUEUED"


def test_who_may_do_what(server: AdminServer) -> None:
    coolant(DatasetStore(server.data_dir / "datasets"))
    tokens = {role: server.token_of(role) for role in ("viewer", "operator", "release-manager", "trainer")}
    with FleetClient(server.url, tokens["release-manager"]) as client:
        run = client.queue_run(RECIPE)["id"]
        with pytest.raises(FleetError) as caught:
            client.claim_run("me")
        assert caught.value.code == "api.forbidden"
    for role in ("viewer", "operator", "trainer"):
        with FleetClient(server.url, tokens[role]) as client:
            assert client.run(run)["id"] == run
            with pytest.raises(FleetError) as caught:
                client.queue_run(RECIPE)
            assert caught.value.code == "api.forbidden"
            with pytest.raises(FleetError) as caught:
                client.cancel_run(run)
            assert caught.value.code == "api.forbidden"
    with FleetClient(server.url, tokens["trainer"]) as client:
        claim = client.claim_run("me", ["anomaly"])
        assert claim["run"] is None
        claim = client.claim_run("me", ["slow-signal"])
        assert (claim["run"]["id"], claim["datasets_url"]) == (run, str(server.data_dir / "datasets"))
        with pytest.raises(FleetError) as caught:
            client.put_run_file(run, 2, "0" * 64, b"x")
        assert caught.value.code == "run.lost"
        with pytest.raises(FleetError) as caught:
            client.put_run_file(run, 1, "0" * 64, b"x")
        assert caught.value.code == "blob.hash"
        said = {"state": "FAILED", "error_code": "training.gate_failed", "metrics": {"Präzision@10": 0.25}}
        assert client.finish_run(run, 1, said)["metrics"] == {"Präzision@10": 0.25}


def test_a_queued_run_is_held_against_the_release_that_the_alias_names(bench: Bench) -> None:
    held_out(DatasetStore(bench.server.data_dir / "datasets"))
    text = RECIPE.replace("coolant", "halls") + "[parameters]\nsigma = 8.0\n[gates]\nworse = 0.1\n"
    with pytest.raises(FleetError) as caught:
        bench.client.queue_run(text, against="champion")
    assert caught.value.code == "alias.not_found"
    with pytest.raises(FleetError) as caught:
        bench.client.queue_run(text, against="1")
    assert caught.value.code == "release.not_found"
    first = bench.client.queue_run(text)["id"]
    assert bench.trainer("--once").wait(120) == 0
    bench.client.fetch_run_bundle(first, bench.folder / "first")
    bench.client.publish_bundle(bench.folder / "first", bench.server.keys_dir / f"team-{MODEL}.pem")
    bench.client.set_alias(MODEL, "champion", 1)
    bench.client.fetch_release_bundle(MODEL, 1, bench.folder / "release")
    assert (bench.folder / "release" / "model.onnx").read_bytes() == (bench.folder / "first/model.onnx").read_bytes()
    second = bench.client.queue_run(text, against="champion")
    assert second["against"] == 1
    assert bench.trainer("--once").wait(120) == 0
    found = bench.client.run(second["id"])
    assert found["state"] == "SUCCEEDED", found
    gates = {gate["name"]: gate for gate in found["gates"]}
    assert (gates["against_champion"]["passed"], gates["against_champion"]["limit"]) == (True, -0.1)
    bench.client.fetch_run_bundle(second["id"], bench.folder / "second")
    lineage = decode_manifest((bench.folder / "second" / MANIFEST_FILE).read_bytes()).lineage
    assert lineage["champion"] == f"{MODEL} 1, trained on halls@1"
    with pytest.raises(FleetError) as caught:
        bench.client.fetch_release_bundle(MODEL, 1, bench.folder / "release")
    assert caught.value.code == "release.out_exists"
    bench.server.blobs.path(bench.client.run(first)["digests"]["model"]).unlink()
    bench.client.queue_run(text, against="1")
    assert bench.trainer("--once").wait(120) == 1
    assert bench.client.runs(1)[0]["error_code"] == "blob.not_found"


def test_a_run_says_how_much_of_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[float | None, str]] = []
    write = RunFolder.write_progress

    def kept(self: RunFolder, progress: Progress) -> None:
        said.append((progress.done, progress.text))
        write(self, progress)

    monkeypatch.setattr(RunFolder, "write_progress", kept)
    store = DatasetStore(tmp_path / "store")
    coming = [Incoming(read=partial(vibration, seed, 40), machine=f"m{seed}", source=f"{seed}") for seed in range(3)]
    import_version(store, "rig", coming)
    text = 'recipe = "anomaly"\nmodel = "rig"\n[data]\ndataset = "rig"\n[parameters]\nhealthy_fraction = 1.0\n'
    folder = ready(tmp_path / "run", store, text)
    outcome = execute(folder)
    assert outcome.state is State.SUCCEEDED, outcome
    known = [done for done, _ in said if done is not None]
    assert known == sorted(known)
    assert len(set(known)) >= 4
    assert "features of 2 of 3 recordings" in [words for _, words in said]
    report = Report(folder)
    for share in (0.5, 0.25, 7.0, float("nan")):
        report.progress("x", share)
    assert folder.progress() == Progress(done=0.5, text="x")
