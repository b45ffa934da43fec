"""Promises 1, 2, 3 and 6: killed at any write, fsync, rename, link or unlink, the device comes back whole.

Every distinct (state, call, file) of an update, of a rollback and of every other end is cut, with what was not fsynced
lost (see :mod:`tests.sim.disk`); every call, in each way, behind the marker ``slow``. The counts fail if the sweep
comes to cover less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import floor
from pathlib import Path
from random import Random

import pytest

from tests.sim.disk import lose_power
from tests.sim.sweep import Cut, Ground, Point, Result, Scenario

_RESTART_CALLS = 4
"""By which a start counts itself: open, fsync, rename of the journal, fsync of its folder."""
_LATE = {
    "rollback": ("ROLLING_BACK", "ROLLED_BACK"),
    "rejected": ("REJECTED",),
    "failed": ("FAILED",),
    "superseded": ("SUPERSEDED", "THEN ASSIGNED", "THEN COMMITTED"),
    "cancelled": ("CANCELLED",),
}
"""States of each scenario that those before it do not have."""
_DISTINCT = {"update": 100, "rollback": 15, "rejected": 9, "failed": 5, "superseded": 28, "cancelled": 9}
"""What is to be cut of each: another number means that the agent's writing changed, or that the sweep lost sight."""
_CALLS = {"update": 124, "rollback": 128, "rejected": 14, "failed": 9, "superseded": 41, "cancelled": 15}
_HIT = 0.98
"""So much of it must have been met: where two threads write, another call may come in a number's place."""
_ACTIVE = "slots/pipelines/main/active"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("ground"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def points_of_update(ground: Ground) -> list[Point]:
    return ground.points(ground.update)[0]


def _distinct(points: list[Point]) -> list[Point]:
    found: dict[tuple[str, str, str], Point] = {}
    for point in points:
        found.setdefault(point.kind, point)
    return list(found.values())


def _sweep(ground: Ground, scenario: Scenario, cuts: list[Cut]) -> list[Result]:
    results = ground.cut_all(scenario, cuts)
    broken = [result for result in results if result.broken]
    assert not broken, json.dumps([(str(each.cut), each.hit, each.broken) for each in broken[:5]], indent=1)
    return results


def _covered(results: list[Result]) -> set[tuple[str, str, str]]:
    return {result.hit for result in results if result.hit is not None}


def _in_turn(points: list[Point]) -> list[Cut]:
    """A cut at each, in the ways in which power is lost."""
    ways = (Cut(power=True), Cut(power=True, half=True), Cut(power=True, names=True))
    return [replace(ways[place % 3], number=point.number) for place, point in enumerate(points)]


@pytest.mark.timeout(900)
def test_an_update_cut_at_every_kind_of_call(ground: Ground) -> None:
    points = _distinct(ground.points(ground.update)[0])
    assert len(points) == _DISTINCT["update"]
    covered = _covered(_sweep(ground, ground.update, _in_turn(points)))
    assert len(covered) >= floor(_HIT * len(points)), sorted({point.kind for point in points} - covered)
    states = {state for state, _, _ in covered}
    assert states >= {"IDLE", "ASSIGNED", "WAITING", "FETCHING", "VERIFYING", "STAGED", "SELF_TEST", "SHADOW"}
    assert states >= {"ACTIVATING", "PROBATION", "COMMITTED"}
    assert {call for _, call, _ in covered} >= {"open", "fsync", "rename", "unlink", "link", "symlink", "mkdir"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", _LATE)
def test_every_other_end_cut_at_every_kind_of_call(ground: Ground, name: str) -> None:
    scenario: Scenario = getattr(ground, name)
    points = [point for point in _distinct(ground.points(scenario)[0]) if point.state in _LATE[name]]
    assert len(points) == _DISTINCT[name]
    covered = _covered(_sweep(ground, scenario, _in_turn(points)))
    assert len(covered) >= floor(_HIT * len(points)), sorted({point.kind for point in points} - covered)
    assert {state for state, _, _ in covered} == set(_LATE[name])


def test_the_spool_cut_within_its_writes(ground: Ground) -> None:
    _, writes = ground.points(ground.update)
    cuts = [Cut(sqlite=1 + number * (writes - 20) // 10) for number in range(10)]
    results = _sweep(ground, ground.update, cuts)
    assert sum(result.hit is not None for result in results) >= 8


def test_a_process_that_dies_again_and_again_in_probation_goes_back(ground: Ground) -> None:
    """Killed in probation, then twice right after the restart was counted: the next start takes the one before."""
    points, _ = ground.points(ground.update)
    last = [point for point in points if point.state == "PROBATION"][-1]
    loop = replace(ground.update, end="ROLLED_BACK", release=1, floor=None)
    counted = Cut(_RESTART_CALLS)
    result = ground.cut(loop, Cut(last.number), counted, counted)
    assert (result.hit, result.broken) == (("START", "fsync", "."), [])
    assert not ground.cut(ground.update, Cut(last.number), counted).broken  # once less is not a loop yet


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "how",
    [Cut(power=True), Cut(power=True, half=True), Cut(power=True, names=True), Cut(), Cut(before=True)],
    ids=["power", "half", "names", "kill", "before"],
)
def test_every_call_of_every_scenario(ground: Ground, how: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that end early only the calls that no other has."""
    monkeypatch.setattr(ground, "child_test", True)
    monkeypatch.setattr(ground, "lied_to", 1)
    for name, count in _CALLS.items():
        scenario: Scenario = getattr(ground, name)
        points, _ = ground.points(scenario)
        if name not in ("update", "rollback"):
            points = [point for point in points if point.state in _LATE[name]]
        assert len(points) == count
        results = _sweep(ground, scenario, [replace(how, number=point.number) for point in points])
        assert sum(result.hit is not None for result in results) >= floor(_HIT * count)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_spool_cut_within_many_writes(ground: Ground) -> None:
    _, writes = ground.points(ground.update)
    results = _sweep(ground, ground.update, [Cut(sqlite=number) for number in range(1, writes - 20, 8)])
    assert sum(result.hit is not None for result in results) >= (writes - 20) // 10


def test_the_sweep_notices_a_link_that_is_switched_in_two_steps(ground: Ground) -> None:
    points, _ = ground.points(ground.update, "link")
    cuts = [Cut(point.number, plant="link") for point in points if (point.call, point.role) == ("unlink", _ACTIVE)]
    results = ground.cut_all(ground.update, cuts)
    assert [result.broken[0] for result in results] == ["no release is active"]


def test_the_sweep_notices_a_release_that_is_active_before_it_is_durable(ground: Ground) -> None:
    points, _ = ground.points(ground.update, "stage")
    cuts = [Cut(point.number, power=True, plant="stage") for point in points if point.state == "PROBATION"][:2]
    results = ground.cut_all(ground.update, cuts)
    assert all("no release is active" in str(result.broken) or "damaged" in str(result.broken) for result in results)


def test_the_sweep_notices_a_journal_that_is_written_in_place(ground: Ground) -> None:
    points, _ = ground.points(ground.rollback, "journal")
    late = [point for point in points if point.state == "ROLLING_BACK" and point.role == "journal.json"]
    results = ground.cut_all(ground.rollback, [Cut(point.number, power=True, plant="journal") for point in late[:2]])
    assert any("it should end ROLLED_BACK" in str(result.broken) for result in results), results


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("losing", "these were lost"),
        ("unloaded", "the first window of a life was scored by None"),
        ("unsigned", "lies were answered"),
        ("alone", "lies were answered"),
        ("floorless", "lies were answered"),
        ("unversioned", "lies were answered"),
        ("forgetful", "the floors are"),
        ("floors", "marks.json is damaged"),
        ("renamed", "journal.json is damaged"),
        ("metadata", "timestamp.json is damaged"),
    ],
)
def test_the_sweep_notices(ground: Ground, points_of_update: list[Point], fault: str, said: str) -> None:
    last = [point for point in points_of_update if point.state == "COMMITTED" and point.number % 2][-1]
    result = ground.cut(ground.update, Cut(last.number, power=True, names=True, plant=fault))
    assert said in str(result.broken)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cut_in_one_life_after_the_other(ground: Ground) -> None:
    """Three cuts at random calls, one after the other, each losing what was not durable."""
    random = Random(7)
    patient = [
        replace(each, update=each.update | {"probation_max_deaths": 9}) for each in (ground.update, ground.rollback)
    ]
    for scenario in patient:
        for _ in range(40):
            cuts = [Cut(random.randrange(1, 100), power=True, half=random.random() < 0.5) for _ in range(3)]
            result = ground.cut(scenario, *cuts)
            assert not result.broken, (cuts, result)


# --- the tracking layer itself ----------------------------------------------------------------------------------------


def _child(folder: Path, program: str) -> None:
    """Run ``program`` under a Disk in a process of its own, that is killed at its end."""
    import subprocess
    import sys

    text = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tests.sim.disk import Disk\n"
        f"base = Path({str(folder)!r})\nroot = base / 'root'\n"
        "Disk(root, base / 'log', base / 'backups', lambda: 'X').install()\n"
        f"{program}\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code = subprocess.run([sys.executable, "-c", text], cwd=Path(__file__).resolve().parents[2], check=False).returncode
    assert code == -9


@pytest.mark.parametrize(
    ("program", "old", "new"),
    [
        ("open(root / 'a', 'w').write('new')", b"old", b""),
        ("from wheeltapper_agent.ground.files import write_atomic\nwrite_atomic(root / 'a', b'new')", b"old", b"new"),
        ("open(root / 'b', 'w').write('x'); os.replace(root / 'b', root / 'a')", b"old", b"old"),
        ("os.unlink(root / 'a')", b"old", b"old"),
    ],
    ids=["torn", "atomic", "renamed without fsync", "unlinked without fsync"],
)
def test_what_was_not_fsynced_is_lost(tmp_path: Path, program: str, old: bytes, new: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(old)
    _child(tmp_path, program)
    lose_power(root, tmp_path / "log")
    assert (root / "a").read_bytes() == new


def test_names_may_be_durable_before_what_they_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"old")
    _child(tmp_path, "open(root / 'b', 'w').write('new'); os.replace(root / 'b', root / 'a')")
    lose_power(root, tmp_path / "log", names=True)
    assert [(path.name, path.read_bytes()) for path in root.iterdir()] == [("a", b"")]
