"""Captures on a disk and against a server that refuse: what is kept, what is told, what it costs in memory."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.servers import until
from tests.agent.spool_kit import Clock
from wheeltapper_agent.captures import uploader
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.config import CaptureConfig, CaptureRule
from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.captures.recorder import RecordingJob
from wheeltapper_agent.captures.recording import make_recording
from wheeltapper_agent.captures.resumable_upload import ResumableUpload
from wheeltapper_agent.ground.clock import SystemClock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import load_profile, profile_names
from wheeltapper_agent.link.https import HttpsError
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import WindowCapture
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, recording_bytes
from wheeltapper_protocols.wire.messages import CaptureCommand, CaptureReport, Command, Report

SPEC = SourceSpec(1000.0, 10, ("x",), ("g",))
WINDOW_BYTES = 40
RULE = CaptureRule(pipeline="*", random_share=1.0, random_windows=2)


class Records:
    """A spool that refuses when it is told to."""

    def __init__(self) -> None:
        self.refuses = False
        self.bodies: list[CaptureReport] = []

    def append(self, *items: Any) -> None:
        if self.refuses:
            raise OSError(28, "the disk is full")
        for item in items:
            assert isinstance(item, Report)
            assert isinstance(item.body, CaptureReport)
            self.bodies.append(item.body)

    def answered(self, command: str) -> bool:
        if self.refuses:
            raise OSError(5, "the disk is gone")
        return any(body.command == command for body in self.bodies)


class Server:
    """What the fleet, or whoever stands before it, answers: a status and a code by name; nothing: it takes all."""

    def __init__(self) -> None:
        self.head_answers: dict[str, int] = {}
        self.patch_answers: dict[str, tuple[int, str]] = {}
        self.away = False
        self.resumable = True
        self.asked: list[str] = []
        self.taken: dict[str, bytes] = {}
        self.put: list[bytes] = []

    def head(self, url: str) -> dict[str, str]:
        name = url.rsplit("/", 1)[1]
        self.asked.append(name)
        if self.away:
            raise HttpsError("fetch.unreachable", "nobody there")
        if status := self.head_answers.get(name, 0):
            raise HttpsError("fetch.status", f"HTTP {status}", status)
        return {"upload-offset": str(len(self.taken.get(name, b"")))} if self.resumable else {}

    def request(self, method: str, url: str, _: int, body: Any = None, __: Any = None) -> bytes:
        name = url.rsplit("/", 1)[1]
        if name in self.patch_answers:
            status, code = self.patch_answers[name]
            raise HttpsError("fetch.status", f"HTTP {status} {code}", status, code)
        if method == "PUT":
            self.put += list(body)
        elif name not in self.head_answers:
            self.taken[name] = self.taken.get(name, b"") + body
        return b""


class Pipeline:
    """Gives what it is told to give, at once or when it is asked for."""

    spec = SPEC

    def __init__(self) -> None:
        self.value = 1.0
        self.waits: list[WindowCapture] | None = None

    def capture(self, capture: WindowCapture) -> None:
        if self.waits is not None:
            self.waits.append(capture)
            return
        capture.on_end(windows(capture.wanted_windows, self.value))

    def end_captures_due(self, now: float) -> None:
        due = [capture for capture in self.waits or [] if capture.expires_at < now]
        self.waits = None if self.waits is None else [one for one in self.waits if one.expires_at >= now]
        for capture in due:
            capture.on_end(capture.windows)


def windows(count: int, value: float = 1.0) -> list[Window]:
    return [Window(np.full((10, 1), value, dtype=np.float32), float(index)) for index in range(count)]


class Rig:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.records, self.server, self.pipeline = Records(), Server(), Pipeline()
        config = CaptureConfig(rules=(RULE,), bytes_per_second=0.0)
        options = {"max_bytes": 10**6, "config": config, **options}
        anything: Any = (self.records, self.server, {"main": self.pipeline})
        self.captures = Captures(
            "dev-1", anything[2], anything[0], anything[1], SystemClock(), folder=folder / "captures", **options
        )

    def take(self, name: str, snapshots: int = 3, pipeline: str = "main", expires_at: float = 1e11) -> None:
        body = CaptureCommand(pipeline=pipeline, snapshots=snapshots)
        self.captures.take(Command(id=name, expires_at=expires_at, body=body), body)

    def codes(self) -> dict[str | None, str]:
        return {body.command or body.upload: body.code for body in self.records.bodies}

    def waiting(self) -> list[str]:
        return [entry.name for entry in self.captures._folder.entries()]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "_MAX_RETRY_SECONDS", 0.3)
    logging.getLogger("wheeltapper_agent.captures").setLevel(logging.CRITICAL)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.captures.stop()


# --- memory -----------------------------------------------------------------------------------------------------------


def as_before(windows: list[Window], spec: SourceSpec) -> Recording:
    """All windows at once."""
    samples = np.stack([window.samples for window in windows])
    peak = np.abs(samples).max(axis=(0, 1)).astype(np.float64)
    scale = np.where(peak > 0, peak, 1.0) / 32767.0
    coded = np.clip(np.rint(samples / scale), -32767, 32767).astype(np.int16)
    times = np.array([window.t_s for window in windows], dtype=np.float64)
    return Recording(coded, scale, spec.sample_rate_hz, times, spec.channels, spec.units, {"a": "b"})


@pytest.mark.parametrize("seed", range(6))
def test_a_recording_is_the_same_to_the_bit_as_one_made_at_once(seed: int) -> None:
    noise = np.random.default_rng(seed)
    spec = SourceSpec(1000.0, 64, ("x", "y", "z"), ("g", "g", "V"))
    samples = noise.standard_normal((7, 64, 3)) * np.array([1e-30, 1.0, 1e30]) * noise.integers(0, 2, 3)
    made = [Window(each.astype(np.float32), float(index)) for index, each in enumerate(samples)]
    assert recording_bytes(make_recording(made, spec, {"a": "b"})) == recording_bytes(as_before(made, spec))


def test_windows_that_do_not_belong_together() -> None:
    short = Window(np.zeros((1, 1), dtype=np.float32), 9.0)
    with pytest.raises(RecordingError) as caught:
        make_recording([*windows(2), short], SPEC, {})
    assert caught.value.code == "recording.shape"
    with pytest.raises(RecordingError) as caught:
        make_recording([*windows(2), Window(np.full((10, 1), np.nan, dtype=np.float32), 9.0)], SPEC, {})
    assert caught.value.code == "recording.nan"


MEASURED = """
import sys, time
from pathlib import Path
import numpy as np
from tests.agent.captures.test_captures import Records, Server
from wheeltapper_agent.ground.clock import SystemClock
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.recorder import RecordingJob
from wheeltapper_agent.ports import SourceSpec, Window

