"""What changes runs; each function owns its transaction. Nothing here trains.

Invariants:
    * A run is claimed by one trainer at a time; the oldest that it can do goes first.
    * What a trainer says counts while its claim is the newest (``attempt``); else it is refused with ``run.lost``, and
      nothing is changed.
    * A run becomes SUCCEEDED only with a whole bundle of its model in the blob store, all of whose gates passed.
    * Finishing twice in the same way changes nothing, so a trainer that heard no answer may say it again.

Example:
    >>> run = queue_run(engine, text, who="ann", cause=Cause("person", "ann"), now=time.time())
    >>> claimed = claim_run(engine, "bench-1", now=time.time())
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, insert, select, update

from wheeltapper_fleet.learning.datasets.manifest import parse_ref
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.errors import TrainingError
from wheeltapper_fleet.learning.runs.recipe_text import RecipeFile, read_recipe
from wheeltapper_fleet.learning.runs.rules import (
    ENDED,
    SILENT_SECONDS,
    Cause,
    Event,
    Outcome,
    State,
    after,
    after_silence,
)
from wheeltapper_fleet.learning.runs.schemas import RunDetail
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.learning.runs.views import detail_of, get_run
from wheeltapper_fleet.registry.aliases import named_release
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_protocols.manifest.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest

__all__ = ["cancel_run", "check_claim", "claim_run", "finish_run", "queue_run", "report_progress", "silent_turn"]

_WHO_CHARACTERS: Final = 128
_SLICE: Final = 100
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between two turns of the duty that hears trainers: after a longer one it begins anew to listen."""
_NEW: Final[dict[str, Any]] = {
    "attempt": 0,
    "silences": 0,
    "progress": None,
    "progress_text": "",
    "parameters": {},
    "metrics": {},
    "gates": [],
    "digests": {},
    "plots": {},
    "warnings": [],
    "trials": [],
}


def queue_run(
    engine: Engine,
    recipe_toml: str,
    *,
    who: str,
    cause: Cause,
    now: float,
    seed: int | None = None,
    against: str | None = None,
    datasets: DatasetStore | None = None,
) -> str:
    """Queue a run of a recipe file; returns its id.

    Args:
        engine: the fleet's database.
        recipe_toml: the recipe file. It names a dataset, because a trainer has no files of whoever asks.
        who: asks for it, for the record.
        cause: why.
        now: Unix seconds.
        seed: counts more than the recipe's.
        against: an alias or the number of a release that the bundle must not be worse than; counts more than the
            recipe's. It is looked up now, so that the run says which release it was.
        datasets: where the dataset is looked up; a version that the recipe leaves open becomes the newest one now, so
            that the run says what it is trained on. None: it is not looked up.

    Raises:
        TrainingError: ``recipe.malformed``, ``run.recordings``, ``run.store``, ``run.mlflow``.
        DatasetError: ``dataset.name``, ``dataset.not_found``, ``dataset.damaged``.
        FleetError: ``release.not_found``, ``alias.not_found``.
    """
    recipe = read_recipe(recipe_toml)
    against = against or (recipe.gates.champion if recipe.gates is not None else "")
    dataset = _dataset_of(recipe, datasets)
    ref = parse_ref(dataset)
    row = {
        "id": f"r-{secrets.token_hex(6)}",
        "state": State.QUEUED.value,
        "model": recipe.model,
        "recipe": recipe.recipe,
        "recipe_toml": recipe_toml,
        "dataset": dataset,
        "dataset_name": ref.name,
        "dataset_version": ref.version,
        "seed": recipe.seed if seed is None else seed,
        "cause_kind": cause.kind[:16],
        "cause_id": cause.id[:_WHO_CHARACTERS],
        "requested_at": now,
        "requested_by": who[:_WHO_CHARACTERS],
    }
    with engine.begin() as connection:
        release = named_release(connection, recipe.model, against) if against else None
        connection.execute(insert(runs).values({**_NEW, **row, "against": release}))
    return str(row["id"])


def _dataset_of(recipe: RecipeFile, datasets: DatasetStore | None) -> str:
    """The version of a dataset that a recipe is to be trained on.

    Raises:
        TrainingError: ``run.recordings``, ``run.store``, ``run.mlflow``.
        DatasetError: ``dataset.*``.
    """
    if not recipe.data.dataset:
        message = (
            "a trainer has no files of yours: `wheeltapper dataset import NAME FILE` makes a dataset: name it in [data]"
        )
        raise TrainingError("run.recordings", message)
    if recipe.data.store:
        message = "a queued run reads the store of its trainer or of the service: leave out [data] store"
        raise TrainingError("run.store", message)
    if recipe.mlflow is not None and recipe.mlflow.uri:
        message = "a queued run is logged where its trainer says (MLFLOW_TRACKING_URI): leave out [mlflow] uri"
        raise TrainingError("run.mlflow", message)
    ref = parse_ref(recipe.data.dataset)
    if datasets is None:
        return recipe.data.dataset
    manifest, _ = datasets.manifest(ref)
    return str(manifest.ref)


