"""Searches: the same trials for the same seed, bounded by their budget, resumed, on one process or several; and runs of
one computer by their commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.training.run_sites import RECIPE, coolant, install
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.learning.datasets.reading import STORE_VARIABLE
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.errors import TrainingError
from wheeltapper_fleet.learning.runs.recipe_text import read_recipe
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.recipe_files import read_recipe_file
from wheeltapper_fleet.training.runs.child import execute
from wheeltapper_fleet.training.runs.folder import RunFolder, Task
from wheeltapper_protocols.python_path import python_command

SEARCH = (
    RECIPE
    + '[search]\nmetric = "healthy_above"\ndirection = "minimize"\ntrials = 3\nparallel = 2\n'
    + "[search.parameters]\nwindow_samples = { low = 150, high = 9000 }\nsigma = { choice = [2.0, 3.0, 4.0] }\n"
)
"""Windows of more than 299 samples fail: there are 300."""
STRANGE = (
    RECIPE.replace("slow-signal", "strange")
    + '[search]\nmetric = "x"\ndirection = "maximize"\ntrials = 4\nseconds = 3.0\n'
    + '[search.parameters]\ndo = { choice = ["sleep"] }\n'
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    made = DatasetStore(tmp_path_factory.mktemp("store"))
    coolant(made)
    return made


def searched(path: Path, store: DatasetStore, recipe: str = SEARCH) -> tuple[RunFolder, Outcome]:
    folder = RunFolder(path)
    folder.begin(Task(run="r-0", recipe=recipe, seed=7, store=store.url))
    return folder, execute(folder)


def without_times(outcome: Outcome) -> list[dict[str, Any]]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in outcome.trials]


@pytest.mark.parametrize(
    ("trials", "seeds"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)], ids=lambda value: str(value)
)
def test_a_search_takes_the_best_trial_and_tries_the_same_again(
    tmp_path: Path, store: DatasetStore, trials: int, seeds: int
) -> None:
    narrow = SEARCH.replace("high = 9000", "high = 170").replace("trials = 3", f"trials = {trials}\nseeds = {seeds}")
    folder, one = searched(tmp_path / "one", store, narrow)
    assert one.state is State.SUCCEEDED, one
    assert [trial["state"] for trial in one.trials] == ["complete"] * trials
    best = min(one.trials, key=lambda trial: (trial["value"], trial["number"]))
    assert one.metrics["search_best"] == best["value"]
    assert one.parameters["window_samples"] == best["parameters"]["window_samples"]
    assert one.metrics["healthy_above"] == pytest.approx(best["value"])
    assert (folder.bundle / "manifest.json").exists()
    done = sorted(folder.trials.iterdir())
    assert len(done) == trials * seeds
    for path in done[1:]:  # it was killed after some of them
        shutil.rmtree(path)
    before = (done[0] / "outcome.json").stat().st_mtime_ns
    _, again = searched(tmp_path / "one", store, narrow)
    assert without_times(again) == without_times(one)
    assert again.digests == one.digests
    assert (done[0] / "outcome.json").stat().st_mtime_ns == before


def test_a_search_keeps_what_failed_and_says_when_nothing_succeeded(tmp_path: Path, store: DatasetStore) -> None:
    _, outcome = searched(tmp_path / "run", store, SEARCH.replace("low = 150", "low = 400").replace("= 3\np", "= 2\np"))
    assert (outcome.state, outcome.error_code) == (State.FAILED, "search.nothing")
    assert "training.too_little" in str(outcome.error_detail)


def test_the_budget_ends_what_is_under_way(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / "site")))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    begun = time.monotonic()
    _, outcome = searched(tmp_path / "run", store, STRANGE)
    assert outcome.error_code == "search.nothing"
    assert "none of 1 trials" in str(outcome.error_detail)
    assert time.monotonic() - begun < 100  # its trials sleep for ten minutes each


@pytest.mark.parametrize(
    "wrong",
    [
        'metric = "x"\ndirection = "up"',
        'metric = "x"\ndirection = "minimize"\ntrials = 2',
        'metric = "x"\ndirection = "minimize"\n[search.parameters]\na = { low = 1 }',
        'metric = "x"\ndirection = "minimize"\n[search.parameters]\na = { low = 2, high = 1 }',
        'metric = "x"\ndirection = "minimize"\n[search.parameters]\na = { low = 0, high = 1, log = true }',
        'metric = "x"\ndirection = "minimize"\n[search.parameters]\na = { choice = [1], high = 1 }',
    ],
)
def test_a_search_that_says_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_recipe(f"{RECIPE}[search]\n{wrong}\n")
    assert caught.value.code == "recipe.malformed"


def test_a_search_for_a_parameter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(SEARCH.replace("sigma = {", "sigmas = {"))
    with pytest.raises(TrainingError) as caught:
        read_recipe_file(path)
    assert caught.value.code == "recipe.parameters"


# --- by the commands --------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: DatasetStore, tmp_path: Path
) -> Run:
    """Run a command of runs of this computer; gives exit code, its JSON, standard error."""
    monkeypatch.setenv(STORE_VARIABLE, store.url)

    def line(*words: object) -> tuple[int, Any, str]:
        local = [] if words[0] == "resume" else ["--local"]
        options = [*local, "--runs", str(tmp_path / "runs"), "--json"]
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "run", *map(str, words), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out) if out else None, err

    return line


def recipe_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_runs_of_one_computer_are_started_listed_shown_and_compared(run: Run, tmp_path: Path) -> None:
    file = recipe_file(tmp_path, "one.toml", RECIPE)
    code, one, err = run("start", file)
    assert (code, one["state"], one["seed"]) == (0, "SUCCEEDED", 3), err
    assert all(gate["passed"] for gate in one["gates"])
    assert Path(one["folder"], "bundle", "manifest.json").exists()
    _, other, _ = run("start", recipe_file(tmp_path, "two.toml", RECIPE + "[parameters]\nwindow_samples = 120\n"))
    assert [each["id"] for each in run("list")[1]] == [other["id"], one["id"]]
    assert run("list", "--state", "FAILED")[1] == []
    assert run("show", one["id"], "--plots", tmp_path / "plots")[1]["digests"] == one["digests"]
    compared = run("compare", one["id"], other["id"])[1]
    assert compared["parameters"] == {"window_samples": ["0", "120"]}
    assert set(compared["digests"]) == {"model", "recipe"}
    assert compared["metrics"]["healthy_above"] == [one["metrics"]["healthy_above"], other["metrics"]["healthy_above"]]
    code, _, err = run("show", "r-nothing")
    assert (code, "run.not_found" in err) == (1, True)
    code, _, err = run("resume", one["id"])
    assert (code, "run.state" in err) == (1, True)


def test_a_run_that_was_killed_is_interrupted_and_goes_on(run: Run, tmp_path: Path, store: DatasetStore) -> None:
    site = install(tmp_path / "site")
    marker = tmp_path / "go"
    source = (site / "strange_recipes.py").read_text()
    (site / "strange_recipes.py").write_text(
        source.replace("time.sleep(600)", f"time.sleep(0 if os.path.exists({str(marker)!r}) else 600)")
    )
    file = recipe_file(tmp_path, "strange.toml", RECIPE.replace("slow-signal", "strange"))
    environment = dict(os.environ, PYTHONPATH=str(site), WHEELTAPPER_DATASETS=store.url)
    words = ("start", str(file), "--local", "--runs", str(tmp_path / "runs"))
    process = subprocess.Popen(python_command("-m", "wheeltapper_fleet", "run", *words), env=environment)
    try:
        deadline = time.monotonic() + 100
        while not any(each["progress_text"] == "strange work" for each in run("list")[1]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        mine = run("list")[1][0]
        assert mine["state"] == "RUNNING"
        assert "run.busy" in run("resume", mine["id"])[2]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run("show", mine["id"])[1]["state"] == "INTERRUPTED"
    marker.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        _, found, _ = run("resume", mine["id"])
    assert (found["state"], found["error_code"], found["attempt"]) == ("FAILED", "run.crashed", 2)
