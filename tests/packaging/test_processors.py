"""The agent on other processors: installed from its package, self-test and update of a release that was made here.

Emulation (qemu) computes what the processor would compute, bit by bit; only the time it takes says nothing. What
differs is written to ``build/processors.json``, and docs/agent/processors.md explains it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent.bundles import make_bundle, write_bundle
from tests.agent.end_to_end.test_agent import DEVICE, World
from tests.agent.servers import until
from tests.agent.tflite_writer import gain_net
from tests.packaging import probe
from tests.packaging.conftest import SOURCE
from tests.packaging.roots import REPOSITORY, DebianRoot, checked, debian_root
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    Budget,
    BundleFile,
    Golden,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.wire.messages import ExecutionReport, Report
from wheeltapper_protocols.wire.topics import Down

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
CONFIG = "/etc/wheeltapper/agent.toml"
STATE = "/var/lib/wheeltapper"
STEPS_AT_MOST = {"hello_world_int8.tflite": 1, "ad01_int8.tflite": 4, "kws_ref_model.tflite": 24}
"""How far int8 networks were seen to come apart, in steps of their output, with some room; more layers, more steps."""
FLOAT_RTOL = 1e-4
NETWORKS = (*STEPS_AT_MOST, "ad01_fp32.tflite", "mnist.onnx")


@dataclass(frozen=True)
class Board:
    """A processor: its profile, what its bare system must hold, whether ONNX networks run there."""

    arch: str
    profile: str
    packages: tuple[str, ...]
    onnx: bool


BOARDS = {
    "arm64": Board("arm64", "raspberry-pi-4", ("python3",), True),
    "armhf": Board(
        "armhf", "raspberry-pi-3", ("python3", "python3-numpy", "python3-zstandard", "python3-cffi-backend"), False
    ),
}


@pytest.fixture(scope="module", params=sorted(BOARDS))
def board(request: pytest.FixtureRequest) -> Board:
    return BOARDS[request.param]


@pytest.fixture(scope="module")
def root(
    board: Board, tmp_path_factory: pytest.TempPathFactory, package: Callable[[str], Path]
) -> Iterator[DebianRoot]:
    """A bare system of the processor with the package installed, without network."""
    deb = package(board.arch)
    with debian_root(board.arch, tmp_path_factory.mktemp(board.arch) / "root", board.packages) as made:
        made.environment["WHEELTAPPER_PROFILE"] = board.profile
        shutil.copyfile(deb, made.path / "tmp/agent.deb")
        made.run("dpkg", "--install", "/tmp/agent.deb", offline=True)
        yield made


def _note(board: Board, **figures: Any) -> None:
    """Keep figures for the documentation."""
    path = REPOSITORY / "build" / "processors.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(board.arch, {}).update(figures)
    path.write_text(json.dumps(known, indent=1, sort_keys=True))


def test_the_agent_installs_and_finds_itself_well(board: Board, root: DebianRoot) -> None:
    said = root.run("wheeltapper-agent", "doctor", "--config", CONFIG, "--json", code=3)
    checks = {check["check"]: check for check in json.loads(said)["checks"]}
    machine = {"arm64": "aarch64", "armhf": "armv7l"}[board.arch]
    assert checks["profile.arch"]["found"] == f"{board.profile} on {machine}"
    assert [name for name, check in checks.items() if check["verdict"] == "FAIL"] == ["certificate"]
    assert ("runtime.onnx" in checks) == board.onnx
    assert "XNNPACK" in checks["runtime.tflite"]["found"]


def _inputs(folder: Path, release: Path, data: Path) -> None:
    """What both processors are given: the release, networks, seeded inputs."""
    shutil.copytree(release, folder / "bundle")
    random = np.random.default_rng(1)
    for name in NETWORKS:
        shutil.copyfile(data / "models" / name, folder / name)
        if name == "mnist.onnx":
            rows: NDArray[Any] = random.uniform(0, 1, (64, 1, 28, 28)).astype(np.float32)
        else:
            from ai_edge_litert.interpreter import Interpreter

            detail = Interpreter(model_path=str(folder / name)).get_input_details()[0]
            shape = (64, *detail["shape"][1:])
            whole = detail["dtype"] is not np.float32
            rows = random.integers(-128, 128, shape, np.int8) if whole else random.normal(size=shape).astype(np.float32)
        np.savez((folder / name).with_suffix(".npz"), input=rows)


@pytest.mark.data
def test_how_much_the_processors_differ(
    board: Board, root: DebianRoot, release: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features within the manifest's tolerance, int8 networks within some steps of their output, float ones in 1e-4."""
    folder = tmp_path / "given"
    folder.mkdir()
    _inputs(folder, release, data_dir)
    monkeypatch.setattr(sys, "argv", ["probe", str(folder), str(tmp_path / "here.npz")])
    probe.main()
    shutil.copytree(folder, root.path / "tmp/given", dirs_exist_ok=True)
    shutil.copyfile(probe.__file__, root.path / "tmp/probe.py")
    root.run("/usr/lib/wheeltapper-agent/bin/python", "/tmp/probe.py", "/tmp/given", "/tmp/there.npz", offline=True)
    here, there = np.load(tmp_path / "here.npz"), np.load(root.path / "tmp/there.npz")
    assert set(there.files) == {name for name in here.files if board.onnx or not name.endswith(".onnx")}
    tolerance = decode_manifest((release / MANIFEST_FILE).read_bytes()).golden
    too_far = []
    for name in sorted(there.files):
        one, other = here[name].astype(np.float64), there[name].astype(np.float64)
        apart = np.abs(one - other)
        _note(board, **{name: {"largest": float(apart.max()), "differing_share": float((apart > 0).mean())}})
        if here[name].dtype.kind == "i":
            allowed: Any = STEPS_AT_MOST[name]
        else:
            rtol = tolerance.feature_rtol if name in ("features", "model_input") else FLOAT_RTOL
            allowed = rtol * (1 + np.abs(one))
        if not np.all(apart <= allowed):
            too_far.append((name, float(apart.max())))
    assert too_far == []


