"""The walls between the rooms: who may import whom. Walks the imports of every source file with :mod:`ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "wheeltapper_protocols": ROOT / "protocols/src/wheeltapper_protocols",
    "wheeltapper_agent": ROOT / "agent/src/wheeltapper_agent",
    "wheeltapper_fleet": ROOT / "fleet/src/wheeltapper_fleet",
}
PURE = ["wheeltapper_agent.core", "wheeltapper_fleet.domain"]
IMPURE = {"socket", "sqlite3", "sqlalchemy", "time", "random", "secrets", "threading", "subprocess", "asyncio", "paho"}
IMPURE |= {"urllib3", "httpx", "requests", "os", "shutil", "onnxruntime", "tuf", "uvicorn", "fastapi"}
# What each room of the device and of the fleet may not reach: an outer ring never serves an inner one.
FORBIDDEN = {
    "wheeltapper_protocols": ["wheeltapper_agent", "wheeltapper_fleet"],
    "wheeltapper_agent": ["wheeltapper_fleet"],
    "wheeltapper_agent.core": ["wheeltapper_agent.adapters", "wheeltapper_agent.service", "wheeltapper_agent.cli"],
    "wheeltapper_agent.adapters": ["wheeltapper_agent.service", "wheeltapper_agent.cli"],
    "wheeltapper_fleet": ["wheeltapper_agent"],
    "wheeltapper_fleet.domain": [
        f"wheeltapper_fleet.{room}"
        for room in ("services", "db", "trust", "broker", "api", "ui", "training", "service")
    ],
    "wheeltapper_fleet.services": ["wheeltapper_fleet.api", "wheeltapper_fleet.ui", "wheeltapper_fleet.cli.app"],
    "wheeltapper_fleet.trust": ["wheeltapper_fleet.api", "wheeltapper_fleet.services", "wheeltapper_fleet.cli.app"],
    "wheeltapper_fleet.db": ["wheeltapper_fleet.api", "wheeltapper_fleet.services", "wheeltapper_fleet.broker"],
    "wheeltapper_fleet.api": ["wheeltapper_fleet.cli.app", "wheeltapper_fleet.training"],
    "wheeltapper_fleet.training": ["wheeltapper_fleet.api", "wheeltapper_fleet.db", "wheeltapper_fleet.broker"],
}
DEVICE_NEVER = {"pandas", "scipy", "river", "whylogs", "sklearn", "sqlalchemy", "fastapi", "pydantic", "httpx"}
PICKLING = {"pickle", "dill", "marshal", "shelve", "joblib"}


def sources(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package as (dotted name, file)."""
    top, _, inside = package.partition(".")
    folder = SOURCES[top] / inside.replace(".", "/") if inside else SOURCES[top]
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(SOURCES[top]).with_suffix("").parts
        yield ".".join([top, *(part for part in parts if part != "__init__")]), file


def imported(file: Path) -> set[str]:
    """Every dotted name that a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_rooms_keep_their_walls(package: str) -> None:
    for module, file in sources(package):
        for name in imported(file):
            broken = [other for other in FORBIDDEN[package] if within(name, other)]
            assert not broken, f"{module} imports {name}"


@pytest.mark.parametrize("package", PURE)
def test_the_core_is_pure(package: str) -> None:
    modules = list(sources(package))
    assert modules
    for module, file in modules:
        impure = {name for name in imported(file) if name.split(".")[0] in IMPURE}
        assert not impure, f"{module} imports {sorted(impure)}"


@pytest.mark.parametrize("package", ["wheeltapper_protocols", "wheeltapper_agent"])
def test_nothing_heavy_reaches_the_device(package: str) -> None:
    for module, file in sources(package):
        heavy = {name for name in imported(file) if name.split(".")[0] in DEVICE_NEVER}
        assert not heavy, f"{module} imports {sorted(heavy)}"


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_no_pickle_no_eval_no_shell(package: str) -> None:
    for module, file in sources(package):
        assert not {name for name in imported(file) if name.split(".")[0] in PICKLING}, module
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in {"eval", "exec"}, f"{module}:{node.lineno} calls {called}"
                for keyword in node.keywords:
                    constant = isinstance(keyword.value, ast.Constant) and keyword.value.value
                    assert not (keyword.arg in {"shell", "allow_pickle"} and constant), f"{module}:{node.lineno}"


def test_the_walker_sees_a_planted_import(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f() -> None:\n    from wheeltapper_fleet.db import tables\n", encoding="utf-8")
    assert any(within(name, "wheeltapper_fleet.db") for name in imported(planted))
