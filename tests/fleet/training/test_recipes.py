"""Recipes by name and by recipe file: those of the house, and one of another distribution, which the documentation
shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import read_bundle
from wheeltapper_fleet.training.recipe_files import Data, find_recipe, read_recipe_file, recipe_names, recordings_of
from wheeltapper_fleet.training.recipes import GROUP, label
from wheeltapper_protocols.signal.recording import Recording, write_recording

PAGE = Path(__file__).resolve().parents[3] / "docs" / "learning" / "recipes.md"


def documented(language: str, contains: str) -> str:
    """The block of code on the page that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(next(block for block in blocks if contains in block))


def healthy(seed: int) -> Recording:
    random = np.random.default_rng(seed)
    samples = random.normal(size=(40, 256, 1)).astype(np.float32)
    return Recording(samples, np.ones(1), 1000.0, np.arange(40.0), ("x",), ("g",), {"machine": f"m{seed}"})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution as pip leaves it, with the recipe of the documentation."""
    folder = tmp_path / "site"
    info = folder / "my_recipes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-recipes\nVersion: 1.0\n")
    declared = documented("toml", "entry-points").split("\n", 1)[1]
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + declared.replace('"', ""))
    (folder / "my_recipes.py").write_text(documented("python", "class FixedLimit"))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_of_another_distribution_trains_a_bundle_that_a_device_takes(site: Path, tmp_path: Path) -> None:
    for seed in range(2):
        write_recording(healthy(seed), tmp_path / f"run-{seed}.npz")
    text = 'recipe = "fixed-limit"\nmodel = "press"\n[data]\nrecordings = ["run-*.npz"]\n[parameters]\nsigma = 7.5\n'
    path, out = recipe_file(tmp_path, text), tmp_path / "bundle"
    done = CliRunner().invoke(app, ["train", "recipe", str(path), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    loaded = load_bundle(out)
    self_test(loaded)
    lineage = loaded.manifest.lineage
    assert json.loads(lineage["parameters"]) == {"sigma": 7.5}
    assert lineage["recipe"] == "fixed-limit-1"
    loud = loaded.evaluate(healthy(5).physical(slice(0, 2)) * np.float32(20)).scores.score
    assert (loud > 1).all()
    listed = CliRunner().invoke(app, ["train", "recipes", "--json"])
    assert {"name": "fixed-limit", "parameters": {"sigma": "6.0"}} in json.loads(listed.stdout)["recipes"]
    assert "fixed-limit" in CliRunner().invoke(app, ["train", "recipes"]).stdout


def test_what_another_distribution_brings_is_checked_and_takes_none_of_our_names(site: Path) -> None:
    points = site / "my_recipes-1.0.dist-info" / "entry_points.txt"
    points.write_text(
        f"[{GROUP}]\nbroken = nowhere:X\nno-recipe = my_recipes:Parameters\nanomaly = my_recipes:RECIPE\n"
    )
    for name in ("broken", "no-recipe"):
        with pytest.raises(TrainingError) as caught:
            find_recipe(name)
        assert caught.value.code == "recipe.load"
    assert type(find_recipe("anomaly")).__module__.startswith("wheeltapper_fleet")


def test_the_anomaly_recipe_by_file(tmp_path: Path) -> None:
    write_recording(healthy(0), tmp_path / "a.npz")
    path = recipe_file(
        tmp_path,
        'recipe = "anomaly"\nmodel = "m"\nseed = 3\n[data]\nrecordings = ["a.npz"]\n'
        "[parameters]\nhealthy_fraction = 1.0\n",
    )
    done = CliRunner().invoke(app, ["train", "recipe", str(path), "--out", str(tmp_path / "one")])
    assert done.exit_code == 0, done.output
    assert "passed  false_alert_rate" in done.stdout
    lineage = read_bundle(tmp_path / "one").manifest.lineage
    assert (lineage["seed"], lineage["healthy_fraction"]) == ("3", "1.0")


def test_a_recipe_file_names_a_side_of_a_dataset(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(2):
        samples = random.normal(size=(300, 1, 1)).astype(np.float32)
        meta = {"machine": f"m{number}"}
        made = Recording(samples, np.ones(1), 1.0, np.arange(300.0), ("t",), ("degC",), meta)
        write_recording(made, tmp_path / f"m{number}.npz")
    store = str(tmp_path / "store")
    files = [str(tmp_path / f"m{number}.npz") for number in range(2)]
    sides = ["--assign", "m0=train", "--assign", "m1=test"]
    done = CliRunner().invoke(app, ["dataset", "import", "coolant", *files, "--store", store, *sides])
    assert done.exit_code == 0, done.output
    head = 'recipe = "slow-signal"\nmodel = "coolant"\n[data]\n'
    path = recipe_file(tmp_path, head + f'dataset = "coolant@1"\nstore = "{store}"\n')
    done = CliRunner().invoke(app, ["train", "recipe", str(path), "--out", str(tmp_path / "one")])
    assert done.exit_code == 0, done.output
    lineage = read_bundle(tmp_path / "one").manifest.lineage
    assert (lineage["dataset"], lineage["dataset_side"]) == ("coolant@1", "train")
    assert len([name for name in lineage if name.startswith("recording-")]) == 1
    for data, says in (('dataset = "coolant@1"\nside = "validation"', "side"), ('dataset = "none"', "none")):
        path = recipe_file(tmp_path, head + f'{data}\nstore = "{store}"\n')
        done = CliRunner().invoke(app, ["train", "recipe", str(path), "--out", str(tmp_path / "two")])
        assert done.exit_code != 0
        assert says in done.output
    for data in ('dataset = "d"\nrecordings = ["a.npz"]\n', 'recordings = ["a.npz"]\nside = "train"\n'):
        with pytest.raises(TrainingError) as caught:
            read_recipe_file(recipe_file(tmp_path, head + data))
        assert caught.value.code == "recipe.malformed"


HEAD = 'model = "m"\n[data]\nrecordings = ["a.npz"]\n'


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (f'recipe = "nothing"\n{HEAD}', "recipe.unknown", "anomaly"),
        (f'recipe = "anomaly"\nsed = 3\n{HEAD}', "recipe.malformed", "sed"),
        (f'recipe = "anomaly"\n{HEAD}[parameters]\nhealthy = 1.0\n', "recipe.parameters", "healthy_fraction"),
        (f'recipe = "anomaly"\n{HEAD}[parameters]\nhealthy_fraction = 7\n', "recipe.parameters", "<= 1"),
        (f'recipe = "remaining-life"\n{HEAD}[parameters]\nwarn_at = 500\n', "recipe.parameters", "warn_at"),
        ('recipe = "anomaly"\nmodel = "M M"\n[data]\nrecordings = ["a"]\n', "recipe.malformed", "model"),
        ("recipe = ", "recipe.malformed", "recipe.toml"),
    ],
)
def test_what_is_wrong_in_a_recipe_file_is_named(tmp_path: Path, text: str, code: str, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_recipe_file(recipe_file(tmp_path, text))
    assert caught.value.code == code
    assert says in caught.value.message


def test_files_are_taken_once_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b2.npz", "b1.npz", "a.npz", "c.txt"):
        (tmp_path / name).touch()
    data = Data(recordings=["b*.npz", "*.npz", str(tmp_path / "a.npz")])
    assert [path.name for path in recordings_of(data, tmp_path)] == ["b1.npz", "b2.npz", "a.npz"]
    with pytest.raises(TrainingError) as caught:
        recordings_of(Data(recordings=["z*.npz"]), tmp_path)
    assert caught.value.code == "recipe.data"


@pytest.mark.parametrize(
    ("labels", "found"),
    [([{"name": "x", "value": 3}], 3), ({"x": 4}, 4), ([{"name": "y", "value": 3}], None), ([], None), ([7], None)],
)
def test_labels_of_a_recording(labels: Any, found: Any) -> None:
    made = healthy(0)
    made.meta["labels"] = labels
    assert label(made, "x") == found


def test_the_page_names_every_recipe_of_the_house() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in recipe_names())
