"""The power-cut sweep: cut an update at a call, start the agent again, and look whether the promises held.

A :class:`Ground` has the server, a device that runs release 1, and warm processes; :meth:`Ground.cut` runs one point
and returns what was broken. The points of a scenario come from a reference run (:meth:`Ground.points`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.agent.bundles import make_bundle
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer
from tests.sim.disk import lose_power
from wheeltapper_protocols.manifest import MANIFEST_FILE, check_file, decode_manifest
from wheeltapper_protocols.messages import ExecutionState

__all__ = ["Cut", "Ground", "Point", "Scenario"]

ROOT = Path(__file__).resolve().parents[2]
_VALID_SECONDS = 86_400.0
"""So long may a whole sweep take."""
_TRIALS = {
    "probation_windows": 3,
    "shadow_timeout_seconds": 10.0,
    "shadow_max_load": 1e6,
    "probation_timeout_seconds": 20.0,
    "probation_max_deaths": 3,
    "probation_latency_ratio": 0.0,
}


@dataclass(frozen=True)
class Scenario:
    """An execution that is cut, and how it must end whatever is cut."""

    name: str
    execution: str
    envelope: bytes
    end: str
    release: int
    """What runs at the end."""
    update: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A call of the reference run."""

    number: int
    state: str
    call: str
    role: str

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.state, self.call, self.role


@dataclass(frozen=True)
class Cut:
    """What to do at a point. ``power``: what was not fsynced is lost too, or only ``half`` of a file."""

    number: int = 0
    before: bool = False
    power: bool = False
    half: bool = False
    sqlite: int = 0
    plant: str = ""


@dataclass
class Result:
    """What came of a cut: where it really was, and each promise that did not hold."""

    cut: Cut
    hit: tuple[str, str, str] | None
    broken: list[str]