def claim_run(engine: Engine, trainer: str, *, now: float, recipes: Collection[str] | None = None) -> RunDetail | None:
    """Give a trainer the oldest queued run; None: there is none for it.

    Args:
        engine: the fleet's database.
        trainer: its name.
        now: Unix seconds.
        recipes: those that it has; None: any.
    """
    oldest = select(runs.c.id).where(runs.c.state == State.QUEUED.value)
    if recipes is not None:
        oldest = oldest.where(runs.c.recipe.in_(sorted(recipes)))
    oldest = oldest.order_by(runs.c.requested_at, runs.c.id).limit(1).with_for_update(skip_locked=True)
    with engine.begin() as connection:
        found = connection.execute(oldest).scalar_one_or_none()
        if found is None:
            return None
        values = {
            "state": State.RUNNING.value,
            "trainer": trainer[:_WHO_CHARACTERS],
            "attempt": runs.c.attempt + 1,
            "started_at": now,
            "heartbeat_at": now,
            "progress": None,
            "progress_text": "",
        }
        connection.execute(update(runs).where(runs.c.id == found).values(values))
        return detail_of(connection.execute(select(runs).where(runs.c.id == found)).one())


def report_progress(engine: Engine, run: str, attempt: int, *, progress: float | None, text: str, now: float) -> None:
    """Note that an execution goes on, and how far it is.

    Raises:
        TrainingError: ``run.not_found``, ``run.lost``: the trainer is to stop.
    """
    with engine.begin() as connection:
        _claimed(connection, run, attempt)
        values = {"heartbeat_at": now, "progress": progress, "progress_text": text[:200]}
        connection.execute(update(runs).where(runs.c.id == run).values(values))


def check_claim(engine: Engine, run: str, attempt: int) -> None:
    """Check that a claim is the newest of a running run; raises as :func:`report_progress`."""
    found = get_run(engine, run)
    _check_attempt(found.id, found.state, found.attempt, attempt)


def finish_run(engine: Engine, blobs: BlobStore, run: str, attempt: int, outcome: Outcome, *, now: float) -> RunDetail:
    """End a run as its trainer says, or give it back.

    Args:
        engine: the fleet's database.
        blobs: has the bundle and the plots.
        run: its id.
        attempt: number of the claim.
        outcome: how it ended.
        now: Unix seconds.

    Raises:
        TrainingError: ``run.not_found``, ``run.lost``, ``run.outcome``, ``run.bundle``.
        FleetError: ``blob.not_found``: something was not uploaded.
    """
    event = outcome.event
    manifest = None if outcome.result is None else _bundle(blobs, outcome.result)
    for sha256 in outcome.plots.values():
        blobs.path(sha256)
    with engine.begin() as connection:
        row = _locked(connection, run)
        same = row.attempt == attempt and row.state == outcome.state.value and row.result == outcome.result
        if row.state in ENDED and same:
            return detail_of(row)
        _check_attempt(run, row.state, row.attempt, attempt)
        if manifest is not None and manifest.model != row.model:
            message = f"the bundle is of the model {manifest.model!r}, the run of {row.model!r}"
            raise TrainingError("run.bundle", message, 422)
        values = {"state": after(State(row.state), event, run).value, "heartbeat_at": None}
        if event is not Event.GIVE_BACK:
            values |= _recorded(outcome, manifest) | {"ended_at": now, "ended_by": row.trainer}
        connection.execute(update(runs).where(runs.c.id == run).values(values))
        return detail_of(connection.execute(select(runs).where(runs.c.id == run)).one())


def _recorded(outcome: Outcome, manifest: Manifest | None) -> dict[str, Any]:
    """What is kept of an outcome."""
    metrics = dict(outcome.metrics)
    gates = [] if manifest is None else msgspec.to_builtins(manifest.gates)
    for gate in gates:
        metrics.setdefault(gate["name"], gate["value"])
    found: dict[str, Any] = {
        "result": outcome.result,
        "metrics": metrics,
        "gates": gates,
        "digests": dict(outcome.digests),
        "parameters": dict(outcome.parameters),
        "plots": dict(outcome.plots),
        "warnings": list(outcome.warnings),
        "trials": [dict(trial) for trial in outcome.trials],
        "error_code": outcome.error_code,
        "error_detail": None if outcome.error_detail is None else outcome.error_detail[:2000],
    }
    return found | ({"progress": 1.0} if outcome.state is State.SUCCEEDED else {})


