"""The upload of one recording, against servers and disks that refuse."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.captures.kit import Server
from tests.agent.spool_kit import Clock
from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.captures.resumable_upload import ResumableUpload
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock


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
def test_a_recording_is_given_up_only_if_the_fleet_itself_refuses_it(
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


def test_a_lost_file_is_given_up_and_one_that_cannot_be_read_now_is_not(
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


def test_the_rate_limit_also_holds_for_a_server_without_partial_uploads(tmp_path: Path) -> None:
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