class _Zygote:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**_environment(), "OPENBLAS_NUM_THREADS": "1"},
        )

    def run(self, job: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["code"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}


class Ground:
    """Everything that the points share."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._folder = folder
        self.child_test = False
        """Whether self-tests run in a child process, as on a device; it takes longer."""
        self.server = DeviceServer(Authority(folder / "ca"), Repository())
        self._identity = folder / "identity"
        self.server.identity(self._identity)
        for name in ("device-1.key", "device-1.crt", "ca.pem"):
            shutil.copy(folder / "ca" / name, self._identity / name)
        publish = self.server.repository.publish
        assign = partial(self.server.repository.assign, expires_at=time.time() + _VALID_SECONDS)
        first = assign(publish(1, make_bundle(1)), 1)
        good = publish(2, make_bundle(2, gain=0.55, rollback_floor=2))
        bad = publish(3, make_bundle(3, gain=-9.0))
        self.update = Scenario("update", "e2", assign(good, 2), "COMMITTED", 2, {"shadow_windows": 2})
        self.rollback = Scenario("rollback", "e2", assign(bad, 2), "ROLLED_BACK", 1, {"shadow_windows": 30})
        self._zygotes: SimpleQueue[_Zygote] = SimpleQueue()
        self._all = [_Zygote() for _ in range(workers)]
        for zygote in self._all:
            self._zygotes.put(zygote)
        self._pool = ThreadPoolExecutor(workers)
        self._numbers = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._template = folder / "template"
        self._template.mkdir()
        code = self._run(self._template, Scenario("first", "e1", first, "COMMITTED", 1))
        assert code == 0, (self._template / "log").read_text()
        for name in ("calls", "sqlite-calls", "backups", "log", "result.json"):
            path = self._template / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
        for zygote in self._all:
            zygote.close()
        self.server.close()

    def _run(self, folder: Path, scenario: Scenario, cut: Cut | None = None) -> int:
        job: dict[str, Any] = {
            "folder": str(folder),
            "url": self.server.url,
            "identity": str(self._identity),
            "envelope": base64.b64encode(scenario.envelope).decode(),
            "execution": scenario.execution,
            "child_test": self.child_test,
            "update": _TRIALS | scenario.update,
        }
        if cut is not None:
            job |= {"kill_at": cut.number, "before": cut.before, "kill_sqlite_at": cut.sqlite, "plant": cut.plant}
        zygote = self._zygotes.get()
        try:
            return zygote.run(job)
        finally:
            self._zygotes.put(zygote)

    def _copy(self) -> Path:
        with self._lock:
            folder = self._folder / f"run-{next(self._numbers)}"
        shutil.copytree(self._template, folder, symlinks=True)
        return folder

    def points(self, scenario: Scenario, plant: str = "") -> tuple[list[Point], int]:
        """The calls of an undisturbed run, and the number of SQLite's writes."""
        folder = self._copy()
        code = self._run(folder, scenario, Cut(plant=plant))
        assert code == 0, (folder / "log").read_text()
        broken = check(folder, scenario)
        assert not broken, broken
        return _points(folder), len((folder / "sqlite-calls").read_bytes())

    def cut_all(self, scenario: Scenario, cuts: Sequence[Cut]) -> list[Result]:
        """Every cut, some at a time."""
        return list(self._pool.map(lambda cut: self.cut(scenario, cut), cuts))

    def cut(self, scenario: Scenario, *cuts: Cut) -> Result:
        """A life for each cut, one that is not cut, and what must hold then."""
        folder = self._copy()
        hit: tuple[str, str, str] | None = None
        broken: list[str] = []
        for cut in cuts:
            code = self._run(folder, scenario, cut)
            if code != -9:
                break
            hit = _hit(folder, cut)
            if cut.power:
                lose_power(folder / "state", folder / "calls", cut.half)
            broken += _check_slot(folder, anything=True)
            (folder / "calls").unlink()
            shutil.rmtree(folder / "backups")
        else:
            code = self._run(folder, scenario, Cut(plant=cuts[-1].plant))
        if code != 0:
            broken.append(f"the agent ended with {code}: {(folder / 'log').read_text()[-1500:]}")
        else:
            broken += check(folder, scenario)
        if not broken:
            shutil.rmtree(folder)
        return Result(cuts[0], hit, broken)


def _hit(folder: Path, cut: Cut) -> tuple[str, str, str]:
    points = _points(folder)
    state, call, role = points[-1].kind if points else ("START", "", "")
    return (state, "pwrite", "spool.db") if cut.sqlite else (state, call, role)


def _points(folder: Path) -> list[Point]:
    entries = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    found = [entry["point"] for entry in entries if "point" in entry]
    return [Point(point["n"], point["state"], point["call"], point["role"]) for point in found]


def _check_slot(folder: Path, anything: bool = False) -> list[str]:
    """Promises 1 and 2 on the disk: what is active is there, whole, and what its manifest says."""
    active = folder / "state/slots/pipelines/main/active"
    if not active.is_symlink():
        return ["no release is active"]
    slot = active.resolve()
    try:
        raw = (slot / MANIFEST_FILE).read_bytes()
        manifest = decode_manifest(raw)
        if not hashlib.sha256(raw).hexdigest().startswith(slot.name.rpartition("-")[2]):
            return [f"the manifest of {slot.name} is another one"]
        for file in manifest.files:
            check_file(file, (slot / file.name).read_bytes())
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it
        return [f"the active release is damaged: {error}"]
    return [] if anything or manifest.release in (1, 2) else [f"release {manifest.release} is active"]


def check(folder: Path, scenario: Scenario) -> list[str]:
    """The promises 1, 2, 3 and 6 after the life that was not cut."""
    result = json.loads((folder / "result.json").read_text())
    broken = _check_slot(folder)
    if result["release"] != scenario.release or not str(result["active"]).startswith(f"bearing-{scenario.release}-"):
        broken.append(f"{result} runs, not release {scenario.release}")
    floor = 2 if scenario.end == "COMMITTED" and scenario.release == 2 else None
    if result["floors"].get("bearing") != floor:
        broken.append(f"the floors are {result['floors']}")
    lines = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
    return broken + _check_ledger(lines, scenario)


def _check_ledger(lines: list[dict[str, Any]], scenario: Scenario) -> list[str]:
    """What reached the fleet: each seq once after deduplication, in order; windows without a gap; one end."""
    broken: list[str] = []
    records: dict[int, dict[str, Any]] = {}
    for line in lines:
        if records.setdefault(line["seq"], line) != line:
            broken.append(f"seq {line['seq']} names two records")
    if len({line["epoch"] for line in lines}) != 1:
        broken.append("there is more than one epoch")
    if sorted(records) != list(range(1, len(records) + 1)):
        broken.append("a seq is missing")
    ordered = [records[seq] for seq in sorted(records)]
    windows = [line["window"] for line in ordered if line["kind"] == "TelemetryRecord"]
    if windows != list(range(len(windows))):
        broken.append("a window is missing, twice or out of order")
    states = [line["state"] for line in ordered if line.get("execution") == scenario.execution]
    ends = {state for state in states if ExecutionState(state).terminal}
    if ends != {scenario.end} or states[-1] != scenario.end:
        broken.append(f"the execution went {states}, it should end {scenario.end}")
    newest = ordered[-1] if ordered[-1]["kind"] == "TelemetryRecord" else None
    if newest is not None and (newest["release"] != scenario.release or newest["score"] is None):
        broken.append(f"the newest window was scored by {newest['release']}")
    if any(line.get("release") not in (None, 1, 2, 3) for line in ordered):
        broken.append("an unknown release scored")
    return broken