def _tflite_release(folder: Path) -> Path:
    """Release 1 for boards without ONNX Runtime: an int8 layer; its golden outputs are those of LiteRT here."""
    specs = default_specs(SOURCE.sample_rate_hz, ["horizontal", "vertical"])
    width = len(FeatureSet(specs, SOURCE.sample_rate_hz, SOURCE.window_samples, 2).names)
    limit = 8.0
    changes: dict[str, Any] = {
        "runtime": "tflite",
        "content": gain_net(width, 0.5, "int8", limit=limit),
        # One step of the output, and what that is in the score: with so coarse a layer up to a tenth of it.
        "golden": Golden(output_atol=1.01 * limit / 127, score_rtol=0.1),
        "budget": Budget(latency_p95_ms=60_000.0, rss_growth_mb=2_000.0),
    }
    write_bundle(folder, make_bundle(1, SOURCE, **changes))
    samples = np.load(folder / GOLDEN_FILE, allow_pickle=False)["samples"]
    found = load_bundle(folder).evaluate(samples)
    np.savez(
        folder / GOLDEN_FILE,
        samples=samples,
        model_input=found.model_input,
        model_output=found.model_output,
        score=found.scores.score,
    )
    golden = (folder / GOLDEN_FILE).read_bytes()
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    entry = BundleFile(name=GOLDEN_FILE, sha256=hashlib.sha256(golden).hexdigest(), length=len(golden))
    files = [*(file for file in manifest.files if file.name != GOLDEN_FILE), entry]
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files)))
    return folder


@pytest.fixture
def suitable(board: Board, release: Path, tmp_path: Path) -> Path:
    """A release that was made here and that the board can run."""
    return release if board.onnx else _tflite_release(tmp_path / "bundle")


def test_a_release_made_here_gives_the_same_scores_there(
    board: Board, root: DebianRoot, suitable: Path, recording: Path
) -> None:
    shutil.copytree(suitable, root.path / "tmp/bundle", dirs_exist_ok=True)
    shutil.copyfile(recording, root.path / "tmp/recording.npz")
    root.run("chmod", "-R", "a+rX", "/tmp/bundle", "/tmp/recording.npz")
    line = ("wheeltapper-agent", "replay", "--bundle", "/tmp/bundle", "--recording", "/tmp/recording.npz", "--json")
    rows = [json.loads(row) for row in root.run(*line, user="wheeltapper", offline=True).splitlines()]
    expected = list(score_recording(suitable, recording))
    tolerance = decode_manifest((suitable / MANIFEST_FILE).read_bytes()).golden.score_rtol
    one, other = (np.array([row["score"] for row in found]) for found in (expected, rows))
    apart = np.abs(one - other) / one
    _note(board, replay_score={"largest_relative": float(apart.max()), "differing_share": float((apart > 0).mean())})
    assert apart.max() <= tolerance
    assert [row["severity"] for row in rows] == [row["severity"] for row in expected]


