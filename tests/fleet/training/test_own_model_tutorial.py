"""The tutorial docs/learning/own-model.md, followed line by line: its Python, then its commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fleet.training.own_models import write_machines
from tests.fleet.training.test_own_model import Run, run
from wheeltapper_protocols.manifest.manifest import decode_manifest

__all__ = ["run"]

PAGE = Path(__file__).resolve().parents[3] / "docs/learning/own-model.md"


def blocks(section: str, language: str) -> list[str]:
    """The blocks of code below a heading, up to the next one."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(section)}$(.*?)(?=^#+ )", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, section
    return re.findall(rf"^```{language}\n(.*?)^```$", found[1], flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the tutorial: recordings to train on, and fresh ones of other machines."""
    for place, first in (("recordings", 0), ("fresh", 1000)):
        for number, kind in enumerate(("normal", "inner")):
            write_machines(tmp_path / place / kind, kind, first=first + 100 * number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(run: Run, section: str) -> None:
    """Run the commands of a section that are of `wheeltapper bundle`."""
    for block in blocks(section, "sh"):
        for line in block.splitlines():
            program, group, *arguments = shlex.split(line)
            assert (program, group) == ("wheeltapper", "bundle")
            code, _, err = run(*arguments)
            assert code == 0, err


def exporter(section: str) -> None:
    """Run the Python of a section, which leaves a model behind."""
    (code,) = blocks(section, "python")
    exec(compile(code, section, "exec"), {})  # the page is ours


def bundled(run: Run, folder: Path, section: str, model: str, check: Callable[[], None] = lambda: None) -> None:
    follow(run, "Train on what devices compute")
    exporter(section)
    check()
    if section == "scikit-learn":
        follow(run, section)
    else:
        data = ("--data", "normal=fresh/normal", "--data", "inner=fresh/inner", "--scaling", "features.npz")
        code, _, err = run("init", "--model", model, *data, "--classes", "inner,normal", "--out", "bundle")
        assert code == 0, err
    manifest = decode_manifest((folder / "bundle" / "manifest.json").read_bytes())
    assert (manifest.task, len(manifest.features) > 5) == ("classification", True)
    assert all(gate.passed for gate in manifest.gates)


def test_scikit_learn(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled(run, folder, "scikit-learn", "model.onnx", check=lambda: _says(capsys, "inner,normal\n"))


def _says(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert capsys.readouterr().out.endswith(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "model", "libraries"),
    [
        ("PyTorch", "model.onnx", ("torch", "onnxscript")),
        ("Keras", "model.tflite", ("tensorflow",)),
        ("XGBoost", "model.onnx", ("xgboost", "onnxmltools")),
    ],
)
def test_other_exporters(run: Run, folder: Path, section: str, model: str, libraries: tuple[str, ...]) -> None:
    if missing := [name for name in libraries if find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install it to follow this section")
    bundled(run, folder, section, model)
