"""The Debian package in a bare system without network: installed, used, upgraded, removed, purged; nothing is left."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.roots import DebianRoot, checked, debian_root, need_tools
from wheeltapper_agent.model.score_recording import score_recording

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAME = "wheeltapper-agent"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRoot]:
    need_tools("debootstrap", "dpkg-deb")
    with debian_root("amd64", tmp_path_factory.mktemp("amd64") / "root", ("python3",)) as made:
        yield made


def _ours(paths: set[str]) -> set[str]:
    """What installing a package leaves in any case: dpkg's own records, and backups of the user files."""
    expected = re.compile(
        r"var/(lib/dpkg|log)/.*|etc/(passwd|shadow|group|gshadow)-|etc/\.pwd\.lock|tmp/.*|.*__pycache__.*"
    )
    return {path for path in paths if not expected.fullmatch(path)}


def test_the_whole_life_of_the_package(
    root: DebianRoot, package: Callable[[str], Path], release: Path, recording: Path
) -> None:
    before = root.files()
    users = (root.path / "etc/passwd").read_text()
    deb = package("amd64")
    shutil.copyfile(deb, root.path / "tmp/agent.deb")
    root.run("dpkg", "--install", "/tmp/agent.deb", offline=True)
    _is_installed(root)
    _doctor_and_replay(root, release, recording)
    config = root.path / "etc/wheeltapper/agent.toml"
    config.write_text(config.read_text().replace("x86-gateway", "revpi-connect"))
    said = root.run("dpkg", "--install", "/tmp/agent.deb", offline=True)  # an upgrade
    assert "kept: /etc/wheeltapper/agent.toml" in said
    assert "revpi-connect" in config.read_text()
    assert "MemoryMax=384M" in (root.path / "etc/systemd/system/wheeltapper-agent.service").read_text()
    root.run("dpkg", "--remove", NAME, offline=True)
    assert not (root.path / "etc/systemd/system/wheeltapper-agent.service").exists()
    assert not (root.path / "usr/lib/wheeltapper-agent").exists()
    assert config.exists()
    assert (root.path / "var/lib/wheeltapper").exists()
    root.run("dpkg", "--purge", NAME, offline=True)
    assert _ours(root.files() - before) == set()
    assert (root.path / "etc/passwd").read_text() == users
    assert "wheeltapper" not in (root.path / "etc/group").read_text()
    assert root.run("dpkg-query", "--show", "--showformat", "${Package}\n").find(NAME) < 0


def _is_installed(root: DebianRoot) -> None:
    unit = (root.path / "etc/systemd/system/wheeltapper-agent.service").read_text()
    assert "ExecStart=/usr/bin/wheeltapper-agent run --config /etc/wheeltapper/agent.toml\n" in unit
    assert "MemoryMax=1024M\n" in unit
    assert stat.S_IMODE((root.path / "var/lib/wheeltapper").stat().st_mode) == 0o750
    assert root.run("id", "-un", "wheeltapper").strip() == "wheeltapper"
    # Byte code came along, and fits: a first start writes nothing.
    package = root.path / "usr/lib/wheeltapper-agent/lib/python3.11/site-packages/wheeltapper_agent"
    listed = {path.name for path in (package / "__pycache__").iterdir()}
    assert "service.cpython-311.pyc" in listed
    root.run("wheeltapper-agent", "profiles")
    assert {path.name for path in (package / "__pycache__").iterdir()} == listed
    # Whoever starts it cannot slip other code in.
    (root.path / "tmp/typer.py").write_text("raise SystemExit('planted')")
    line = root.line("sh", "-c", "cd /tmp && PYTHONPATH=/tmp wheeltapper-agent profiles")
    assert "planted" not in checked(*line)


def _doctor_and_replay(root: DebianRoot, release: Path, recording: Path) -> None:
    said = root.run("wheeltapper-agent", "doctor", "--config", "/etc/wheeltapper/agent.toml", "--json", code=3)
    checks: dict[str, Any] = {check["check"]: check for check in json.loads(said)["checks"]}
    assert checks["runtime.onnx"]["found"] == "uses CPUExecutionProvider of onnxruntime"
    assert checks["runtime.tflite"]["found"] == "uses XNNPACK of ai-edge-litert"
    assert checks["disk"]["verdict"] == "ok"
    assert [name for name, check in checks.items() if check["verdict"] == "FAIL"] == ["certificate"]  # not enrolled yet
    shutil.copytree(release, root.path / "tmp/bundle")
    shutil.copyfile(recording, root.path / "tmp/recording.npz")
    root.run("chmod", "-R", "a+rX", "/tmp/bundle", "/tmp/recording.npz")
    line = ("wheeltapper-agent", "replay", "--bundle", "/tmp/bundle", "--recording", "/tmp/recording.npz", "--json")
    rows = [json.loads(row) for row in root.run(*line, user="wheeltapper", offline=True).splitlines()]
    assert [row["score"] for row in rows] == pytest.approx(
        [row["score"] for row in score_recording(release, recording)], rel=1e-6
    )


def test_an_unknown_board_is_asked_for(root: DebianRoot, package: Callable[[str], Path]) -> None:
    """The package goes in all the same; the rest is one command."""
    shutil.copyfile(package("amd64"), root.path / "tmp/agent.deb")
    line = root.line(
        "sh", "-c", "WHEELTAPPER_PROFILE=cray-1 dpkg --install /tmp/agent.deb || dpkg --purge wheeltapper-agent"
    )
    assert "config.profile" in checked(*line)
    assert not (root.path / "etc/wheeltapper").exists()


def test_the_same_sources_make_the_same_package(package: Callable[[str], Path], tmp_path: Path) -> None:
    listed = checked("dpkg-deb", "--contents", str(package("amd64")))
    owners = {line.split()[1] for line in listed.splitlines()}
    assert owners == {"root/root"}
    assert not re.search(r"site-packages/(pip|setuptools|scipy|pandas|sklearn|river|wheeltapper_fleet)/", listed)
    fields = checked("dpkg-deb", "--field", str(package("amd64")), "Depends")
    assert "python3.11" in fields
    times = {" ".join(line.split()[3:5]) for line in listed.splitlines()}
    assert len(times) == 1
