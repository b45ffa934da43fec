"""``wheeltapper dataset`` and ``train anomaly --dataset``, as people call them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fleet.learning.rig import vibration
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.learning.datasets.reading import STORE_VARIABLE
from wheeltapper_protocols.signal.recording import Recording, read_recording, write_recording

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command line with the store in ``tmp_path``; gives exit code, standard output, standard error."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))

    def line(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return line


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(4):
        write_recording(vibration(number, machine=f"pump-{number}"), folder / f"{number}.npz")
    return folder


def test_from_files_to_an_export_and_back(run: Run, recordings: Path, tmp_path: Path) -> None:
    sides = ("--split", "train=0.5", "--split", "test=0.5", "--label", "state=healthy", "--condition", "rpm=1500")
    code, out, _ = run("dataset", "import", "pumps", recordings, *sides, "--json")
    made = json.loads(out)
    assert (code, made["new"], made["manifest"]["version"], made["warnings"]) == (0, True, 1, [])
    code, out, _ = run("dataset", "import", "pumps", recordings, *sides)
    assert (code, out) == (0, "nothing changed: pumps@1 is the same\n")
    (tmp_path / "recordings" / "3.npz").unlink()
    assert run("dataset", "import", "pumps", recordings, *sides)[0] == 0
    code, out, _ = run("dataset", "list", "--json")
    (listed,) = json.loads(out)
    assert (listed["name"], listed["version"], listed["versions"], listed["items"]) == ("pumps", 2, 2, 3)
    code, out, _ = run("dataset", "diff", "pumps@1", "pumps@2", "--json")
    difference = json.loads(out)
    assert difference["counts"] == {"added": 0, "removed": 1, "changed": 0, "same": 3}
    assert [entry["machine"] for entry in difference["removed"]] == ["pump-3"]
    code, out, _ = run("dataset", "show", "pumps@1", "--items", "--json")
    items = json.loads(out)["items"]
    assert [item["machine"] for item in items] == [f"pump-{number}" for number in range(4)]
    assert items[0]["condition"] == {"rpm": 1500.0}
    code, out, _ = run("dataset", "export", "pumps@1", "--out", tmp_path / "out", "--json")
    assert json.loads(out) == {"path": str(tmp_path / "out"), "items": 4, "written": 4}
    code, out, _ = run("dataset", "export", "pumps@1", "--out", tmp_path / "out", "--json")
    assert json.loads(out)["written"] == 0
    exported = read_recording(tmp_path / "out" / "data" / "pump-3" / f"{items[3]['sha256']}.npz")
    np.testing.assert_array_equal(exported.samples, vibration(3).samples)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "data", "items.jsonl", "manifest.json", "croissant.json"
    }  # fmt: skip


def test_what_is_shown_to_people(run: Run, recordings: Path) -> None:
    run("dataset", "import", "pumps", recordings, "--machine", "pump\x1b[31m", "--description", "of a rig")
    code, out, _ = run("dataset", "show", "pumps", "--items")
    assert code == 0
    assert "4 items of 1 machines" in out
    assert "of a rig" in out
    assert "14 of 14 checks pass" in out
    assert "\x1b" not in out
    assert "pumps" in run("dataset", "list")[1]


def test_a_check_that_fails_is_exit_code_1(run: Run, recordings: Path, tmp_path: Path) -> None:
    run("dataset", "import", "pumps", recordings)
    assert run("dataset", "check", "pumps", "--content")[0] == 0
    blob = next(path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file())
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert run("dataset", "check", "pumps")[0] == 0  # by its length only
    code, out, err = run("dataset", "check", "pumps", "--content", "--json")
    assert (code, json.loads(out)["failed"]) == (1, ["content"])
    assert "[dataset.check]" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("import", "pumps"), "dataset.empty"),
        (("import", "PUMPS", "."), "dataset.name"),
        (("import", "pumps", "nowhere"), "dataset.source"),
        (("import", "pumps", ".", "--from", "mnist"), "dataset.kind"),
        (
            ("import", "pumps", ".", "--split", "train=0.5", "--split", "test=0.5", "--split-by", "window"),
            "dataset.leak",
        ),
        (("import", "pumps", ".", "--split-by", "moon"), "dataset.split"),
        (("import", "pumps", ".", "--split", "train=0.5"), "dataset.split"),
        (("import", "pumps", ".", "--assign", "a=left"), "dataset.split"),
        (("import", "pumps", ".", "--label", "x"), "dataset.pair"),
        (("import", "pumps", ".", "--scale", "x"), "dataset.scale"),
        (("show", "pumps"), "dataset.not_found"),
        (("show", "pumps@0"), "dataset.name"),
        (("list", "--store", "ftp://x/y"), "dataset.url"),
    ],
)
def test_bad_input_changes_nothing(
    words: tuple[str, ...], code: str, run: Run, recordings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(recordings)
    done, out, err = run("dataset", *words)
    assert done in (1, 2)
    assert (out, err.endswith(f"[{code}]\n")) == ("", True), err
    assert not (tmp_path / "store" / "versions").exists()


def healthy(seed: int, machine: str) -> Recording:
    t = np.arange(1024) / 12_000
    noise = np.random.default_rng(seed).normal(scale=0.3, size=(40, 1024, 1))
    samples = (noise + np.sin(2 * np.pi * 30 * t)[None, :, None]).astype(np.float32)
    return Recording(samples, np.ones(1), 12_000.0, np.arange(40.0), ("de",), ("g",), {"machine": machine})


def test_a_model_says_which_version_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(4):
        write_recording(healthy(seed, f"m{seed}"), tmp_path / "in" / f"{seed}.npz")
    words = ("--split", "train=0.5", "--split", "test=0.5", "--label", "state=healthy")
    code, out, err = run("dataset", "import", "rig", tmp_path / "in", *words, "--json")
    assert code == 0, err
    sha256 = json.loads(out)["sha256"]
    trained = ("train", "anomaly", "--dataset", "rig@1", "--healthy-fraction", "1", "--only", "state=healthy")
    code, _, err = run(*trained, "--out", tmp_path / "bundle")
    assert code == 0, err
    lineage: dict[str, Any] = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["lineage"]
    assert {name: lineage[name] for name in lineage if name.startswith("dataset")} == {
        "dataset": "rig@1",
        "dataset_sha256": sha256,
        "dataset_split": "machine",
        "dataset_side": "train",
        "dataset_only": "state=healthy",
    }
    assert {name for name in lineage if name.startswith("recording-")} == {"recording-0", "recording-1"}
    refused = run("train", "anomaly", "--dataset", "rig", "--only", "state=worn", "--out", tmp_path / "b2")
    assert refused[2].endswith("[training.too_little]\n")
    assert run("train", "anomaly", "--out", tmp_path / "b3")[2].endswith("[train.recordings]\n")
    assert not (tmp_path / "b2").exists()
