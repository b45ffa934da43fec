"""Modules that lie in the working folder, or where other users may write, never run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agent.bundles import make_bundle, write_bundle
from tests.legacy import LEGACY
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host.runtime_checks import check_runtimes
from wheeltapper_agent.model.sandbox import measure_in_child
from wheeltapper_protocols.python_path import child_environment, python_command, trusted_folders

ROOT = Path(__file__).resolve().parents[1]
PLANTED = ("cryptography", "json", "msgspec", "numpy", "onnxruntime", "ai_edge_litert", "sqlite_utils", "tuf", "typer")
FIRST_IMPORTS = {"json"}
"""The standard library's: with an empty entry in PYTHONPATH they run before any code of ours can prevent it."""
CONFIG = """
[device]
state_dir = "state"
profile = "raspberry-pi-4"
[[pipelines]]
name = "main"
[pipelines.source]
kind = "simulator"
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules that note that they ran."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    (folder / "agent.toml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    return folder


def ran(folder: Path) -> str:
    found = folder.parent / "ran"
    return found.read_text() if found.exists() else ""


PROGRAM = "from wheeltapper_agent.__main__ import main; main()"
"""What the installed script ``wheeltapper-agent`` does."""


@pytest.mark.parametrize("empty_entry", [False, True], ids=["plain", "empty-entry"])
@pytest.mark.parametrize("command", ["doctor", "run", "status", "profiles"])
def test_a_command_runs_nothing_of_the_working_folder(planted: Path, command: str, empty_entry: bool) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    if empty_entry:
        path = os.pathsep + path
        for name in FIRST_IMPORTS:
            (planted / f"{name}.py").unlink()
    arguments = [command] if command == "profiles" else [command, "--config", "agent.toml"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran(planted) == ""
    assert "Traceback" not in done.stderr
    assert done.stdout or command in ("run", "status")


@pytest.mark.skipif(LEGACY, reason="the environment of make test-legacy has no fleet service")
def test_the_fleet_s_program_too(planted: Path) -> None:
    (planted / "json.py").unlink()  # see FIRST_IMPORTS
    path = os.pathsep + os.pathsep.join(entry for entry in sys.path if entry)
    line = [sys.executable, "-P", "-c", PROGRAM.replace("agent", "fleet"), "serve", "--help"]
    done = subprocess.run(line, env=os.environ | {"PYTHONPATH": path}, capture_output=True, timeout=60, check=False)
    assert (done.returncode, ran(planted)) == (0, "")


@pytest.mark.parametrize("module", ["wheeltapper_agent", *([] if LEGACY else ["wheeltapper_fleet"])])
def test_as_a_module_too(planted: Path, module: str) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    line = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(line, env=os.environ | {"PYTHONPATH": path}, capture_output=True, timeout=60, check=False)
    assert (done.returncode, ran(planted)) == (0, "")


def test_the_probe_of_a_runtime(planted: Path) -> None:
    check_runtimes(Profile(name="a", runtimes=("onnxruntime", "ai-edge-litert")))
    assert ran(planted) == ""


@pytest.mark.parametrize("entry", ["", ".", "../here"])
def test_the_child_that_tests_a_release(planted: Path, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(entry)
    folder = write_bundle(planted.parent / "release", make_bundle(runtime="tflite"))
    found = measure_in_child(folder, Profile(name="test"), "", 60.0)
    assert found is not None
    assert ran(planted) == ""


def test_who_may_write_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, everybodys, hers = tmp_path / "mine", tmp_path / "everybody", tmp_path / "hers"
    for folder in (mine, everybodys, hers):
        folder.mkdir(mode=0o755)
    everybodys.chmod(0o1777)
    entries = ["", ".", "here", *map(str, (mine, everybodys, hers, tmp_path / "archive.zip")), sys.prefix]
    assert trusted_folders(entries) == [
        str(mine),
        str(everybodys.parent / "hers"),
        str(tmp_path / "archive.zip"),
        sys.prefix,
    ]
    real = os.stat

    def of_another(path: Any, **options: Any) -> os.stat_result:
        found = list(real(path, **options))
        if path == str(hers):
            found[4] = 12345
        return os.stat_result(found)

    monkeypatch.setattr(os, "stat", of_another)
    assert str(hers) not in trusted_folders(entries)
    named = {"PYTHONPATH": os.pathsep.join(entries), "HOME": "/root"}
    assert child_environment(named)["PYTHONPATH"].split(os.pathsep)[0] == str(mine)
    assert child_environment({"PYTHONPATH": ":", "HOME": "/root"}) == {"HOME": "/root"}


def test_an_isolated_process_starts_isolated_ones() -> None:
    assert python_command("x.py") == [sys.executable, "-P", "x.py"]
    code = "from wheeltapper_protocols.python_path import python_command; print(python_command()[1])"
    code = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "-I"


def _unsafe_calls(file: Path) -> list[str]:
    """Places of ``file`` that start this Python with ``-m`` or ``-c`` and neither ``-P`` nor ``-I``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.List | ast.Tuple | ast.Call):
            continue
        parts = node.args if isinstance(node, ast.Call) else node.elts
        texts = [part.value if isinstance(part, ast.Constant) else ast.unparse(part) for part in parts]
        for place, text in enumerate(texts):
            if text == "sys.executable" and texts[place + 1 : place + 2] in (["-m"], ["-c"]):
                found.append(f"{file.name}:{node.lineno}")
    return found


def test_every_python_that_the_product_starts_is_safe() -> None:
    sources = [*ROOT.glob("agent/src/**/*.py"), *ROOT.glob("fleet/src/**/*.py"), *ROOT.glob("packaging/**/*.py")]
    assert len(sources) > 100
    assert [place for file in sources for place in _unsafe_calls(file)] == []
    scripts = [ROOT / "Makefile", *ROOT.glob("packaging/**/*.sh"), *ROOT.glob("packaging/debian/*")]
    unsafe = re.compile(r"python3?\"?\)? +-(m (?!pytest)|c )")
    assert [
        f"{file.name}: {line}" for file in scripts for line in file.read_text().splitlines() if unsafe.search(line)
    ] == []


def test_that_the_search_finds_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import sys\nrun([sys.executable, '-m', 'b'])\nrun(f(sys.executable, '-c', 'b'))\n")
    assert _unsafe_calls(tmp_path / "a.py") == ["a.py:2", "a.py:3"]
