"""Reads the lineage of runs: from a run back to its data and its cause, and forward to candidate, release and devices.

    recording ── versions that hold it ── runs trained on them ── candidates, releases

Cost: look-ups by key; a page of a recording's runs sorts what was trained on the versions that hold it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, and_, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.runs.schemas import RunView
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.learning.runs.views import get_run
from wheeltapper_fleet.lineage.schemas import RecordingRun, RunLineage, RunRelease
from wheeltapper_fleet.lineage.tables import dataset_contents
from wheeltapper_fleet.lineage.views import known_recording
from wheeltapper_fleet.registry.tables import release_runs, releases

__all__ = ["recording_runs", "run_lineage"]

_RELEASES: Final = 20


def run_lineage(engine: Engine, run: str) -> RunLineage:
    """What a run was trained on and why, and what became of its bundle.

    Raises:
        TrainingError: ``run.not_found``.
    """
    found = get_run(engine, run)
    same = and_(releases.c.model == release_runs.c.model, releases.c.release == release_runs.c.release)
    made = select(releases.c.model, releases.c.release, releases.c.published_at)
    made = made.select_from(release_runs.join(releases, same)).where(release_runs.c.run == run)
    made = made.order_by(release_runs.c.model, release_runs.c.release).limit(_RELEASES)
    waits = select(candidates.c.id, candidates.c.state, candidates.c.policy).where(candidates.c.run == run)
    with reading(engine) as connection:
        candidate = connection.execute(waits).one_or_none()
        published = [RunRelease(**row._mapping) for row in connection.execute(made)]
    return RunLineage(
        run=RunView(**{name: getattr(found, name) for name in RunView.model_fields}),
        candidate=None if candidate is None else candidate.id,
        candidate_state=None if candidate is None else candidate.state,
        policy=candidate.policy or None if candidate is not None else None,
        releases=published,
    )


def recording_runs(
    engine: Engine, sha256: str, limit: int = DEFAULT_LIMIT, after: str | None = None, *, scope: str, now: float
) -> Page[RecordingRun]:
    """The runs on a version that holds a recording, newest first, whatever became of them.

    Raises:
        FleetError: ``lineage.recording``, ``cursor.invalid``.
    """
    held = and_(
        runs.c.dataset_name == dataset_contents.c.dataset,
        runs.c.dataset_version.between(dataset_contents.c.first_version, dataset_contents.c.last_version),
    )
    query = select(*(runs.c[name] for name in RecordingRun.model_fields)).select_from(dataset_contents.join(runs, held))
    query = query.where(dataset_contents.c.sha256 == sha256)
    with reading(engine) as connection:
        known_recording(connection, sha256, scope, now)
        key = (runs.c.requested_at, runs.c.id)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True)
    return Page([RecordingRun(**row._mapping) for row in rows], following)
