"""The command line in processes of its own, against a real service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from wheeltapper_fleet.training.bundles import break_golden
from wheeltapper_protocols.signal.recording import Recording, write_recording

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("WHEELTAPPER")},
    "PYTHONPATH": os.pathsep.join(str(ROOT / part / "src") for part in ("protocols", "agent", "fleet")),
    "NO_COLOR": "1",
}
COMMAND = (sys.executable, "-m", "wheeltapper_fleet")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(data_dir: Path) -> subprocess.Popen[bytes]:
    options = ["--data-dir", str(data_dir), "--admin-port", "0", "--device-port", "0", "--mqtt-port", "0"]
    process = subprocess.Popen([*COMMAND, "serve", *options], env=ENVIRONMENT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 40
    while served(data_dir).get("pid") != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1].decode())
        time.sleep(0.05)
    return process


def served(data_dir: Path) -> dict[str, object]:
    """What a service says of itself; nothing while it has not written that, or has removed what was there before."""
    try:
        value: dict[str, object] = json.loads((data_dir / "serve.json").read_text())
    except FileNotFoundError:
        return {}
    return value


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("fleet")
    made = run("keys", "init", "--keys-dir", str(base / "keys"), "--data-dir", str(base / "data"), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["models"] == ["bearing-anomaly"]
    return base / "keys", base / "data"


@pytest.fixture(scope="module")
def data_dir(folders: tuple[Path, Path]) -> Iterator[Path]:
    process = start(folders[1])
    yield folders[1]
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not (folders[1] / "serve.json").exists()


def test_failures_are_one_line_with_an_exit_code(tmp_path: Path) -> None:
    found = run("device", "list", "--data-dir", str(tmp_path))
    assert found.returncode == 1
    assert found.stdout == ""
    assert "client.not_running" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    down = run("device", "list", WHEELTAPPER_URL="http://127.0.0.1:1", WHEELTAPPER_API_TOKEN="x")
    assert (down.returncode, "client.unreachable" in down.stderr) == (1, True)
    assert run("device", "list", "--nonsense").returncode == 2
    assert run("serve", "--data-dir", str(tmp_path / "x"), "--admin-host", "0.0.0.0").returncode == 2


def test_serve_looks_for_keys_before_it_takes_a_port_or_makes_a_folder(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        ports = ("--admin-port", port, "--device-port", port, "--mqtt-port", port)
        refused = run("serve", "--data-dir", str(tmp_path / "y"), *ports)
    assert (refused.returncode, "keys init" in refused.stderr, "[ca.missing]" in refused.stderr) == (2, True, True)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_heavy_library() -> None:
    assert run("--help").returncode == 0
    text = "import sys, wheeltapper_fleet.cli.app\n"
    text += "print([m for m in ('fastapi', 'sqlalchemy', 'numpy', 'httpx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_of_tokens_devices_and_campaigns(data_dir: Path, tmp_path: Path) -> None:
    here = ("--data-dir", str(data_dir))
    made = run("device", "token", "press-1", "--tag", "site=hall", *here, "--json")
    assert json.loads(made.stdout)["token"].startswith("wt1.press-1.")
    plain = run("device", "token", "press-2", *here)
    assert plain.stdout.startswith("wt1.press-2.")
    assert run("device", "token", "Press", *here).returncode == 2
    assert run("device", "token", "press-3", "--tag", "x", *here).returncode == 2
    for group in (("device",), ("release",), ("campaign",), ("device", "capture")):
        listed = run(*group, "list", *here, "--json")
        found = [] if group != ("device",) else [("press-1", "pending"), ("press-2", "pending")]
        assert (listed.returncode, [(each["id"], each["state"]) for each in json.loads(listed.stdout)]) == (0, found)
        assert run(*group, "list", *here).returncode == 0
    unknown = run("device", "show", "nobody", *here)
    assert (unknown.returncode, "[device.not_found]" in unknown.stderr) == (1, True)
    (tmp_path / "spec.json").write_text('{"model": "bearing-anomaly", "release": 1}')
    refused = run("campaign", "create", "--spec", str(tmp_path / "spec.json"), *here)
    assert (refused.returncode, "[release.not_found]" in refused.stderr) == (1, True)
    (tmp_path / "spec.json").write_text("[" * 100_000)
    assert run("campaign", "create", "--spec", str(tmp_path / "spec.json"), *here).returncode == 2
    again = run("serve", *here, "--admin-port", "0", "--device-port", "0", "--mqtt-port", "0")
    assert (again.returncode, "[serve.running]" in again.stderr) == (1, True)
    health = httpx.get(f"{served(data_dir)['admin_url']}/healthz", trust_env=False)
    assert (health.json()["ok"], health.json()["failing"], health.json()["ending"]) == (True, [], [])


def test_the_service_starts_again_after_sigkill_and_leaves_no_child(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "data"
    assert run("keys", "init", "--keys-dir", str(tmp_path / "keys"), "--data-dir", str(other)).returncode == 0
    process = start(other)
    children = psutil.Process(process.pid).children(recursive=True)
    token = (other / "api-token").read_text()
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    process = start(other)
    children = psutil.Process(process.pid).children(recursive=True)
    assert (other / "api-token").read_text() == token
    assert run("device", "list", "--data-dir", str(other)).returncode == 0
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0
    psutil.wait_procs(children, timeout=5)
    assert not any(child.is_running() for child in children)


def test_from_recording_to_published_release(folders: tuple[Path, Path], data_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    recording = Recording(
        samples=rng.normal(0, 1, (400, 1024, 1)).astype(np.float32),
        scale=np.ones(1),
        sample_rate_hz=2048.0,
        t_s=np.arange(400.0),
        channels=("vibration",),
        units=("g",),
        meta={},
    )
    write_recording(recording, tmp_path / "healthy.npz")
    bundle, here = tmp_path / "bundle", ("--data-dir", str(data_dir))
    source = ("--recording", str(tmp_path / "healthy.npz"))
    made = run("train", "anomaly", *source, "--healthy-fraction", "1", "--out", str(bundle), "--json")
    assert made.returncode == 0, made.stderr
    assert all(gate["passed"] for gate in json.loads(made.stdout)["gates"])
    missing = run("train", "anomaly", "--recording", str(tmp_path / "no.npz"), "--out", str(tmp_path / "b2"))
    assert missing.returncode in (1, 2)
    assert "Traceback" not in missing.stderr
    key = str(folders[0] / "team-bearing-anomaly.pem")
    for number in (1, 2):
        published = run("release", "publish", "--bundle", str(bundle), "--key", key, *here, "--json")
        assert published.returncode == 0, published.stderr
        assert json.loads(published.stdout)["release"] == number
        assert json.loads(published.stdout)["self_tested"] is True
    foreign = run("release", "publish", "--bundle", str(bundle), "--key", str(folders[0] / "root-1.pem"), *here)
    assert foreign.returncode != 0
    assert "Traceback" not in foreign.stderr
    break_golden(bundle)  # well-formed, and no device would take it
    broken = run("release", "publish", "--bundle", str(bundle), "--key", key, *here)
    assert (broken.returncode, "[self_test." in broken.stderr) == (2, True), broken.stderr
    assert run("release", "verify", "bearing-anomaly", "2", *here).returncode == 0
    assert "[release.not_found]" in run("release", "verify", "bearing-anomaly", "3", *here).stderr
    assert len(json.loads(run("release", "list", *here, "--json").stdout)) == 2
