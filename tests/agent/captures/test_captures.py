"""Captures with a disk, a spool or a server that refuse: what is kept, reported, uploaded, and the memory it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.captures.kit import SPEC, WINDOW_BYTES, Rig, windows
from tests.agent.servers import until
from wheeltapper_agent.captures import uploader
from wheeltapper_agent.captures.recorder import RecordingJob
from wheeltapper_agent.ground.profile import load_profile, profile_names
from wheeltapper_agent.pipeline.observation import Observation


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "_MAX_RETRY_SECONDS", 0.3)
    logging.getLogger("wheeltapper_agent.captures").setLevel(logging.CRITICAL)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.captures.stop()


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_every_board_can_record_what_it_may_keep(name: str) -> None:
    profile = load_profile(name)
    assert profile.capture_max_mb <= profile.memory_cap_mb // 4


def test_a_command_beyond_the_memory_cap_is_refused_and_one_that_finds_it_in_use_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_memory_bytes=10 * WINDOW_BYTES)
    rig.take("c-1", 11)
    assert rig.codes() == {"c-1": "capture.memory"}
    assert "11 windows are 440 bytes" in rig.records.bodies[0].detail
    rig.take("c-2", 30_000)
    assert rig.codes()["c-2"] == "capture.too_large"
    rig.pipeline.waiting = []
    rig.take("c-3", 6)
    rig.take("c-4", 6)
    assert len(rig.pipeline.waiting) == 1
    assert set(rig.codes()) == {"c-1", "c-2"}
    rules = rig.captures.rules("main", SPEC)
    assert rules is not None
    for index in range(6):  # recordings by rule share it: two find room, the third does not
        rules.observe(Observation("main", index, windows(6)[index], None))
    assert rules.dropped == 1
    rig.captures.start()
    rig.pipeline.waiting[0].on_end(windows(6))
    until(lambda: rig.codes().get("c-3") == "")
    until(lambda: rig.captures._memory.reserved_bytes == 0)
    rig.take("c-4", 6)
    assert len(rig.pipeline.waiting) == 2
    rig.captures.stop()


def test_a_command_on_a_silent_source_gives_its_memory_back_when_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "_IDLE_SECONDS", 0.1)
    rig = Rig(tmp_path, max_memory_bytes=10 * WINDOW_BYTES)
    rig.pipeline.waiting = []
    rig.captures.start()
    rig.take("c-1", 6, expires_at=time.time() + 1.0)
    rig.pipeline.waiting[0].windows.append(windows(1)[0])
    rig.take("c-2", 6)
    assert len(rig.pipeline.waiting) == 1
    until(lambda: rig.codes() == {"c-1": "capture.expired"})
    assert "1 of 6 windows" in rig.records.bodies[0].detail
    until(lambda: rig.captures._memory.reserved_bytes == 0)
    rig.take("c-2", 6)
    assert len(rig.pipeline.waiting) == 1
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


def test_dropped_recordings_are_reported_even_if_the_new_one_is_not_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.server.away = True
    job = RecordingJob("auto-1", "main", SPEC, windows(3), "alert", first_window=0)
    rig.captures._recorder._write(job)
    (kept,) = rig.captures._folder.entries()
    rig.captures._folder._max_bytes = kept.length * 3 // 2  # room for one

    def full(*_: Any) -> None:
        raise OSError(5, "the card is gone")

    monkeypatch.setattr("wheeltapper_agent.captures.pending.write_atomic", full)
    rig.captures._recorder._jobs.put(RecordingJob("auto-2", "main", SPEC, windows(3), "alert", first_window=0))
    assert rig.captures._recorder._places_by_rule.acquire(blocking=False)
    rig.captures.start()
    until(lambda: len(rig.records.bodies) == 2)
    assert rig.codes() == {"auto-1": "capture.dropped", "auto-2": "storage.failed"}
    assert rig.captures.figures()["dropped"] == 2


# --- no room ------------------------------------------------------------------------------------------------


def test_recordings_by_rule_without_room_are_counted_and_reported(rig: Rig) -> None:
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


def test_a_failing_upload_holds_up_no_other_and_a_proxy_loses_no_recording(rig: Rig) -> None:
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
