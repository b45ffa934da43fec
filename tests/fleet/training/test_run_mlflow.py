"""MLflow: runs are logged at a real store, models come from its registry, and a run outlives a server that is away."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.fleet.training.own_models import peak_classifier, write_machines
from tests.fleet.training.run_sites import RECIPE, coolant
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.recipe_text import read_recipe
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.child import execute
from wheeltapper_fleet.training.runs.folder import RunFolder, Task
from wheeltapper_fleet.training.runs.mlflow_log import log_run, model_file

pytest.importorskip("mlflow", reason="needs the extra mlflow")

TRIAL = {"number": 0, "state": "complete", "value": 0.5, "seconds": 1.0, "parameters": {"sigma": "2"}, "detail": ""}


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store with its artifacts beside it."""
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "1")
    return f"sqlite:///{tmp_path}/mlflow.db"


def started(path: Path, recipe: str) -> RunFolder:
    store = DatasetStore(path.parent / "store")
    coolant(store)
    folder = RunFolder(path)
    folder.begin(Task(run="r-0", recipe=recipe, seed=3, store=store.url, cause="person ann"))
    return folder


def test_a_run_is_logged_whole_and_its_model_comes_back_by_alias(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    recipe = RECIPE + f'[mlflow]\nuri = "{uri}"\nexperiment = "coolant"\nregister = true\n'
    folder = started(tmp_path / "run", recipe)
    folder.write_plot("loss", "<svg/>")
    outcome = execute(folder)
    assert (outcome.state, tuple(outcome.warnings)) == (State.SUCCEEDED, ())
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("coolant")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "r-0"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(dict(outcome.metrics))
    assert run.data.params == {**outcome.parameters, "seed": "3"}
    assert run.data.tags["wheeltapper.model_sha256"] == outcome.digests["model"]
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"bundle", "plots"}

    failed = Outcome(state=State.FAILED, error_code="search.nothing", error_detail="none", trials=(TRIAL,))
    log_run(read_recipe(recipe), folder.task(), folder, failed, 1.0, pytest.fail)
    found = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert found["r-0-0"].data.metrics == {"value": 0.5}
    parent = found["r-0-0"].data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.status == "FAILED"

    client.set_registered_model_alias("bearing-anomaly", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with model_file(Path("models:/bearing-anomaly@champion")) as (file, origin):
        assert file.read_bytes() == (folder.bundle / file.name).read_bytes()
    assert (origin, file.exists()) == ("MLflow models:/bearing-anomaly/1", False)
    with pytest.raises(TrainingError) as caught, model_file(Path("models:/bearing-anomaly@nobody")):
        pass
    assert caught.value.code == "mlflow.unreachable"

    client.create_registered_model("peaks")
    Path(tmp_path, "peaks").mkdir()
    Path(tmp_path, "peaks", "model.onnx").write_bytes(peak_classifier())
    client.create_model_version("peaks", source=str(tmp_path / "peaks"))
    machines = write_machines(tmp_path / "machines", "normal", "inner")
    line = ["bundle", "init", "--model", "models:/peaks/1", "--data", str(machines), "--classes", "normal,inner"]
    monkeypatch.setattr(sys, "argv", ["wheeltapper", *line, "--out", str(tmp_path / "own"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["lineage"]["origin"] == "bundle init of MLflow models:/peaks/1"


def test_a_server_that_is_away_is_a_warning(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    folder, warned = RunFolder(tmp_path / "run"), list[str]()
    folder.begin(Task(run="r-0", recipe=RECIPE, seed=3))
    log_run(read_recipe(RECIPE), folder.task(), folder, Outcome(state=State.QUEUED), 1.0, warned.append)
    assert len(warned) == 1
    assert "could not be logged at MLflow (http://127.0.0.1:9)" in warned[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    log_run(read_recipe(RECIPE), folder.task(), folder, Outcome(state=State.QUEUED), 1.0, pytest.fail)
    with pytest.raises(TrainingError) as caught, model_file(Path("models:/m@champion")):
        pass
    assert caught.value.code == "mlflow.uri"
