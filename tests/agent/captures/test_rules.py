"""What rules record, the folder of recordings that wait, and the bounds of the uplink."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.records.test_limits import small_disk  # noqa: F401  # a fixture
from tests.agent.spool_kit import Clock
from wheeltapper_agent.captures import pending
from wheeltapper_agent.captures.config import CaptureRule
from wheeltapper_agent.captures.pending import NotKeptError, PendingFolder, PendingRecording
from wheeltapper_agent.captures.rules import CaptureRules, Collected
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.rate import TokenBucket
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.wire.messages import Severity

SPEC = SourceSpec(1000.0, 16, ("x",), ("g",))


def window(index: int) -> Window:
    return Window(np.full((16, 1), float(index), dtype=np.float32), float(index))


def seen(index: int, alert: bool = False, changed: bool = False) -> Observation:
    verdict = Verdict(1.0, Severity.WARNING if alert else Severity.NORMAL, alert, changed, ())
    return Observation("main", index, window(index), None, verdict=verdict)


def times(full: Collected) -> list[float]:
    return [each.t_s for each in full.windows]


class Rules:
    """Rules and what they handed over."""

    def __init__(self, max_bytes: int = 10**6, takes: bool = True, **fields: Any) -> None:
        self.full: list[Collected] = []
        self.clock = Clock()

        def sink(full: Collected) -> bool:
            self.full.append(full)
            return takes

        rule = CaptureRule(pipeline="main", **fields)
        self.rules = CaptureRules("main", SPEC, rule, sink, self.clock, max_bytes)

    def run(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            assert self.rules.observe(seen(index)) == ()


def test_around_an_alert() -> None:
    made = Rules(on_alert=True, before_windows=3, after_windows=2, pause_seconds=100.0)
    made.run(0, 10)
    made.rules.observe(seen(10, alert=True, changed=True))
    made.rules.observe(seen(11, alert=True, changed=True))  # worse: within the same recording
    assert made.full == []
    made.rules.observe(seen(12, alert=True))
    (full,) = made.full
    assert (times(full), full.reason, full.first_window) == ([7, 8, 9, 10, 11, 12], "alert", 7)
    made.rules.observe(seen(13, alert=False, changed=True))  # it is over: nothing to record
    made.rules.observe(seen(14, alert=True, changed=True))
    made.run(15, 10)
    assert len(made.full) == 1
    assert made.rules.ignored == 2
    made.clock.seconds += 101
    made.rules.observe(seen(30, alert=True, changed=True))
    made.rules.end()
    assert times(made.full[1]) == [22, 23, 24, 30]


def test_on_drift_and_from_any_thread() -> None:
    made = Rules(on_drift=True, before_windows=1, after_windows=0, pause_seconds=0.0)
    made.run(0, 3)
    thread = threading.Thread(target=made.rules.on_drift, args=("change.level",))
    thread.start()
    thread.join()
    made.run(3, 1)
    assert [(full.reason, times(full)) for full in made.full] == [("drift.change.level", [2, 3])]
    silent = Rules(on_drift=False)
    silent.rules.on_drift("change.level")
    silent.run(0, 20)
    assert silent.full == []
    silent.rules.trigger("somebody")
    silent.run(20, 20)
    assert silent.full[0].reason == "somebody"


def test_the_random_share_is_drawn_alike_after_a_restart() -> None:
    one = Rules(random_share=0.1, random_windows=5, seed=7)
    one.run(0, 4000)
    drawn = [t for full in one.full for t in times(full)]
    assert 300 < len(drawn) < 500
    assert all(len(full.windows) == 5 and full.reason == "random" for full in one.full)
    other = Rules(random_share=0.1, random_windows=5, seed=7)
    other.run(0, 2000)
    other.run(2000, 2000)
    assert [t for full in other.full for t in times(full)] == drawn
    third = Rules(random_share=0.1, random_windows=5, seed=8)
    third.run(0, 4000)
    assert [t for full in third.full for t in times(full)] != drawn


def test_rules_are_cut_to_the_boards_cap_and_nobody_waits_for_a_sink() -> None:
    made = Rules(max_bytes=16 * 4 * 6, takes=False, on_alert=True, before_windows=100, after_windows=2)
    made.run(0, 200)
    made.rules.observe(seen(200, alert=True, changed=True))
    made.run(201, 50)
    assert len(made.full[0].windows) == 6
    assert made.rules.dropped == 1


# --- the folder -------------------------------------------------------------------------------------------------------


def entry(name: str, length: int, command: str | None = None) -> PendingRecording:
    return PendingRecording(name=name, pipeline="main", sha256="0" * 64, length=length, snapshots=1, command=command)


def test_the_folder_is_bounded_and_what_was_asked_for_stays(tmp_path: Path) -> None:
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


def test_a_full_disk_costs_the_oldest_and_then_the_newest(small_disk: Path) -> None:  # noqa: F811  # the fixture
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


def test_a_recording_that_has_no_room_anyway_costs_none(small_disk: Path) -> None:  # noqa: F811  # the fixture
    folder = _fill(small_disk)
    free = os.statvfs(small_disk).f_bavail
    with pytest.raises(NotKeptError) as caught:
        folder.add(entry("c-1", 4_000_000, "c-1"), bytes(4_000_000))
    assert (caught.value.code, caught.value.dropped) == ("storage.full", ())
    assert len(folder.entries()) == 3
    assert os.statvfs(small_disk).f_bavail == free  # nothing is left of the attempt
    assert [one.name for one in folder.add(entry("c-2", 2_000_000, "c-2"), bytes(2_000_000))] == ["auto-0"]


def test_what_went_for_a_recording_that_could_not_be_kept_is_told(
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


def test_a_disk_that_is_not_full_costs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- bounds -----------------------------------------------------------------------------------------------------------


def walk(bucket: TokenBucket, step_seconds: float, steps: int, wanted: float) -> Iterator[tuple[float, float]]:
    now, total = 0.0, 0.0
    for _ in range(steps):
        now += step_seconds
        while bucket.available(now) >= wanted:
            bucket.take(wanted)
            total += wanted
        yield now, total


def test_a_bucket_never_gives_more_than_its_rate() -> None:
    for now, total in walk(TokenBucket(100.0, 50.0, 0.0), 0.013, 2000, 7.0):
        assert total <= 50 + 100 * now + 1e-6
    assert total > 100 * now * 0.9
    still = TokenBucket(10.0, 5.0, 100.0)
    still.take(5.0)
    assert still.available(50.0) == 0  # a clock that runs backwards
    assert still.wait_seconds(5.0, 100.0) == pytest.approx(0.5)
    assert TokenBucket(0.0, 1.0, 0.0).available(0.0) == float("inf")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[[capture.rules]]\non_alert = true\n", "config.missing_key"),
        ('[[capture.rules]]\npipeline = "a"\n[[capture.rules]]\npipeline = "a"\n', "config.invalid"),
        ('[[capture.rules]]\npipeline = "a"\nrandom_share = 1.5\n', "config.invalid"),
        ('[[capture.rules]]\npipeline = "a"\nbefore_windows = -1\n', "config.invalid"),
        ('[capture]\nrules = "all"\n', "config.invalid"),
        ("[capture]\nspeed = 1\n", "config.unknown_key"),
    ],
)
def test_rules_that_cannot_be(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'[device]\nstate_dir = "state"\n{text}')
    with pytest.raises(AgentError) as caught:
        load_config(path)
    assert caught.value.code == code


def test_rules_by_name_and_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        '[device]\nstate_dir = "state"\n[capture]\nmax_mb_per_day = 5\n[[capture.rules]]\npipeline = "*"\n'
        'random_share = 0.01\n[[capture.rules]]\npipeline = "press"\non_alert = true\n'
    )
    config = load_config(path).capture
    named, rest = config.rule_for("press"), config.rule_for("pump")
    assert named is not None
    assert rest is not None
    assert (named.on_alert, rest.random_share, config.max_mb_per_day) == (True, 0.01, 5.0)