def _bundle(blobs: BlobStore, sha256: str) -> Manifest:
    """The manifest of an uploaded bundle that is whole and passed its gates.

    Raises:
        TrainingError: ``run.bundle``.
        FleetError: ``blob.not_found``.
        WireError: ``manifest.*``.
    """
    path = blobs.path(sha256)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise TrainingError("run.bundle", "result is too long to be a manifest", 422)
    manifest = decode_manifest(path.read_bytes())
    for file in manifest.files:
        if not blobs.has(file.sha256, file.length):
            raise TrainingError("run.bundle", f"{file.name} of the bundle was not uploaded", 422)
    failed = [gate.name for gate in manifest.gates if not gate.passed]
    if failed or not manifest.gates:
        message = f"gates did not pass: {', '.join(failed)}" if failed else "the bundle has no gates"
        raise TrainingError("run.bundle", message, 422)
    return manifest


def cancel_run(engine: Engine, run: str, *, who: str, now: float) -> RunDetail:
    """Cancel a run that has not ended. Its trainer hears of it within seconds, and ends the execution.

    Raises:
        TrainingError: ``run.not_found``, ``run.state``: it has ended.
    """
    with engine.begin() as connection:
        row = _locked(connection, run)
        values: dict[str, Any] = {"state": after(State(row.state), Event.CANCEL, run).value, "ended_at": now}
        values |= {"ended_by": who[:_WHO_CHARACTERS], "heartbeat_at": None}
        connection.execute(update(runs).where(runs.c.id == run).values(values))
        return detail_of(connection.execute(select(runs).where(runs.c.id == run)).one())


def silent_turn(engine: Engine) -> Callable[[float], bool]:
    """The duty: runs whose trainer fell silent are queued again, or fail (:func:`after_silence`). Costs one look into
    an index, and something a run that fell silent.

    A silence counts while the duty listens. After a start, a pause or a jump of the clock trainers first get the time
    to be heard again: what nobody could hear was no silence.
    """
    listens_since = last = -math.inf

    def turn(now: float) -> bool:
        nonlocal listens_since, last
        if not 0 <= now - last <= _LONGEST_PAUSE_SECONDS:
            listens_since = now
            _forget_the_future(engine, now)
        last = now
        if now - listens_since < SILENT_SECONDS:
            return False
        silent = select(runs).where(runs.c.state == State.RUNNING.value, runs.c.heartbeat_at < now - SILENT_SECONDS)
        with engine.begin() as connection:
            found = connection.execute(silent.limit(_SLICE).with_for_update(skip_locked=True)).all()
            for row in found:
                connection.execute(update(runs).where(runs.c.id == row.id).values(_after_silence(row, now)))
        return len(found) == _SLICE

    return turn


def _forget_the_future(engine: Engine, now: float) -> None:
    """What was heard at a time that has not come, because the clock went back, was heard now at the latest."""
    ahead = (runs.c.state == State.RUNNING.value, runs.c.heartbeat_at > now)
    with engine.begin() as connection:
        connection.execute(update(runs).where(*ahead).values(heartbeat_at=now))


def _after_silence(row: Row[Any], now: float) -> dict[str, Any]:
    silences = row.silences + 1
    state = after_silence(silences)
    values: dict[str, Any] = {"state": state.value, "silences": silences, "heartbeat_at": None}
    if state is State.FAILED:
        message = f"{silences} trainers fell silent over it, {row.trainer} last; look at its log there"
        values |= {"ended_at": now, "error_code": "run.trainer_lost", "error_detail": message}
    return values


def _locked(connection: Connection, run: str) -> Row[Any]:
    row = connection.execute(select(runs).where(runs.c.id == run).with_for_update()).one_or_none()
    if row is None:
        raise TrainingError("run.not_found", f"there is no run {run[:80]!r}", 404)
    return row


def _claimed(connection: Connection, run: str, attempt: int) -> None:
    row = _locked(connection, run)
    _check_attempt(run, row.state, row.attempt, attempt)


def _check_attempt(run: str, state: str, present: int, attempt: int) -> None:
    if state != State.RUNNING or present != attempt:
        why = f"it is {state}" if present == attempt else "another trainer has it"
        raise TrainingError("run.lost", f"{run} is yours no longer: {why}; end its execution", 409)
