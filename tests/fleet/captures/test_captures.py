from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import insert, select

from tests.fleet.trust.world import Killed, World, killed_at, sha256
from wheeltapper_fleet.captures.rules import Capture
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import captures, commands
from wheeltapper_protocols.signal.recording import Recording, read_recording, write_recording
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command


def recording_bytes(snapshots: int = 3, samples: int = 64) -> bytes:
    recording = Recording(
        samples=np.arange(snapshots * samples, dtype=np.int16).reshape(snapshots, samples, 1),
        scale=np.array([0.001]),
        sample_rate_hz=1000.0,
        t_s=np.arange(snapshots, dtype=np.float64),
        channels=("x",),
        units=("g",),
        meta={},
    )
    target = io.BytesIO()
    write_recording(recording, target)
    return target.getvalue()


def ask(world: World, command: str, device: str = "dev-1", *, whole: bool = True, cancel: bool = False) -> None:
    """Put a command into the table, as a whole or as its body."""
    body = CancelCommand(execution="e-1") if cancel else CaptureCommand(pipeline="main", snapshots=3)
    kept: Any = Command(id=command, expires_at=world.clock() + 60, body=body) if whole else body
    row = {
        "id": command,
        "device": device,
        "body": msgspec.to_builtins(kept),
        "created_at": world.clock(),
        "expires_at": world.clock() + 60,
    }
    with world.engine.begin() as connection:
        connection.execute(insert(commands).values(row))


def send(world: World, command: str, content: bytes, *, device: str = "dev-1", digest: str | None = None) -> Capture:
    with world.captures.upload() as upload:
        for start in range(0, len(content), 1000):
            upload.write(content[start : start + 1000])
        return world.captures.accept(device, command, upload, sha256(content) if digest is None else digest)


@pytest.mark.parametrize("whole", [False, True])
def test_accept(world: World, whole: bool) -> None:
    ask(world, "c-1", whole=whole)
    content = recording_bytes()
    kept = send(world, "c-1", content)
    assert (kept.device, kept.pipeline, kept.snapshots, kept.length) == ("dev-1", "main", 3, len(content))
    assert world.captures.path(kept.sha256).read_bytes() == content
    assert read_recording(world.captures.path(kept.sha256)).sample_rate_hz == 1000.0
    world.clock.now += 5
    assert send(world, "c-1", content) == kept
    assert world.stored_captures() == [kept]
    with pytest.raises(FleetError) as caught:
        send(world, "c-1", recording_bytes(4))
    assert caught.value.code == "capture.conflict"


def test_refused_captures_leave_nothing(world: World) -> None:
    ask(world, "c-1")
    ask(world, "c-2", cancel=True)
    good = recording_bytes()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"command": "c-9", "content": good}, "capture.command_unknown"),
        ({"command": "c-1\0", "content": good}, "capture.command_unknown"),
        ({"command": "c-1", "content": good, "device": "dev-2"}, "capture.device_mismatch"),
        ({"command": "c-2", "content": good}, "capture.not_asked"),
        ({"command": "c-1", "content": good, "digest": "0" * 64}, "capture.hash"),
        ({"command": "c-1", "content": good, "digest": ""}, "capture.hash"),
        ({"command": "c-1", "content": b"garbage"}, "capture.invalid"),
        ({"command": "c-1", "content": b""}, "capture.invalid"),
        ({"command": "c-1", "content": good[:-40]}, "capture.invalid"),
        ({"command": "c-1", "content": bytes(2_000_001)}, "capture.too_large"),
    ]
    for arguments, code in cases:
        with pytest.raises(FleetError) as caught:
            send(world, **arguments)
        assert caught.value.code == code
    assert world.stored_captures() == []
    assert not list((world.data_dir / "captures").iterdir())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_at_any_write(world: World, monkeypatch: pytest.MonkeyPatch, nth: int, after: bool) -> None:
    ask(world, "c-1")
    content = recording_bytes()
    with killed_at(monkeypatch, nth, after=after), pytest.raises(Killed):
        send(world, "c-1", content)
    world = world.restart()
    kept = send(world, "c-1", content)
    with world.engine.connect() as connection:
        assert len(connection.execute(select(captures)).all()) == 1
    assert [path.name for path in (world.data_dir / "captures").iterdir()] == [f"{kept.sha256}.npz"]
