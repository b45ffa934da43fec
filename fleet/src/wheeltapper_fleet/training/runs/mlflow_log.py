"""Brings runs to an MLflow server, and models from its registry. Needs the extra ``mlflow`` (mlflow-skinny).

Invariant: a run never fails because of MLflow: what could not be logged is a warning of the run.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wheeltapper_fleet.learning.runs.recipe_text import RecipeFile
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.folder import RunFolder, Task

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["log_run", "model_file", "tracking_uri"]

_PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""What the library is told where nobody says otherwise; its own patience is many minutes."""
_MODEL: Final = re.compile(r"models:/+(?P<model>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))\Z")
_KINDS: Final = (".onnx", ".tflite")
_BUNDLE: Final = "bundle"


def tracking_uri(recipe: RecipeFile) -> str:
    """Where runs of a recipe are logged: what it says, else what the environment says; empty: nowhere."""
    return (recipe.mlflow.uri if recipe.mlflow is not None else "") or os.environ.get("MLFLOW_TRACKING_URI", "")


def log_run(
    recipe: RecipeFile, task: Task, folder: RunFolder, outcome: Outcome, started_at: float, warn: Callable[[str], None]
) -> None:
    """Log a run that ended: parameters, metrics, digests, plots, the bundle, and each trial as a nested run.

    Args:
        recipe: its recipe file.
        task: what it did.
        folder: what it left.
        outcome: how it ended.
        started_at: Unix seconds.
        warn: is told what could not be logged.
    """
    uri = tracking_uri(recipe)
    if not uri:
        return
    try:
        client, experiment = _client(uri), recipe.mlflow.experiment if recipe.mlflow is not None else ""
        experiment_id = _experiment(client, experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "wheeltapper"))
        run = _log(client, experiment_id, task, folder, outcome, started_at)
        for trial in outcome.trials:
            _log_trial(client, experiment_id, run, task, trial)
        if recipe.mlflow is not None and recipe.mlflow.register and outcome.state is State.SUCCEEDED:
            _register(client, recipe.model, run)
    except TrainingError as error:
        warn(f"{error.message} [{error.code}]")
    except Exception as error:  # noqa: BLE001  # whatever the server or the library does, the run is not lost by it
        warn(f"the run could not be logged at MLflow ({uri[:100]}): {type(error).__name__}: {error}"[:500])


def _client(uri: str) -> MlflowClient:
    """A client of the server, or of a store such as ``sqlite:///mlflow.db``.

    Raises:
        TrainingError: ``mlflow.missing``.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise TrainingError("mlflow.missing", "install wheeltapper-fleet[mlflow] to log runs at MLflow") from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _log(
    client: MlflowClient, experiment: str, task: Task, folder: RunFolder, outcome: Outcome, started_at: float
) -> str:
    """The run itself; returns its id at MLflow."""
    tags = {f"wheeltapper.{name}_sha256": value for name, value in outcome.digests.items()}
    tags |= {"mlflow.runName": task.run, "wheeltapper.run": task.run, "wheeltapper.cause": task.cause}
    tags |= {"wheeltapper.dataset": task.dataset}
    if outcome.error_code is not None:
        tags["wheeltapper.error"] = f"{outcome.error_detail} [{outcome.error_code}]"[:4000]
    run = str(client.create_run(experiment, start_time=int(started_at * 1000), tags=tags).info.run_id)
    client.log_param(run, "seed", task.seed)
    for name, text in outcome.parameters.items():
        client.log_param(run, name, text)
    for name, value in outcome.metrics.items():
        client.log_metric(run, name, value)
    for path in folder.plot_files().values():
        client.log_artifact(run, str(path), "plots")
    if outcome.state is State.SUCCEEDED:
        client.log_artifacts(run, str(folder.bundle), _BUNDLE)
    client.set_terminated(run, "FINISHED" if outcome.state is State.SUCCEEDED else "FAILED")
    return run


def _log_trial(client: MlflowClient, experiment: str, parent: str, task: Task, trial: Mapping[str, Any]) -> None:
    name = f"{task.run}-{trial['number']}"
    tags = {"mlflow.runName": name, "mlflow.parentRunId": parent, "wheeltapper.detail": str(trial["detail"])}
    begun = int((time.time() - float(trial["seconds"])) * 1000)
    run = str(client.create_run(experiment, start_time=begun, tags=tags).info.run_id)
    for key, text in trial["parameters"].items():
        client.log_param(run, key, text)
    if trial["value"] is not None:
        client.log_metric(run, "value", float(trial["value"]))
    client.set_terminated(run, "FINISHED" if trial["state"] == "complete" else "KILLED")


def _register(client: MlflowClient, model: str, run: str) -> None:
    """Make the bundle the next version of the model at MLflow's registry."""
    if not any(found.name == model for found in client.search_registered_models(f"name = '{model}'")):
        client.create_registered_model(model)
    client.create_model_version(model, source=f"{client.get_run(run).info.artifact_uri}/{_BUNDLE}", run_id=run)


# --- from the registry ------------------------------------------------------------------------------------------------


@contextmanager
def model_file(named: Path) -> Iterator[tuple[Path, str]]:
    """The file of a model, and where it is from, for the lineage.

    Args:
        named: a file, or ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` of MLflow's registry, which is that of
            ``MLFLOW_REGISTRY_URI`` or ``MLFLOW_TRACKING_URI``. Its one ONNX or TFLite file is fetched, and removed at
            the end of the ``with`` statement.

    Raises:
        TrainingError: ``mlflow.missing``; ``mlflow.uri``: no server is named, or no model; ``mlflow.unreachable``: it
            does not give the model; ``mlflow.model``: the model has no file that a device runs, or several.
    """
    match = _MODEL.match(named.as_posix())
    if match is None:
        yield named, named.name
        return
    server = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise TrainingError("mlflow.uri", "set MLFLOW_TRACKING_URI to the server whose registry has the model")
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as place:
        version = _fetch(server, match["model"], match["alias"], match["version"], place)
        found = sorted(path for path in Path(place).rglob("*") if path.suffix in _KINDS and path.is_file())
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            message = f"{named} needs one .onnx or .tflite file; it has {names}: log it so"
            raise TrainingError("mlflow.model", message)
        yield found[0], f"MLflow models:/{match['model']}/{version}"


def _fetch(server: str, model: str, alias: str | None, version: str | None, place: str) -> str:
    """Fetch what a version of a model has into a folder; returns the version."""
    client = _client(server)
    from mlflow.artifacts import download_artifacts

    try:
        number = version or str(client.get_model_version_by_alias(model, alias).version)
        source = client.get_model_version_download_uri(model, number)
        download_artifacts(artifact_uri=source, dst_path=place, tracking_uri=server)
    except Exception as error:
        message = f"{model} could not be fetched from {server[:100]}: {type(error).__name__}: {error}"[:500]
        raise TrainingError("mlflow.unreachable", message, 503) from error
    return number