class Emulated(World):
    """The agent in the root, as the service's user; broker, device API and fleet on this side of the loopback."""

    def __init__(self, folder: Path, root: DebianRoot, board: Board) -> None:
        super().__init__(folder)
        self.root = root
        self.config = root.path / CONFIG.lstrip("/")
        self.config.write_text(
            f'[device]\nstate_dir = "{STATE}"\nprofile = "{board.profile}"\n[delivery]\nreconnect_max_seconds = 2.0\n'
            f"[update]\nhttp_timeout_seconds = 120.0\nmetadata_retry_seconds = 1.0\nprobation_timeout_seconds = 600.0\n"
            f'[[pipelines]]\nname = "main"\n[pipelines.source]\nkind = "simulator"\n'
            f"window_samples = {SOURCE.window_samples}\ninterval_seconds = 1.0\ntime_scale = 2.0\n"
        )

    def enrol(self) -> None:
        token = f"wt1.{DEVICE}.{'s' * 43}.{self.authority.sha256}"
        self.root.environment["WHEELTAPPER_TOKEN"] = token
        self.root.run(
            "wheeltapper-agent", "enroll", "--server", self.server.url, "--config", CONFIG, user="wheeltapper"
        )
        del self.root.environment["WHEELTAPPER_TOKEN"]

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            line = self.root.line("wheeltapper-agent", "run", "--config", CONFIG, user="wheeltapper:wheeltapper")
            self.agent = subprocess.Popen(line, stderr=log, stdout=log)

    def reports(self, execution: str) -> list[ExecutionReport]:
        with self.fleet.lock:
            bodies = [item.body for _, item in sorted(self.fleet.records.items()) if isinstance(item, Report)]
        return [body for body in bodies if isinstance(body, ExecutionReport) and body.execution == execution]

    def ended(self, execution: str) -> bool:
        return any(report.state.terminal for report in self.reports(execution))


@pytest.fixture
def world(tmp_path: Path, root: DebianRoot, board: Board) -> Iterator[Emulated]:
    made = Emulated(tmp_path, root, board)
    yield made
    made.close()
    for left in (root.path / STATE.lstrip("/")).iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _files(release: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.iterdir()}


def test_it_takes_an_update(board: Board, world: Emulated, suitable: Path) -> None:
    """Enrol, run, take the release over TUF and HTTPS, pass its golden vectors, commit; after a restart it runs it."""
    world.enrol()
    world.start()
    until(lambda: len(world.fleet.windows()) > 2, 300, "unscored windows")
    world.fleet.down(Down.ASSIGNMENT, world.repository.assign(world.repository.publish(1, _files(suitable)), 1))
    until(lambda: world.ended("e1"), 600, "the end of the update")
    reports = world.reports("e1")
    assert reports[-1].state.value == "COMMITTED", [
        (report.state.value, report.code, report.detail) for report in reports
    ]
    metrics = {key: value for report in reports for key, value in report.metrics.items()}
    errors = {key: value for key, value in metrics.items() if key.endswith("_error")}
    assert set(errors) == {"features_error", "output_error", "score_error"}
    _note(board, self_test=errors)
    said = json.loads(world.root.run("wheeltapper-agent", "status", "--config", CONFIG, "--json", user="wheeltapper"))
    assert said["running"] is True
    assert said["pipelines"]["main"]["release"] == 1
    assert said["troubles"] == []
    assert world.stop(signal.SIGTERM) == 0
    before = len(world.fleet.windows())
    world.start()
    until(lambda: len(world.fleet.windows()) > before + 2, 300, "windows after the restart")
    assert world.fleet.windows()[-1].release == 1


def test_a_release_for_another_runtime_is_refused_and_the_agent_goes_on(
    board: Board, world: Emulated, release: Path
) -> None:
    if board.onnx:
        pytest.skip("this processor has ONNX Runtime")
    world.enrol()
    world.start()
    until(lambda: len(world.fleet.windows()) > 2, 300, "unscored windows")
    world.fleet.down(Down.ASSIGNMENT, world.repository.assign(world.repository.publish(1, _files(release)), 1))
    until(lambda: world.ended("e1"), 600, "the end of the update")
    assert world.reports("e1")[-1].state.value in ("REJECTED", "FAILED")
    assert world.reports("e1")[-1].code.startswith("runtime.")
    before = len(world.fleet.windows())
    until(lambda: len(world.fleet.windows()) > before + 2, 300, "further windows")
    assert world.stop(signal.SIGTERM) == 0
    checked("grep", "-c", "agent: ending", str(world.folder / "agent.log"))
