"""The day's share of uploads: over restarts and boots, and whatever the clock says. And a metered network."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.agent.captures.kit import Server
from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.day_share import DayShare
from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.captures.resumable_upload import ResumableUpload

HOUR = 3600.0


class Clock:
    def __init__(self, wall: float = 1.8e9) -> None:
        self.wall, self.monotonic_s = wall, 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.monotonic_s

    def booted(self) -> tuple[str, float]:
        return self.boot, self.monotonic_s

    boot = "boot-1"

    def pass_seconds(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic_s += seconds


def _share(tmp_path: Path, clock: Clock) -> DayShare:
    return DayShare(tmp_path / "uplink.state", clock, clock.booted)


@pytest.mark.parametrize("jump", [-30 * 365 * 24 * HOUR, -1.0, 25 * HOUR, 10 * 365 * 24 * HOUR])
def test_a_clock_that_is_set_begins_no_new_day(tmp_path: Path, jump: float) -> None:
    clock = Clock()
    share = _share(tmp_path, clock)
    share.add(1000)
    clock.wall += jump
    assert share.sent_bytes == 1000
    assert _share(tmp_path, clock).sent_bytes == 1000  # nor does a restart of the agent
    clock.pass_seconds(23.9 * HOUR)
    assert (share.sent_bytes, _share(tmp_path, clock).sent_bytes) == (1000, 1000)
    clock.pass_seconds(0.2 * HOUR)
    assert (share.sent_bytes, _share(tmp_path, clock).sent_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("off_hours", "wall", "left"),
    [(1.0, None, 1000), (23.0, None, 0), (1.0, 0.0, 1000)],
    ids=["an hour", "a night", "a clock that begins in 1970"],
)
def test_over_a_boot_the_wall_clock_counts_where_it_can(
    tmp_path: Path, off_hours: float, wall: float | None, left: int
) -> None:
    clock = Clock()
    share = _share(tmp_path, clock)
    share.add(400)
    clock.pass_seconds(2 * HOUR)
    share.add(600)
    clock.pass_seconds(off_hours * HOUR)
    clock.boot, clock.monotonic_s = "boot-2", 5.0
    if wall is not None:
        clock.wall = wall
    after = _share(tmp_path, clock)
    assert after.sent_bytes == left
    clock.pass_seconds(22.1 * HOUR)
    assert after.sent_bytes == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"sent_bytes": -5}', b'{"day": 3, "sent_bytes": 7}', b"[]"])
def test_a_file_of_another_form_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "uplink.state").write_bytes(content)
    share = _share(tmp_path, Clock())
    share.add(5)
    assert share.sent_bytes >= 5


def test_nothing_is_uploaded_while_the_network_is_metered(tmp_path: Path) -> None:
    clock, server, stopping = Clock(), Server(), threading.Event()
    costs: list[bool | None] = [True]
    asked: list[int] = []

    def metered() -> bool | None:
        asked.append(1)
        return costs[0]

    config = CaptureConfig(piece_kb=1, bytes_per_second=0.0)
    upload = ResumableUpload(server, config, clock, tmp_path / "uplink.state", stopping, metered)  # type: ignore[arg-type]
    (tmp_path / "a.npz").write_bytes(b"x" * 4096)
    entry = PendingRecording(name="auto-1", pipeline="main", sha256="0" * 64, length=4096, snapshots=1)
    asked_for = PendingRecording(
        name="c-1",
        pipeline="main",
        sha256="0" * 64,
        length=4096,
        snapshots=1,
        command="c-1",
        expires_at=clock.wall + 60,
    )
    assert not upload.allowed(entry)
    assert not upload.allowed(asked_for)
    assert not upload.send(entry, tmp_path / "a.npz")
    assert server.asked == []
    costs[0] = None
    assert upload.allowed(entry)
    costs[0] = False
    real = server.request

    def request(*args: object) -> bytes:
        costs[0] = True  # the cable is pulled while the first piece is sent
        return real(*args)  # type: ignore[arg-type]

    server.request = request  # type: ignore[method-assign,assignment]
    assert not upload.send(entry, tmp_path / "a.npz")
    assert len(server.taken["auto-1"]) == 1024
    costs[0], server.request = False, real  # type: ignore[method-assign]
    assert upload.send(entry, tmp_path / "a.npz")
    assert len(server.taken["auto-1"]) == 4096
    costs[0] = True
    clock.pass_seconds(61.0)
    assert upload.allowed(asked_for)  # so that it is reported as expired
    assert not upload.send(asked_for, tmp_path / "a.npz")
