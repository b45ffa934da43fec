"""The fleet's Debian package in a bare system: installed, given keys, run, beside the agent's, and purged."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.packaging.roots import DebianRoot, debian_root, need_tools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STATE = "/var/lib/wheeltapper-fleet"
AS_SERVICE = ("runuser", "-u", "wheeltapper-fleet", "--")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRoot]:
    need_tools("debootstrap", "dpkg-deb")
    with debian_root("amd64", tmp_path_factory.mktemp("fleet-amd64") / "root", ("python3",)) as made:
        yield made


def _ours(paths: set[str]) -> set[str]:
    """What installing a package leaves in any case: dpkg's own records, and backups of the user files."""
    expected = re.compile(r"var/(lib/dpkg|log)/.*|etc/(passwd|shadow|group|gshadow)-|etc/\.pwd\.lock|tmp/.*|dev/.*")
    return {path for path in paths if not expected.fullmatch(path)}


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return found


def _serves(root: DebianRoot) -> None:
    """The service as the unit starts it answers, with the broker that came along."""
    unit = (root.path / "usr/lib/systemd/system/wheeltapper-fleet.service").read_text()
    line = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0].split()
    ports = _free_ports(3)
    for name, port in zip(("--admin-port", "--device-port", "--mqtt-port"), ports, strict=True):
        line += [name, str(port)]
    process = subprocess.Popen(
        root.line(*line, user="wheeltapper-fleet"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            try:
                answer = httpx.get(f"http://127.0.0.1:{ports[0]}/readyz", timeout=5.0)
            except httpx.HTTPError:
                time.sleep(0.5)
                continue
            if answer.status_code == httpx.codes.OK:
                break
            time.sleep(0.5)
        assert answer.json() == {"ready": True, "failing": []}
        with socket.create_connection(("127.0.0.1", ports[2]), timeout=10):
            pass
        said = root.run(*AS_SERVICE, "wheeltapper", "device", "list", "--data-dir", STATE, "--json")
        assert said.strip() == "[]"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_whole_life_of_the_package(root: DebianRoot, package: Callable[..., Path]) -> None:
    before = root.files()
    users = (root.path / "etc/passwd").read_text()
    shutil.copyfile(package("amd64", "fleet"), root.path / "tmp/fleet.deb")
    said = root.run("dpkg", "--install", "/tmp/fleet.deb", offline=True)
    assert "has no keys yet" in said
    assert root.run("id", "-un", "wheeltapper-fleet").strip() == "wheeltapper-fleet"
    assert stat.S_IMODE((root.path / STATE[1:]).stat().st_mode) == 0o750
    settings = root.path / "etc/wheeltapper/fleet.toml"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    told = [line.strip() for line in said.splitlines() if "keys init" in line]
    root.run("sh", "-c", f"cd {STATE} && {told[0]}")
    assert stat.S_IMODE((root.path / STATE[1:] / "keys/director.pem").stat().st_mode) == 0o600
    _serves(root)
    settings.write_text(settings.read_text() + '\nlog_format = "json"\n')
    assert "no keys yet" not in root.run("dpkg", "--install", "/tmp/fleet.deb", offline=True)  # an upgrade
    assert 'log_format = "json"' in settings.read_text()
    _beside_an_agent(root, package, settings)
    root.run("dpkg", "--remove", "wheeltapper-fleet", offline=True)
    assert not (root.path / "usr/lib/wheeltapper-fleet").exists()
    assert settings.exists()
    assert (root.path / STATE[1:] / "keys/director.pem").exists()
    root.run("dpkg", "--purge", "wheeltapper-fleet", offline=True)
    assert _ours(root.files() - before) == set()
    assert (root.path / "etc/passwd").read_text() == users
    assert "wheeltapper" not in (root.path / "etc/group").read_text()


def _beside_an_agent(root: DebianRoot, package: Callable[..., Path], settings: Path) -> None:
    """Both packages may be on one machine: purging the agent's leaves the service's settings."""
    shutil.copyfile(package("amd64"), root.path / "tmp/agent.deb")
    root.run("dpkg", "--install", "/tmp/agent.deb", offline=True)
    root.run("dpkg", "--purge", "wheeltapper-agent", offline=True)
    assert settings.exists()
    assert sorted(path.name for path in settings.parent.iterdir()) == ["fleet.toml"]


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    unit = (
        Path(__file__).resolve().parents[2] / "packaging/debian-fleet/usr/lib/systemd/system/wheeltapper-fleet.service"
    )
    need_tools("systemd-analyze")
    text = unit.read_text(encoding="utf-8").replace("/usr/bin/wheeltapper ", "/bin/true ")
    copy = tmp_path / unit.name
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
