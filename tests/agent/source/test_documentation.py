"""The documentation of the sources: its examples load, and the names that it gives to plug-ins can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from wheeltapper_agent.config import load_config
from wheeltapper_agent.source.kinds import BUILT_IN

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/agent/sources.md").read_text(encoding="utf-8")
EXAMPLES = [text for text in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL) if "entry-points" not in text]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_loads(tmp_path: Path, example: str) -> None:
    head = '[device]\nstate_dir = "state"\n'
    if "[[pipelines]]" not in example:
        head += '[[pipelines]]\nname = "main"\n'
    (tmp_path / "agent.toml").write_text(head + example)
    (pipeline,) = load_config(tmp_path / "agent.toml").pipelines
    assert pipeline.source.kind in BUILT_IN


def test_every_kind_has_an_example_and_every_code_is_explained() -> None:
    kinds = {kind for text in EXAMPLES for kind in re.findall(r'kind = "(\w+)"', text)}
    assert kinds == set(BUILT_IN)
    folder = ROOT / "agent/src/wheeltapper_agent/source"
    code = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    raised = set(re.findall(r'"(source\.\w+)"', code))
    assert raised == set(re.findall(r"`(source\.\w+)`", TEXT))


def test_every_name_for_plug_ins_can_be_imported() -> None:
    named = set(re.findall(r"`(wheeltapper_agent\.[\w.]+)`", TEXT))
    for module, names in re.findall(r"^from (wheeltapper_agent[\w.]*) import (.+)$", TEXT, re.MULTILINE):
        named |= {f"{module}.{name.strip()}" for name in names.split(",")}
    assert {"wheeltapper_agent.ports.StreamSource", "wheeltapper_agent.ports.Clock"} < named
    for path in named:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_names_of_earlier_documentation_are_still_the_same_objects() -> None:
    old = importlib.import_module("wheeltapper_agent.adapters.sources.stream")
    ports = importlib.import_module("wheeltapper_agent.ports")
    assert old.StreamSource is ports.StreamSource
    for name in ("pending_windows", "source_room", "malformed_payloads"):
        assert callable(getattr(ports, name))
