"""The power-cut sweep: cut an update at a call, start the agent again, and look whether the promises held.

A :class:`SweepRig` has the server, a device that runs release 1, and warm processes; :meth:`SweepRig.cut` runs one
point and returns what was broken. The points of a scenario come from a reference run (:meth:`SweepRig.points`).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from tests.agent.bundles import MODEL_FILE, make_bundle
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer
from tests.sim.disk import lose_power
from wheeltapper_agent.pipeline.pipeline import MAX_BATCH
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, check_file, decode_manifest
from wheeltapper_protocols.wire.assignment import ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Cut", "Point", "Scenario", "SweepRig"]

ROOT = Path(__file__).resolve().parents[2]
_VALID_SECONDS = 86_400.0
"""How long a whole sweep may take."""
_TRIALS = {
    "probation_windows": 3,
    "shadow_timeout_seconds": 10.0,
    "shadow_max_load": 1e6,
    "probation_timeout_seconds": 20.0,
    "probation_max_deaths": 3,
    "probation_latency_ratio": 0.0,
}
_ON_TRIAL = {"shadow_windows": 2, "probation_windows": 10**6, "probation_timeout_seconds": 600.0}
_TWO = (("e2", "nowhere"), ("e3", "main"))
"""Two executions of one assignment, for a pipeline that there is not and for the one that there is."""
_FOREVER = {"shadow_windows": 10**6, "shadow_timeout_seconds": 30.0}


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
    then: bytes = b""
    """What comes once it is in ``then_in``: another envelope, or ``cancel``."""
    then_in: str = "SHADOW"
    floor: int | None = None
    """Of the model, at the end."""
    more: dict[str, str] = field(default_factory=dict)
    """How the executions end that come after it."""

    @property
    def ends(self) -> dict[str, str]:
        """How each execution ends."""
        return {self.execution: self.end} | self.more

    @property
    def counter(self) -> int:
        """Of the newest assignment."""
        return 2 + (self.then not in (b"", b"cancel")) - (self.name == "first")


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
    """What to do at a point. ``power``: what was not fsynced is lost too, or only ``half`` of a file; or, with
    ``names``, contents only."""

    number: int = 0
    before: bool = False
    power: bool = False
    half: bool = False
    names: bool = False
    sqlite: int = 0
    fault: str = ""


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
    return {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}


class SweepRig:
    """The server, the device to copy and the warm processes that all points share."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._folder = folder
        self.child_test = False
        """Whether self-tests run in a child process, as on a device; it takes longer."""
        self.attack_every = 4
        """Of so many cuts, one is followed by a life in which the device is attacked; it takes longer, too."""
        self.server = DeviceServer(Authority(folder / "ca"), Repository())
        self._identity = folder / "identity"
        self.server.identity(self._identity)
        for name in ("device-1.key", "device-1.crt", "ca.pem"):
            shutil.copy(folder / "ca" / name, self._identity / name)
        self._zygotes: SimpleQueue[_Zygote] = SimpleQueue()
        self._all = [_Zygote() for _ in range(workers)]
        for zygote in self._all:
            self._zygotes.put(zygote)
        self._pool = ThreadPoolExecutor(workers)
        self._numbers = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._template = folder / "template"
        self._template.mkdir()
        assign = partial(self.server.repository.assign, expires_at=time.time() + _VALID_SECONDS)
        old = self.server.repository.publish(1, make_bundle(1))
        first = assign(old, 1)
        code = self._run(self._template, Scenario("first", "e1", first, "COMMITTED", 1))
        assert code == 0, (self._template / "log").read_text()
        for name in ("calls", "sqlite-calls", "backups", "log", "result.json"):
            path = self._template / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.outdated_server = DeviceServer(self.server.authority, copy.deepcopy(self.server.repository))
        """Serves the metadata of before the scenarios."""
        self._make_scenarios(old, assign)
        self._attacks["assignment.counter"] = first

    def _make_scenarios(self, old: PipelineTarget, assign: Callable[..., bytes]) -> None:
        publish = self.server.repository.publish
        good = publish(2, make_bundle(2, gain=0.55, rollback_floor=2))
        bad = publish(3, make_bundle(3, gain=-9.0))
        wrong = publish(4, make_bundle(4, golden_error=5.0))
        files = make_bundle(5, gain=0.9)
        gone = publish(5, files)
        del self.server.repository.blobs[hashlib.sha256(files[MODEL_FILE]).hexdigest()]
        self.update = Scenario("update", "e2", assign(good, 2), "COMMITTED", 2, {"shadow_windows": 2}, floor=2)
        self.rollback = Scenario("rollback", "e2", assign(bad, 2), "ROLLED_BACK", 1, {"shadow_windows": 30})
        self.rejected = Scenario("rejected", "e2", assign(wrong, 2), "REJECTED", 1)
        self.failed = Scenario("failed", "e2", assign(gone, 2), "FAILED", 1)
        again = {"e3": "COMMITTED"}
        self.superseded = Scenario(
            "superseded", "e2", assign(good, 2), "SUPERSEDED", 1, _FOREVER, assign(old, 3), more=again
        )
        nothing = assign(good, 3, executions=[])
        self.withdrawn = Scenario("withdrawn", "e2", assign(good, 2), "CANCELLED", 1, _FOREVER, nothing)
        self.called_off = Scenario(
            "called_off", "e2", assign(good, 2), "ROLLED_BACK", 1, _ON_TRIAL, nothing, then_in="PROBATION"
        )
        two = [ExecutionOrder(execution=one, campaign="c1", pipelines=[name]) for one, name in _TWO]
        queue = assign(good, 2, pipelines={name: good for _, name in _TWO}, executions=two)
        self.queue = Scenario(
            "queue", "e2", queue, "REJECTED", 2, {"shadow_windows": 2}, floor=2, more={"e3": "COMMITTED"}
        )
        self.cancelled = Scenario("cancelled", "e2", assign(good, 2), "CANCELLED", 1, _FOREVER, b"cancel")
        other = msgspec.structs.replace(bad, sha256=old.sha256, length=old.length)
        self._attacks = {
            "trust.version": assign(bad, 32),
            "assignment.counter": b"",
            "assignment.signature": assign(good, 33, key=Repository().signers["director"]),
            "update.below_floor": assign(old, 30),
            "update.disagree": assign(other, 31),
        }
        """By the code that each must be refused with; the first comes with the outdated server's metadata."""

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
        for zygote in self._all:
            zygote.close()
        self.server.close()
        self.outdated_server.close()

    def _run(self, folder: Path, scenario: Scenario, cut: Cut | None = None, **more: Any) -> int:
        job: dict[str, Any] = {
            "folder": str(folder),
            "url": self.server.url,
            "identity": str(self._identity),
            "envelope": base64.b64encode(scenario.envelope).decode(),
            "execution": scenario.execution,
            "last": list(scenario.ends)[-1],
            "then": base64.b64encode(scenario.then).decode() if scenario.then != b"cancel" else "cancel",
            "child_test": self.child_test,
            "then_in": scenario.then_in,
            "update": _TRIALS | scenario.update,
        } | more
        if cut is not None:
            job |= {"kill_at": cut.number, "before": cut.before, "kill_sqlite_at": cut.sqlite, "fault": cut.fault}
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

    def points(self, scenario: Scenario, fault: str = "") -> tuple[list[Point], int]:
        """The calls of an undisturbed run, and the number of SQLite's writes."""
        folder = self._copy()
        code = self._run(folder, scenario, Cut(fault=fault))
        assert code == 0, (folder / "log").read_text()
        points, writes = _points(folder), len((folder / "sqlite-calls").read_bytes())
        broken = self._after(folder, scenario, Cut(power=True))
        assert fault or not broken, broken
        return points, writes

    def cut_all(self, scenario: Scenario, cuts: Sequence[Cut]) -> list[Result]:
        """Every cut, some at a time."""
        return list(self._pool.map(lambda cut: self.cut(scenario, cut), cuts))

    def cut(self, scenario: Scenario, *cuts: Cut) -> Result:
        """A life for each cut, one that is not cut, and what must hold then."""
        folder = self._copy()
        hit: tuple[str, str, str] | None = None
        broken: list[str] = []
        expected: list[set[int]] = []
        for cut in cuts:
            expected.append(_expected(folder, scenario))
            code = self._run(folder, scenario, cut)
            if code != -9:
                break
            hit = _hit(folder, cut)
            broken += _lost(folder, cut)
        else:
            expected.append(_expected(folder, scenario))
            code = self._run(folder, scenario, Cut(fault=cuts[-1].fault))
        if code != 0:
            broken.append(f"the agent ended with {code}: {(folder / 'log').read_text()[-1500:]}")
        else:
            broken += self._after(folder, scenario, replace(cuts[-1], power=True), expected)
        if not broken:
            shutil.rmtree(folder)
        return Result(cuts[0], hit, broken)

    def _after(self, folder: Path, scenario: Scenario, cut: Cut, expected: Sequence[set[int]] = ()) -> list[str]:
        """What is not as it should be after the life that was not cut, and after one in which the device is attacked.

        The power goes between the two, and with every second cut the journal and the cached metadata, so that the
        floors stand alone.
        """
        broken = check(folder, scenario, expected) + _lost(folder, cut) + _check_floors(folder, scenario)
        if cut.number // 2 % self.attack_every and not cut.fault:
            return broken
        if cut.number % 2:
            (folder / "state/journal.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "state/tuf")
        attacks = {
            code: attack for code, attack in self._attacks.items() if code != "update.below_floor" or scenario.floor
        }
        last = _expected(folder, scenario)
        told = [base64.b64encode(attack).decode() for attack in attacks.values()]
        code = self._run(folder, scenario, Cut(fault=cut.fault), attacks=told, outdated_url=self.outdated_server.url)
        if code != 0:
            return [*broken, f"attacked, the agent ended with {code}: {(folder / 'log').read_text()[-1500:]}"]
        found = [code for _, code in json.loads((folder / "result.json").read_text())["answers"]]
        if found != list(attacks):
            broken.append(f"attacks were answered with {found}, not {list(attacks)}")
        return broken + check(folder, scenario, [*expected, last] if expected else ())


def _hit(folder: Path, cut: Cut) -> tuple[str, str, str]:
    points = _points(folder)
    state, call, role = points[-1].kind if points else ("START", "", "")
    return (state, "pwrite", "spool.db") if cut.sqlite else (state, call, role)


def _points(folder: Path) -> list[Point]:
    entries = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    found = [entry["point"] for entry in entries if "point" in entry]
    return [Point(point["n"], point["state"], point["call"], point["role"]) for point in found]


def _release_of(name: str) -> int:
    return int(name.rsplit("-", 2)[1])


def _expected(folder: Path, scenario: Scenario) -> set[int]:
    """Releases of which one must score the first window of the next life."""
    active = folder / "state/slots/pipelines/main/active"
    found = {_release_of(os.readlink(active).rpartition("/")[2])} if active.is_symlink() else set[int]()
    # What goes back is not loaded again.
    return found | {1} if scenario.end == "ROLLED_BACK" else found


def _lost(folder: Path, cut: Cut) -> list[str]:
    """Let the power go, if ``cut`` says so, and look at what the disk has then."""
    if cut.power:
        lose_power(folder / "state", folder / "calls", cut.half, cut.names)
    (folder / "calls").unlink()
    shutil.rmtree(folder / "backups")
    broken = _check_slot(folder, anything=True)
    for path in (folder / "state/journal.json", *_floor_files(folder)):
        broken += _damage(path)
    return broken


def _damage(path: Path) -> list[str]:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return [f"{path.name} is damaged: {error}"]
    return []


def _floor_files(folder: Path) -> tuple[Path, Path]:
    return folder / "state/marks.json", folder / "state/slots/marks.json"


def _check_floors(folder: Path, scenario: Scenario) -> list[str]:
    """Promise 1, on the disk: what must not be forgotten."""
    broken: list[str] = []
    for role_name in ("timestamp", "snapshot", "targets"):
        broken += _damage(folder / f"state/tuf/{role_name}.json")
    for path in _floor_files(folder):
        if _damage(path):
            continue  # it was said
        floors = json.loads(path.read_bytes())
        if floors["counter"] != scenario.counter or floors["floors"].get("bearing") != scenario.floor:
            broken.append(f"the floors are {floors}")
    return broken


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


def check(folder: Path, scenario: Scenario, expected: Sequence[set[int]] = ()) -> list[str]:
    """The promises 1, 2, 3 and 6 after a life that was not cut."""
    result = json.loads((folder / "result.json").read_text())
    broken = _check_slot(folder)
    if result["release"] != scenario.release or not str(result["active"]).startswith(f"bearing-{scenario.release}-"):
        broken.append(f"{result} runs, not release {scenario.release}")
    lines = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
    broken += _check_ledger(lines, scenario)
    records = {line["seq"]: line for line in lines}
    windows = [records[seq] for seq in sorted(records) if records[seq]["kind"] == "TelemetryRecord"]
    lives = [[float(text) for text in life.split()] for life in (folder / "told").read_text().split("life\n")[1:]]
    return broken + _check_windows(windows, lives) + _check_scores(windows, lives, scenario, expected)


def _check_windows(windows: list[dict[str, Any]], lives: list[list[float]]) -> list[str]:
    """Promise 6, by the time of each window: what the source gave was recorded, once and in order.

    A life that was cut may lack the windows that were under way. A window that the source itself left out, since the
    reader was late, was never given.
    """
    broken: list[str] = []
    recorded = [line["t_s"] for line in windows]
    if any(later <= earlier for earlier, later in pairwise(recorded)):
        broken.append("a window was recorded twice or out of order")
    kept = set(recorded)
    for number, life in enumerate(lives, 1):
        missing = [place for place, t_s in enumerate(life) if t_s not in kept]
        under_way = MAX_BATCH if number < len(lives) else 0
        if missing and (len(life) - missing[0] > under_way or len(missing) != len(life) - missing[0]):
            broken.append(f"life {number} of {len(lives)}: of {len(life)} windows these were lost: {missing[:20]}")
    if kept - {t_s for life in lives for t_s in life}:
        broken.append("a window was recorded that the source never gave")
    return broken


def _check_scores(
    windows: list[dict[str, Any]], lives: list[list[float]], scenario: Scenario, expected: Sequence[set[int]]
) -> list[str]:
    """Promise 2: from its first window on a life scores, with what is active, but for the moment of going back."""
    broken: list[str] = []
    found = {line["t_s"]: line for line in windows}
    newest = windows[-1]
    if newest["release"] != scenario.release or newest["score"] is None:
        broken.append(f"the newest window was scored by {newest['release']}")
    # The template's life, in which there was no release at first, comes before those that are expected.
    for right, life in zip(expected, lives[1:], strict=False):
        scored = [found[t_s] for t_s in life if t_s in found]
        if scored and scored[0]["release"] not in right:
            broken.append(f"the first window of a life was scored by {scored[0]['release']}, not {right}")
        idle = [line for line in scored if line["score"] is None]
        if idle and scenario.end != "ROLLED_BACK":
            broken.append(f"{len(idle)} windows of a life were not scored")
    return broken


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
    for execution, end in scenario.ends.items():
        states = [line["state"] for line in ordered if line.get("execution") == execution]
        ends = {state for state in states if ExecutionState(state).terminal}
        if ends != {end} or states[-1] != end:
            broken.append(f"the execution {execution} went {states}, it should end {end}")
    if any(line.get("release") not in (None, 1, 2, 3) for line in ordered):
        broken.append("an unknown release scored")
    return broken
