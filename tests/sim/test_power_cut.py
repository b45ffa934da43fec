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
from tests.sim.sweep import Cut, Point, Result, Scenario, SweepRig

_RESTART_CALLS = 4
"""By which a start counts itself: open, fsync, rename of the journal, fsync of its folder."""
_LATE = {
    "rollback": ("ROLLING_BACK", "ROLLED_BACK"),
    "rejected": ("REJECTED",),
    "failed": ("FAILED",),
    "superseded": ("SHADOW", "SUPERSEDED", "THEN ASSIGNED", "THEN COMMITTED"),
    "cancelled": ("CANCELLED",),
    "withdrawn": ("SHADOW", "CANCELLED"),
    "called_off": ("PROBATION", "ROLLING_BACK", "ROLLED_BACK"),
    "queue": ("REJECTED", "THEN ASSIGNED", "THEN WAITING"),
}
"""States of each scenario that those before it do not have."""
_DISTINCT = {
    "update": 96, "rollback": 15, "rejected": 9, "failed": 5, "superseded": 32, "cancelled": 9, "withdrawn": 24,
    "called_off": 30, "queue": 12,
}  # fmt: skip
"""What is to be cut of each: another number means that the agent's writing changed, or that the sweep lost sight."""
_CALLS = {
    "update": 128, "rollback": 132, "rejected": 14, "failed": 9, "superseded": 49, "cancelled": 15, "withdrawn": 37,
    "called_off": 43, "queue": 16,
}  # fmt: skip
_HIT = 0.98
"""So much of it must have been met: where two threads write, another call may come in a number's place."""
_ACTIVE = "slots/pipelines/main/active"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SweepRig]:
    made = SweepRig(tmp_path_factory.mktemp("rig"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def points_of_update(rig: SweepRig) -> list[Point]:
    return rig.points(rig.update)[0]


def _distinct(points: list[Point]) -> list[Point]:
    found: dict[tuple[str, str, str], Point] = {}
    for point in points:
        found.setdefault(point.kind, point)
    return list(found.values())


def _sweep(rig: SweepRig, scenario: Scenario, cuts: list[Cut]) -> list[Result]:
    results = rig.cut_all(scenario, cuts)
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
def test_an_update_cut_at_every_kind_of_call(rig: SweepRig) -> None:
    points = _distinct(rig.points(rig.update)[0])
    assert len(points) == _DISTINCT["update"]
    covered = _covered(_sweep(rig, rig.update, _in_turn(points)))
    assert len(covered) >= floor(_HIT * len(points)), sorted({point.kind for point in points} - covered)
    states = {state for state, _, _ in covered}
    assert states >= {"IDLE", "ASSIGNED", "WAITING", "FETCHING", "VERIFYING", "STAGED", "SELF_TEST", "SHADOW"}
    assert states >= {"ACTIVATING", "PROBATION", "COMMITTED"}
    assert {call for _, call, _ in covered} >= {"open", "fsync", "rename", "unlink", "link", "symlink", "mkdir"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", _LATE)
def test_every_other_end_cut_at_every_kind_of_call(rig: SweepRig, name: str) -> None:
    scenario: Scenario = getattr(rig, name)
    points = [point for point in _distinct(rig.points(scenario)[0]) if point.state in _LATE[name]]
    assert len(points) == _DISTINCT[name]
    covered = _covered(_sweep(rig, scenario, _in_turn(points)))
    assert len(covered) >= floor(_HIT * len(points)), sorted({point.kind for point in points} - covered)
    assert {state for state, _, _ in covered} == set(_LATE[name])


def test_the_spool_cut_within_its_writes(rig: SweepRig) -> None:
    _, writes = rig.points(rig.update)
    cuts = [Cut(sqlite=1 + number * (writes - 20) // 10) for number in range(10)]
    results = _sweep(rig, rig.update, cuts)
    assert sum(result.hit is not None for result in results) >= 8


def test_a_process_that_dies_again_and_again_in_probation_goes_back(rig: SweepRig) -> None:
    """Killed in probation, then twice right after the restart was counted: the next start takes the one before."""
    points, _ = rig.points(rig.update)
    last = [point for point in points if point.state == "PROBATION"][-1]
    loop = replace(rig.update, end="ROLLED_BACK", release=1, floor=None)
    counted = Cut(_RESTART_CALLS)
    result = rig.cut(loop, Cut(last.number), counted, counted)
    assert (result.hit, result.broken) == (("START", "fsync", "."), [])
    assert not rig.cut(rig.update, Cut(last.number), counted).broken  # once less is not a loop yet


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "how",
    [Cut(power=True), Cut(power=True, half=True), Cut(power=True, names=True), Cut(), Cut(before=True)],
    ids=["power", "half", "names", "kill", "before"],
)
def test_every_call_of_every_scenario(rig: SweepRig, how: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that end early only the calls that no other has."""
    monkeypatch.setattr(rig, "child_test", True)
    monkeypatch.setattr(rig, "attack_every", 1)
    for name, count in _CALLS.items():
        scenario: Scenario = getattr(rig, name)
        points, _ = rig.points(scenario)
        if name not in ("update", "rollback"):
            points = [point for point in points if point.state in _LATE[name]]
        assert len(points) == count
        results = _sweep(rig, scenario, [replace(how, number=point.number) for point in points])
        assert sum(result.hit is not None for result in results) >= floor(_HIT * count)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_spool_cut_within_many_writes(rig: SweepRig) -> None:
    _, writes = rig.points(rig.update)
    results = _sweep(rig, rig.update, [Cut(sqlite=number) for number in range(1, writes - 20, 8)])
    assert sum(result.hit is not None for result in results) >= (writes - 20) // 10


def test_the_sweep_notices_a_link_that_is_switched_in_two_steps(rig: SweepRig) -> None:
    points, _ = rig.points(rig.update, "link_in_two_steps")
    cuts = [
        Cut(point.number, fault="link_in_two_steps")
        for point in points
        if (point.call, point.role) == ("unlink", _ACTIVE)
    ]
    results = rig.cut_all(rig.update, cuts)
    assert [result.broken[0] for result in results] == ["no release is active"]


def test_the_sweep_notices_a_release_that_is_active_before_it_is_durable(rig: SweepRig) -> None:
    points, _ = rig.points(rig.update, "slot_not_durable")
    cuts = [Cut(point.number, power=True, fault="slot_not_durable") for point in points if point.state == "PROBATION"][
        :2
    ]
    results = rig.cut_all(rig.update, cuts)
    assert all("no release is active" in str(result.broken) or "damaged" in str(result.broken) for result in results)


def test_the_sweep_notices_a_journal_that_is_written_in_place(rig: SweepRig) -> None:
    points, _ = rig.points(rig.rollback, "journal_in_place")
    late = [point for point in points if point.state == "ROLLING_BACK" and point.role == "journal.json"]
    results = rig.cut_all(rig.rollback, [Cut(point.number, power=True, fault="journal_in_place") for point in late[:2]])
    assert any("it should end ROLLED_BACK" in str(result.broken) for result in results), results


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("windows_lost_in_swap", "these were lost"),
        ("nothing_loaded_at_start", "the first window of a life was scored by None"),
        ("director_not_checked", "attacks were answered"),
        ("team_not_checked", "attacks were answered"),
        ("floor_not_checked", "attacks were answered"),
        ("metadata_versions_not_checked", "attacks were answered"),
        ("floors_not_written", "the floors are"),
        ("floors_not_durable", "marks.json is damaged"),
        ("journal_not_durable", "journal.json is damaged"),
        ("metadata_not_durable", "timestamp.json is damaged"),
    ],
)
def test_the_sweep_notices(rig: SweepRig, points_of_update: list[Point], fault: str, said: str) -> None:
    last = [point for point in points_of_update if point.state == "COMMITTED" and point.number % 2][-1]
    result = rig.cut(rig.update, Cut(last.number, power=True, names=True, fault=fault))
    assert said in str(result.broken)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cut_in_one_life_after_the_other(rig: SweepRig) -> None:
    """Three cuts at random calls, one after the other, each losing what was not durable."""
    random = Random(7)
    patient = [replace(each, update=each.update | {"probation_max_deaths": 9}) for each in (rig.update, rig.rollback)]
    for scenario in patient:
        for _ in range(40):
            cuts = [Cut(random.randrange(1, 100), power=True, half=random.random() < 0.5) for _ in range(3)]
            result = rig.cut(scenario, *cuts)
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
