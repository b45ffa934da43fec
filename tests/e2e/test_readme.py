"""The lines of README's "By hand" and of the tutorial with a CSV, as they stand there, each in one shell."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agent.servers import free_port
from wheeltapper_fleet.client.fleet_client import FleetClient, find_fleet
from wheeltapper_fleet.demo.stage import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
MADE_BY_HAND = ("Makefile", "constraints.txt", "pyproject.toml", "README.md", ".gitignore")


def lines() -> list[str]:
    """The lines of the block, without comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## By hand\n.*?```sh\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    return [line for line in block[1].splitlines() if line.strip()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which ``make setup`` has nothing to do, since this environment is there already."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in (*MADE_BY_HAND, *(f"{part}/pyproject.toml" for part in ("protocols", "agent", "fleet"))):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
    (folder / ".venv/.ready").touch()
    return folder


@contextlib.contextmanager
def typed(folder: Path, typed_lines: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that was given the lines; everything that it started is ended in the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WHEELTAPPER_")}
    ports = {name: str(free_port()) for name in ("ADMIN", "DEVICE", "MQTT")}
    environment |= {f"WHEELTAPPER_{name}_PORT": port for name, port in ports.items()}
    environment["WHEELTAPPER_SERVER"] = f"https://127.0.0.1:{ports['DEVICE']}"
    script = "set -e -o pipefail\n" + "\n".join(typed_lines) + "\necho all done\nwait\n"
    with (folder.parent / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield shell
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(timeout=30)


def test_from_a_clone_to_the_first_alert(clone: Path, tmp_path: Path) -> None:
    assert len(lines()) <= 8
    with typed(clone, lines()) as shell:

        def log() -> str:
            return (tmp_path / "log").read_text(encoding="utf-8", errors="replace")

        def goes_on() -> None:
            assert shell.poll() is None, log()

        wait_for("the last line", lambda: "all done" in log(), 240.0, checks=[goes_on])
        found = find_fleet(clone / "wheeltapper-data")
        with FleetClient(found.url, found.token) as client:

            def alert() -> bool:
                return any(entry["raised"] and entry["device"] == "press-1" for entry in client.alerts())

            wait_for("the alert", alert, 120.0, checks=[goes_on])
        assert "Traceback" not in log()
        assert "error:" not in log()
    private = (clone / "wheeltapper-data", clone / "offline-keys", clone / "wheeltapper-data/fleet.db")
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o700, 0o700, 0o600]


def _write_tables(folder: Path) -> None:
    """A pump that is fine for ten minutes, and one whose tone at 73 Hz grows after fifteen."""
    drawn, rate = np.random.default_rng(1), 200
    t = np.arange(rate * 1200) / rate
    x = np.sin(2 * np.pi * 25 * t) + 0.3 * np.sin(2 * np.pi * 50 * t) + 0.2 * drawn.normal(size=len(t))
    y = 0.5 * np.cos(2 * np.pi * 25 * t) + 0.15 * drawn.normal(size=len(t))
    wear = np.clip((t - 900) / 300, 0, 1) * 1.5 * np.sin(2 * np.pi * 73 * t)
    for name, rows, more in (("healthy.csv", rate * 600, 0.0), ("pump.csv", len(t), wear)):
        table = np.stack([t, x + more, y], axis=1)[:rows]
        np.savetxt(folder / name, table, delimiter=",", header="t,x,y", comments="", fmt="%.4f")


def test_from_a_csv_to_a_model_on_a_device(tmp_path: Path) -> None:
    text = (ROOT / "docs/start/csv-to-device.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    tutorial = block.splitlines()
    assert len(tutorial) <= 6
    folder = tmp_path / "work"
    folder.mkdir()
    _write_tables(folder)
    before = {path.name for path in folder.iterdir()}
    assert before == {"healthy.csv", "pump.csv"}
    with typed(folder, [f"PATH={shlex.quote(str(Path(sys.prefix) / 'bin'))}:$PATH", *tutorial]) as shell:

        def log() -> str:
            return (tmp_path / "log").read_text(encoding="utf-8", errors="replace")

        def goes_on() -> None:
            assert shell.poll() is None, log()

        wait_for("the last line", lambda: "all done" in log(), 240.0, checks=[goes_on])
        found = find_fleet(folder / "wheeltapper-data")
        with FleetClient(found.url, found.token) as client:

            def kept() -> bool:
                return [each["state"] for each in client.campaigns()] == ["COMPLETED"]

            def alert() -> bool:
                return any(each["raised"] and each["device"] == "pump-1" for each in client.alerts())

            wait_for("the release", kept, 120.0, checks=[goes_on])
            wait_for("the alert", alert, 120.0, checks=[goes_on])
        assert "Traceback" not in log()
        assert "error:" not in log()


def test_what_the_lines_leave_behind_is_ignored_by_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shutil.copy2(ROOT / ".gitignore", tmp_path / ".gitignore")
    left = [
        *("data/fleet.db", "wheeltapper-data/keys/x.pem", "offline-keys/root-1.pem", "agent-state/identity/device.key"),
        *("agent.toml", "healthy.npz", "bundle/manifest.json", "wheeltapper-data/fleet.db-wal", "fleet.db-shm"),
    ]
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    done = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["??", ".gitignore"]
