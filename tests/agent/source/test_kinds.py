"""Kinds of sources: our own, lazily; another distribution's, really installed; what is missing, and what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.agent.source.rig import RunningSource, open_source
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.kinds import BUILT_IN, SOURCES_GROUP, known_kinds, source_kind

ROOT = Path(__file__).resolve().parents[3]
MODULE = '''
"""A source of another maker."""
import dataclasses, threading
from typing import Literal
import numpy as np
from wheeltapper_agent.ports import SourceKind, SourceSpec, Window

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    kind: Literal["cheese"] = "cheese"
    level: float
    holes: tuple[int, ...] = ()

class Cheese:
    state, dropped = "running", 0
    def __init__(self, config, context):
        self.config, self.context = config, context
        self.spec = SourceSpec(10.0, 4, ("x",), ("g",))
    def windows(self, first):
        for index in range(first, 3):
            yield Window(np.full((4, 1), self.config.level, np.float32), float(index))
    def model_ready(self): ...
    def close(self): ...

KIND = SourceKind(Config, Cheese)
NOT_A_KIND = 3

@dataclasses.dataclass
class NotFrozen:
    kind: str = "thawed"

@dataclasses.dataclass(frozen=True)
class WithoutKind:
    level: float = 1.0

THAWED, NAMELESS = SourceKind(NotFrozen, Cheese), SourceKind(WithoutKind, Cheese)
'''


def _install(folder: Path, name: str, *points: str) -> None:
    """A distribution as pip leaves it: a module and a dist-info folder."""
    (folder / "cheese_source.py").write_text(MODULE)
    (folder / "broken_source.py").write_text("raise RuntimeError('broken')")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[wheeltapper.sources]", *points]) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_another_distribution_brings_a_kind(tmp_path: Path, site: Path) -> None:
    _install(site, "cheese", "cheese = cheese_source:KIND")
    assert "cheese" in known_kinds()
    with RunningSource(open_source(tmp_path, "kind = 'cheese'\nlevel = 3\nholes = [1, 2]")) as taken:
        assert [float(window.samples[0, 0]) for window in taken.until(3)] == [3, 3, 3]
    for text, code in (("level = 'x'", "config.invalid"), ("", "config.missing_key"), ("x = 1", "config.unknown_key")):
        with pytest.raises(AgentError) as refused:
            open_source(tmp_path, f"kind = 'cheese'\n{text}")
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("point", "code", "says"),
    [
        ("cheese_source:NOT_A_KIND", "source.plugin", "not a SourceKind"),
        ("cheese_source:THAWED", "source.plugin", "frozen"),
        ("cheese_source:NAMELESS", "source.plugin", "kind"),
        ("cheese_source:NOTHING", "source.plugin", "NOTHING"),
        ("broken_source:KIND", "source.plugin", "broken"),
        ("missing_source:KIND", "source.extra", "missing_source"),
    ],
)
def test_a_broken_plug_in_has_a_code_and_is_named(site: Path, point: str, code: str, says: str) -> None:
    _install(site, "dist-of-it", f"strange = {point}")
    with pytest.raises(AgentError) as refused:
        source_kind("strange")
    assert refused.value.code == code
    assert says in refused.value.message
    assert "dist-of-it" in refused.value.message or says in ("not a SourceKind", "frozen", "kind")


def test_two_distributions_of_one_kind_are_refused_and_none_takes_ours(site: Path) -> None:
    _install(site, "first", "cheese = cheese_source:KIND", "mqtt = cheese_source:KIND")
    _install(site, "second", "cheese = cheese_source:THAWED")
    with pytest.raises(AgentError) as refused:
        source_kind("cheese")
    assert refused.value.code == "config.invalid"
    assert "first" in refused.value.message
    assert "second" in refused.value.message
    assert source_kind("mqtt").config.__name__ == "MqttConfig"


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    for kind in ("'cheese'", "3", "['mqtt']"):
        with pytest.raises(AgentError) as refused:
            open_source(tmp_path, f"kind = {kind}")
        assert refused.value.code == "config.invalid"
        assert all(name in refused.value.message for name in BUILT_IN)


def test_our_own_are_declared_as_entry_points() -> None:
    declared = tomllib.loads((ROOT / "agent/pyproject.toml").read_text())["project"]["entry-points"][SOURCES_GROUP]
    assert declared == BUILT_IN
    for kind in BUILT_IN:
        assert source_kind(kind).config.__name__.lower() == f"{kind}config"


@pytest.mark.parametrize("kind", ["simulator", "mqtt", "stdin", "iio", "replay"])
def test_only_what_is_configured_is_imported(kind: str) -> None:
    program = (
        "import json, sys\nfrom wheeltapper_agent import service\nfrom wheeltapper_agent.source import kinds\n"
        f"kinds.source_kind({kind!r})\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    imported = set(json.loads(done.stdout))
    assert not imported & {"pymodbus", "asyncua", "pyarrow", "pandas", "scipy"}
    ours = {name for name in BUILT_IN if f"wheeltapper_agent.source.{name}" in imported}
    assert ours == {kind}


@pytest.mark.parametrize(("kind", "library"), [("modbus", "pymodbus"), ("opcua", "asyncua"), ("parquet", "pyarrow")])
def test_a_missing_library_names_the_extra(tmp_path: Path, kind: str, library: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    source = {
        "modbus": 'kind = "modbus"',
        "opcua": 'kind = "opcua"',
        "parquet": 'kind = "replay"\npath = "a.parquet"\nsample_rate_hz = 1\nwindow_samples = 1',
    }[kind]
    text = f'[device]\nstate_dir = "s"\n[[pipelines]]\nname = "main"\n[pipelines.source]\n{source}\n'
    (tmp_path / "a.toml").write_text(text)
    program = (
        f"import sys\nsys.modules[{library!r}] = None\nfrom pathlib import Path\n"
        "from wheeltapper_agent.config import load_config\nfrom wheeltapper_agent.source.opening import make_source\n"
        "from wheeltapper_agent.ground.system_clock import SystemClock\n"
        f"path = Path({str(tmp_path / 'a.toml')!r})\n"
        "try:\n    make_source('main', load_config(path).pipelines[0].source, path.parent, SystemClock())\n"
        "except Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'wheeltapper-agent[{kind}]'" in done.stdout
    assert "[source.extra]" in done.stdout


def test_standard_input_is_for_one_pipeline(tmp_path: Path) -> None:
    one = '[[pipelines]]\nname = "{}"\nsource = {{ kind = "stdin", sample_rate_hz = 1, window_samples = 1 }}\n'
    (tmp_path / "a.toml").write_text('[device]\nstate_dir = "s"\n' + one.format("a") + one.format("b"))
    with pytest.raises(AgentError) as refused:
        load_config(tmp_path / "a.toml")
    assert refused.value.code == "config.invalid"
