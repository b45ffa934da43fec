"""Reads runs for the API and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.errors import TrainingError
from wheeltapper_fleet.learning.runs.rules import Cause
from wheeltapper_fleet.learning.runs.schemas import RunDetail, RunView
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.registry.blobs import BlobStore

__all__ = ["bundle_file", "detail_of", "get_run", "headline_metrics", "list_runs", "plot_file"]

_OBJECTS = ("parameters", "metrics", "digests", "plots")
_LISTS = ("gates", "warnings", "trials")
_HEADLINES = ("auroc", "f1", "accuracy", "recall", "precision", "sensitivity", "rmse", "mae", "false_alarms_per_1000h")
"""Names of metrics that are looked for first, where few can be shown."""
_TECHNICAL = frozenset({"finite", "golden_reproducible", "int8_agreement", "latency_p95_ms", "model_bytes"})


def get_run(engine: Engine, run: str) -> RunDetail:
    """One run, with everything that is recorded of it.

    Raises:
        TrainingError: ``run.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(runs).where(runs.c.id == run)).one_or_none()
    if row is None:
        raise TrainingError("run.not_found", f"there is no run {run[:80]!r}", 404)
    return detail_of(row)


def list_runs(
    engine: Engine,
    *,
    state: str | None = None,
    model: str | None = None,
    cause: Cause | None = None,
    dataset: Ref | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
) -> Page[RunView]:
    """A page of the runs, newest first. One of ``dataset``, ``cause``, ``model`` and ``state`` is looked up in an
    index; what else is asked for narrows the rows of a page, which may then be shorter.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    wanted: list[ColumnElement[bool]] = []
    if dataset is not None:
        wanted.append((runs.c.dataset_name == dataset.name) & (runs.c.dataset_version == dataset.version))
    if cause is not None:
        wanted.append((runs.c.cause_kind == cause.kind) & (runs.c.cause_id == cause.id))
    if model is not None:
        wanted.append(runs.c.model == model)
    if state is not None:
        wanted.append(runs.c.state == state)
    query = select(*(runs.c[name] for name in RunView.model_fields))
    within = None
    if wanted:
        query = query.where(wanted[0])
        for each in wanted[1:]:
            within = each if within is None else within & each
    key = (runs.c.requested_at, runs.c.id)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=within)
    return Page([RunView(**row._mapping) for row in rows], following)


def headline_metrics(engine: Engine, names: Sequence[str], most: int = 3) -> dict[str, dict[str, float]]:
    """At most ``most`` metrics of each of some runs, by the run's id: those that say most of a model. Costs their
    rows."""
    with reading(engine) as connection:
        rows = connection.execute(select(runs.c.id, runs.c.metrics).where(runs.c.id.in_(names))).all()
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        metrics = row.metrics if isinstance(row.metrics, dict) else {}
        first = [name for name in _HEADLINES if name in metrics]
        others = sorted(name for name in metrics if name not in first and name not in _TECHNICAL)
        found[row.id] = {name: metrics[name] for name in [*first, *others][:most]}
    return found


def plot_file(engine: Engine, blobs: BlobStore, run: str, name: str) -> Path:
    """A plot of a run, as SVG.

    Raises:
        TrainingError: ``run.not_found``, ``run.no_plot``.
        FleetError: ``blob.not_found``.
    """
    plots = get_run(engine, run).plots
    if name not in plots:
        known = ", ".join(sorted(plots)) or "none"
        raise TrainingError("run.no_plot", f"{run} has no plot {name[:40]!r}; it has {known}", 404)
    return blobs.path(plots[name])


def bundle_file(engine: Engine, blobs: BlobStore, run: str, name: str) -> Path:
    """A file of the bundle that a run made, ``manifest.json`` first of all.

    Raises:
        TrainingError: ``run.not_found``, ``run.no_bundle``, ``run.no_file``.
        FleetError: ``blob.not_found``.
    """
    found = get_run(engine, run)
    if found.result is None:
        raise TrainingError("run.no_bundle", f"{run} made no bundle: it is {found.state}", 404)
    path = blobs.file_of(found.result, name)
    if path is None:
        raise TrainingError("run.no_file", f"the bundle of {run} has no file {name[:80]!r}", 404)
    return path


def detail_of(row: Row[Any]) -> RunDetail:
    """A row of the table; what is no JSON of its kind is empty."""
    values = dict(row._mapping)
    for name in _OBJECTS:
        values[name] = values[name] if isinstance(values[name], dict) else {}
    for name in _LISTS:
        values[name] = values[name] if isinstance(values[name], list) else []
    return RunDetail(**{name: values[name] for name in RunDetail.model_fields})
