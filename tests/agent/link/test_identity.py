"""Enrolment against a real HTTPS server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic, write_once
from wheeltapper_agent.link.identity import enroll, load_identity, parse_token


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DeviceServer]:
    made = DeviceServer(Authority(tmp_path / "ca"), Repository())
    yield made
    made.close()


def _token(server: DeviceServer, secret: str = "s" * 43, digest: str = "") -> str:
    return f"wt1.device-1.{secret}.{digest or server.authority.sha256}"


def test_enrolment(tmp_path: Path, server: DeviceServer) -> None:
    identity = enroll(server.url, parse_token(_token(server)), tmp_path / "state")
    assert identity == load_identity(tmp_path / "state")
    assert identity.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert identity.root.read_bytes() == server.repository.root
    with pytest.raises(AgentError) as again:
        enroll(server.url, parse_token(_token(server)), tmp_path / "state")
    assert again.value.code == "enrol.already"


@pytest.mark.parametrize(
    ("secret", "digest", "name", "code"),
    [
        ("x" * 43, "", None, "enrol.refused"),
        ("s" * 43, "0" * 64, None, "enrol.ca_mismatch"),
        ("s" * 43, "", "device-2", "enrol.response"),
    ],
)
def test_enrolment_refused(
    tmp_path: Path, server: DeviceServer, secret: str, digest: str, name: str | None, code: str
) -> None:
    server.enrol_name = name
    with pytest.raises(AgentError) as refused:
        enroll(server.url, parse_token(_token(server, secret, digest)), tmp_path / "state")
    assert refused.value.code == code
    assert secret not in str(refused.value)
    with pytest.raises(AgentError):
        load_identity(tmp_path / "state")
    server.enrol_name = None
    enroll(server.url, parse_token(_token(server)), tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nMIGH", b"\0" * 200])
def test_a_key_that_is_damaged_is_told(tmp_path: Path, server: DeviceServer, content: bytes) -> None:
    key = tmp_path / "state/identity/device.key"
    key.parent.mkdir(parents=True)
    key.write_bytes(content)
    with pytest.raises(AgentError) as refused:
        enroll(server.url, parse_token(_token(server)), tmp_path / "state")
    assert refused.value.code == "enrol.key_damaged"
    assert f"{key} is damaged" in refused.value.message
    assert "remove it and enrol again" in refused.value.message
    key.unlink()
    enroll(server.url, parse_token(_token(server)), tmp_path / "state")


@pytest.mark.parametrize("write", [write_once, write_atomic])
def test_a_file_is_whole_or_not_there(
    tmp_path: Path, write: Callable[[Path, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the power fails and whatever the disk refuses: no file is there in part, and no other file is left."""
    path, seen = tmp_path / "device.key", []

    def fsync(_: int) -> None:
        seen.append(path.exists())
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="full"):
            write(path, b"key")
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []
    write(path, b"key")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"key", 0o600)
    with pytest.raises(FileExistsError):
        write_once(path, b"another")
    assert [path] == list(tmp_path.iterdir())
    assert path.read_bytes() == b"key"


@pytest.mark.parametrize("text", ["", "wt1", "wt1.A.b.c", "wt2.device-1." + "s" * 43 + "." + "0" * 64])
def test_made_up_tokens(text: str) -> None:
    with pytest.raises(AgentError) as refused:
        parse_token(text)
    assert refused.value.code == "enrol.token"
