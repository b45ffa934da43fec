"""The folder of recordings that wait for their upload, on disks that are full, read-only or broken."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.agent.records.test_limits import small_disk  # noqa: F401  # a fixture
from wheeltapper_agent.captures import pending
from wheeltapper_agent.captures.pending import NotKeptError, PendingFolder, PendingRecording
from wheeltapper_agent.ground.errors import AgentError


def entry(name: str, length: int, command: str | None = None) -> PendingRecording:
    return PendingRecording(name=name, pipeline="main", sha256="0" * 64, length=length, snapshots=1, command=command)


def test_the_folder_is_bounded_and_commands_recordings_stay(tmp_path: Path) -> None:
    folder = PendingFolder(tmp_path / "captures", 100)
    assert folder.add(entry("auto-1", 40), bytes(40)) == []
    assert folder.add(entry("c-1", 30, "c-1"), bytes(30)) == []
    assert folder.add(entry("auto-2", 30), bytes(30)) == []
    gone = folder.add(entry("auto-3", 35), bytes(35))
    assert [one.name for one in gone] == ["auto-1"]
    assert [one.name for one in folder.entries()] == ["c-1", "auto-2", "auto-3"]
    assert folder.used_bytes == 95
    with pytest.raises(AgentError) as caught:
        folder.add(entry("auto-4", 71), bytes(71))
    assert caught.value.code == "capture.no_room"
    assert folder.used_bytes == 95  # nothing went for what has no room anyway
    (tmp_path / "captures/auto-9.npz").write_bytes(b"half")
    (tmp_path / "captures/auto-2.npz").write_bytes(b"damaged")
    (tmp_path / "captures/auto-8.json").write_bytes(b"\xff{")
    again = PendingFolder(tmp_path / "captures", 100)
    assert [one.name for one in again.entries()] == ["c-1", "auto-3"]
    assert sorted(path.name for path in (tmp_path / "captures").iterdir()) == [
        "auto-3.json",
        "auto-3.npz",
        "c-1.json",
        "c-1.npz",
    ]
    for one in again.entries():
        again.remove(one)
    assert not list((tmp_path / "captures").iterdir())


def test_on_a_full_disk_the_oldest_are_dropped_and_then_the_new_one_is_refused(small_disk: Path) -> None:  # noqa: F811  # the fixture
    folder = PendingFolder(small_disk / "captures", 100 * 1024 * 1024)
    gone: list[str] = []
    for number in range(6):
        gone += [one.name for one in folder.add(entry(f"auto-{number}", 900_000), bytes(900_000))]
    assert gone == ["auto-0", "auto-1", "auto-2"]
    for one in folder.entries():
        folder.remove(one)
    folder.add(entry("c-1", 1_500_000, "c-1"), bytes(1_500_000))
    with pytest.raises(AgentError) as caught:
        folder.add(entry("auto-9", 2_000_000), bytes(2_000_000))
    assert caught.value.code == "storage.full"
    assert [one.name for one in PendingFolder(small_disk / "captures", 10**8).entries()] == ["c-1"]


def _fill(folder: Path) -> PendingFolder:
    made = PendingFolder(folder / "captures", 64 * 1024 * 1024)
    for number in range(3):
        made.add(entry(f"auto-{number}", 500_000), bytes(500_000))
    return made


def test_a_recording_that_cannot_fit_drops_no_other(small_disk: Path) -> None:  # noqa: F811  # the fixture
    folder = _fill(small_disk)
    free = os.statvfs(small_disk).f_bavail
    with pytest.raises(NotKeptError) as caught:
        folder.add(entry("c-1", 4_000_000, "c-1"), bytes(4_000_000))
    assert (caught.value.code, caught.value.dropped) == ("storage.full", ())
    assert len(folder.entries()) == 3
    assert os.statvfs(small_disk).f_bavail == free  # nothing is left of the attempt
    assert [one.name for one in folder.add(entry("c-2", 2_000_000, "c-2"), bytes(2_000_000))] == ["auto-0"]


def test_the_caller_learns_what_was_dropped_for_a_recording_that_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PendingFolder(tmp_path / "captures", 100)
    folder.add(entry("auto-1", 80), bytes(80))

    def write(*_: object) -> None:
        raise OSError(errno.EIO, "the card is gone")

    monkeypatch.setattr(pending, "write_atomic", write)
    with pytest.raises(NotKeptError) as caught:
        folder.add(entry("auto-2", 50), bytes(50))
    assert (caught.value.code, [one.name for one in caught.value.dropped]) == ("storage.failed", ["auto-1"])
    assert folder.entries() == []


def test_an_error_other_than_a_full_disk_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PendingFolder(tmp_path / "captures", 100)
    folder.add(entry("auto-1", 40), bytes(40))

    def write(*_: object) -> None:
        raise OSError(errno.EIO, "the card is gone")

    monkeypatch.setattr(pending, "write_atomic", write)
    with pytest.raises(NotKeptError) as caught:
        folder.add(entry("auto-2", 50), bytes(50))
    assert (caught.value.code, caught.value.dropped) == ("storage.failed", ())
    assert [one.name for one in folder.entries()] == ["auto-1"]


def test_a_read_only_disk_forgets_nothing(small_disk: Path) -> None:  # noqa: F811  # the fixture
    folder = _fill(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for length in (1000, 64 * 1024 * 1024):  # as it is, and with others to go first
        with pytest.raises(NotKeptError) as caught:
            folder.add(entry("auto-9", length), bytes(length))
        assert (caught.value.code, caught.value.dropped) == ("storage.read_only", ())
    assert not folder.remove(folder.entries()[0])
    assert [one.name for one in folder.entries()] == ["auto-0", "auto-1", "auto-2"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert folder.remove(folder.entries()[0])
    assert folder.used_bytes == sum(path.stat().st_size for path in (small_disk / "captures").glob("*.npz")) == 1e6


def test_a_folder_that_was_read_only_at_the_start(small_disk: Path) -> None:  # noqa: F811  # the fixture
    for there in (False, True):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        folder = PendingFolder(small_disk / "captures", 1000)
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        folder.add(entry(f"auto-{there}", 100), bytes(100))
        assert len(folder.entries()) == 1 + there