MB = 1 << 20
spec = SourceSpec(12800.0, 4096, ("a",), ("g",))
noise = np.random.default_rng(1)
made = Captures("dev", {}, Records(), Server(), SystemClock(), 32 * MB, Path(sys.argv[1]), max_memory_bytes=48 * MB)
job = RecordingJob("auto-0", "main", spec, [], first_window=0)
high = lambda: int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1]) / 1024
before = high()
for index in range(32 * MB // 16384):
    job.windows.append(Window(noise.standard_normal((4096, 1)).astype(np.float32), float(index)))
made._recorder._write(job)
assert made._folder.used_bytes > 10 * MB
print(high() - before)
"""


def test_a_recording_at_the_cap_takes_a_little_more_than_twice_its_windows(tmp_path: Path) -> None:
    """It took six times as much: 192 MB for 32 MB, all that the smallest board gives to the agent."""
    line = [sys.executable, "-c", MEASURED, str(tmp_path / "captures")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 80


@pytest.mark.parametrize("name", profile_names())
def test_every_board_can_record_what_it_may_keep(name: str) -> None:
    profile = load_profile(name)
    assert profile.capture_max_mb <= profile.memory_cap_mb // 4


def test_a_command_beyond_the_memory_is_refused_and_one_that_only_has_to_wait_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_memory_bytes=10 * WINDOW_BYTES)
    rig.take("c-1", 11)
    assert rig.codes() == {"c-1": "capture.memory"}
    assert "11 windows are 440 bytes" in rig.records.bodies[0].detail
    rig.take("c-2", 30_000)
    assert rig.codes()["c-2"] == "capture.too_large"
    rig.pipeline.waits = []
    rig.take("c-3", 6)
    rig.take("c-4", 6)
    assert len(rig.pipeline.waits) == 1
    assert set(rig.codes()) == {"c-1", "c-2"}
    rules = rig.captures.rules("main", SPEC)
    assert rules is not None
    for index in range(6):  # recordings by rule share it: two find room, the third does not
        rules.observe(Observation("main", index, windows(6)[index], None))
    assert rules.dropped == 1
    rig.captures.start()
    rig.pipeline.waits[0].on_end(windows(6))
    until(lambda: rig.codes().get("c-3") == "")
    until(lambda: rig.captures._memory.reserved_bytes == 0)
    rig.take("c-4", 6)
    assert len(rig.pipeline.waits) == 2
    rig.captures.stop()


def test_a_command_on_a_silent_source_gives_its_memory_back_when_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "_IDLE_SECONDS", 0.1)
    rig = Rig(tmp_path, max_memory_bytes=10 * WINDOW_BYTES)
    rig.pipeline.waits = []
    rig.captures.start()
    rig.take("c-1", 6, expires_at=time.time() + 1.0)
    rig.pipeline.waits[0].windows.append(windows(1)[0])
    rig.take("c-2", 6)
    assert len(rig.pipeline.waits) == 1
    until(lambda: rig.codes() == {"c-1": "capture.expired"})
    assert "1 of 6 windows" in rig.records.bodies[0].detail
    until(lambda: rig.captures._memory.reserved_bytes == 0)
    rig.take("c-2", 6)
    assert len(rig.pipeline.waits) == 1
    rig.captures.stop()


# --- a disk that refuses ----------------------------------------------------------------------------------------------


def test_a_spool_that_refuses_ends_no_thread_and_every_command_is_answered_later(rig: Rig) -> None:
    rig.captures.start()
    rig.records.refuses = True
    rig.take("c-0")  # whether it was answered cannot be told: the fleet repeats it
    rig.records.refuses = False
    refused = threading.Event()

    def append(*_: Any) -> None:
        refused.set()
        raise OSError(28, "the disk is full")

    good, rig.records.append = rig.records.append, append  # type: ignore[method-assign]  # a fault
    rig.pipeline.value = float("nan")
    rig.take("c-1")  # cannot become a recording
    rig.take("c-2", pipeline="none")  # cannot even begin
    assert refused.wait(5)
    until(lambda: rig.captures._memory.reserved_bytes == 0)
    assert rig.captures.figures()["unsaid"] == 2
    rig.pipeline.value = 1.0
    rig.take("c-1")  # repeated meanwhile: it has its answer, which waits
    assert rig.captures._memory.reserved_bytes == 0
    rig.take("c-3")
    assert rig.captures.alive()
    rig.records.append = good  # type: ignore[method-assign]  # mended
    until(lambda: set(rig.codes()) == {"c-1", "c-2", "c-3"})
    assert rig.codes() == {"c-1": "recording.nan", "c-2": "capture.unknown_pipeline", "c-3": ""}
    assert len(rig.records.bodies) == 3
    rig.take("c-0")
    until(lambda: rig.codes().get("c-0") == "")
    assert rig.captures.figures()["unsaid"] == 0


def test_a_folder_that_fails_in_any_way_ends_no_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.captures.start()

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of the blue")

    with monkeypatch.context() as patch:
        patch.setattr(rig.captures._folder, "add", broken)
        rig.take("c-1")
        until(lambda: rig.codes() == {"c-1": "capture.failed"})
        patch.setattr(rig.captures._folder, "entries", broken)
        rig.captures._uploader.wake()
        until(lambda: not rig.captures._uploader._wake.is_set())
    assert rig.captures.alive()
    rig.take("c-2")
    until(lambda: rig.codes().get("c-2") == "")
    rig.captures.stop()
    assert rig.captures.alive()  # as it should


def test_a_thread_that_ended_is_seen(rig: Rig) -> None:
    rig.captures.start()
    rig.captures._recorder._jobs.put(None)
    until(lambda: not rig.captures.alive())


def test_a_recording_that_cannot_be_removed_is_reported_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.captures._folder, "remove", lambda _: False)
        rig.captures._recorder._write(RecordingJob("auto-1", "main", SPEC, windows(3), "alert", first_window=0))
        rig.captures.start()
        until(lambda: rig.captures._uploader._failures.get("auto-1", (0, 0.0))[0] >= 3)
        assert rig.codes() == {"auto-1": ""}
        assert len(rig.records.bodies) == 1
    until(lambda: rig.waiting() == [])
    assert len(rig.records.bodies) == 1


def test_what_gave_way_is_told_even_where_the_new_one_is_not_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.captures._folder._max_bytes = 1500
    rig.server.away = True
    job = RecordingJob("auto-1", "main", SPEC, windows(3), "alert", first_window=0)
    rig.captures._recorder._write(job)

    def full(*_: Any) -> None:
        raise OSError(5, "the card is gone")

    monkeypatch.setattr("wheeltapper_agent.captures.pending.write_atomic", full)
    rig.captures._recorder._jobs.put(RecordingJob("auto-2", "main", SPEC, windows(3), "alert", first_window=0))
    assert rig.captures._recorder._places_by_rule.acquire(blocking=False)
    rig.captures.start()
    until(lambda: len(rig.records.bodies) == 2)
    assert rig.codes() == {"auto-1": "capture.dropped", "auto-2": "storage.failed"}
    assert rig.captures.figures()["dropped"] == 2


# --- what nobody takes ------------------------------------------------------------------------------------------------


def test_recordings_by_rule_that_nobody_takes_are_counted_and_told(rig: Rig) -> None:
    rules = rig.captures.rules("main", SPEC)
    assert rules is not None
    rig.server.away = True
    for index in range(40):
        rules.observe(Observation("main", index, windows(40)[index], None))
    assert rig.captures.figures() == {"waiting": 0, "dropped": 16, "ignored": 0, "unsaid": 0}
    rig.captures.start()
    until(lambda: len(rig.waiting()) == 4 and len(rig.records.bodies) == 1)
    (told,) = rig.records.bodies
    assert (told.pipeline, told.code, told.command, told.upload) == ("main", "capture.busy", None, None)
    assert told.detail.startswith("16 recordings by rule were dropped")
    for index in range(40, 42):
        rules.observe(Observation("main", index, windows(42)[index], None))
    until(lambda: len(rig.waiting()) == 5)
    assert len(rig.records.bodies) == 1  # said once
    rules.trigger("one")
    rules.trigger("another")
    assert rig.captures.figures() == {"waiting": 5, "dropped": 16, "ignored": 1, "unsaid": 0}


# --- a server that refuses --------------------------------------------------------------------------------------------


def entry(content: bytes, command: str | None = None) -> PendingRecording:
    digest = hashlib.sha256(content).hexdigest()
    name = command or "auto-1"
    return PendingRecording(
        name=name, pipeline="main", sha256=digest, length=len(content), snapshots=1, command=command
    )


@pytest.mark.parametrize("command", [None, "c-1"])
@pytest.mark.parametrize(
    ("head", "patch", "gives_up"),
    [
        (0, (413, ""), True),
        (0, (413, "capture.too_large"), True),
        (0, (409, "capture.conflict"), True),
        (404, (404, "capture.command_unknown"), True),
        (403, (403, "capture.device_mismatch"), True),
        (0, (400, "capture.hash"), True),
        (0, (429, "capture.too_many"), False),
        (0, (409, "capture.offset"), False),
        (0, (409, "capture.changed"), False),
        (0, (401, ""), False),
        (0, (403, "device.revoked"), False),
        (0, (404, ""), False),
        (0, (423, ""), False),
        (0, (500, "capture.hash"), False),
        (401, (401, ""), False),
        (403, (403, "api.forbidden"), False),
        (404, (404, ""), False),
        (302, (302, ""), False),
        (503, (503, ""), False),
    ],
)
def test_only_the_fleets_own_word_gives_a_recording_up(
    tmp_path: Path, head: int, patch: tuple[int, str], gives_up: bool, command: str | None
) -> None:
    server: Any = Server()
    one = entry(bytes(100), command)
    path = tmp_path / "r.npz"
    path.write_bytes(bytes(100))
    server.head_answers[one.name] = head
    server.patch_answers[one.name] = patch
    upload = ResumableUpload(server, CaptureConfig(), SystemClock(), tmp_path / "state", threading.Event())
    if not gives_up:
        assert upload.send(one, path) is False
        return
    with pytest.raises(AgentError) as caught:
        upload.send(one, path)
    assert caught.value.code == "capture.upload"
    assert str(patch[0]) in caught.value.message


def test_a_recording_that_is_lost_is_given_up_and_one_that_cannot_be_read_now_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Any = Server()
    upload = ResumableUpload(server, CaptureConfig(), SystemClock(), tmp_path / "state", threading.Event())
    path = tmp_path / "r.npz"
    with pytest.raises(AgentError, match="no longer on the disk"):
        upload.send(entry(bytes(100)), path)
    path.write_bytes(bytes(50))
    with pytest.raises(AgentError, match="shorter"):
        upload.send(entry(bytes(100)), path)
    server.resumable = False
    with pytest.raises(AgentError, match="shorter"):
        upload.send(entry(bytes(100)), path)

    def busy(*_: Any, **__: Any) -> Any:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(Path, "open", busy)
    assert upload.send(entry(bytes(100)), path) is False


def test_one_bad_upload_holds_up_no_other_and_a_proxy_costs_nothing(rig: Rig) -> None:
    names = [f"auto-{number}" for number in range(5)]
    for name in names:
        rig.captures._recorder._write(RecordingJob(name, "main", SPEC, windows(3), "alert", first_window=0))
    rig.server.head_answers = dict.fromkeys(names, 404)  # a proxy that knows no such page
    rig.server.patch_answers = dict.fromkeys(names, (404, ""))
    rig.captures.start()
    until(lambda: set(rig.server.asked) == set(names))
    assert rig.server.asked[:5] == names
    assert rig.waiting() == names
    rig.server.head_answers = {names[0]: 500}  # the fleet is back, and one of them breaks it
    rig.server.patch_answers = {}
    until(lambda: rig.waiting() == names[:1])
    assert rig.codes() == dict.fromkeys(names[1:], "")
    rig.server.head_answers = {}
    until(lambda: rig.waiting() == [])
    assert rig.codes() == dict.fromkeys(names, "")


def test_a_server_without_pieces_gets_no_more_a_second_either(tmp_path: Path) -> None:
    clock, server = Clock(), Server()
    server.resumable = False
    waited: list[float] = []

    class Stopping:
        def is_set(self) -> bool:
            return False

        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            clock.seconds += seconds
            return False

    content = np.random.default_rng(1).bytes(10_000)
    path = tmp_path / "r.npz"
    path.write_bytes(content)
    config = CaptureConfig(bytes_per_second=1024.0, piece_kb=1)
    anything: Callable[[object], Any] = lambda value: value  # noqa: E731  # fakes of what ResumableUpload takes
    upload = ResumableUpload(anything(server), config, clock, tmp_path / "state", anything(Stopping()))
    assert upload.send(entry(content), path) is True
    assert b"".join(server.put) == content
    assert sum(waited) == pytest.approx((10_000 - 1024) / 1024)
