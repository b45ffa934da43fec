"""Ends runs that have been kept long enough, and removes the blobs that nothing names any more.

A run goes when its term is over and it failed, was cancelled, or succeeded and a newer run of its model did too. With
it go its plots and its bundle.

Invariants:
    * A run stays while a release was made of it, a candidate of it waits or was approved, or a policy looks at it.
    * A blob stays while a release, or a run that stays, names it. One that was uploaded or asked for within
      :data:`GRACE_SECONDS` stays too: what names it may be on its way.

Cost: a turn looks at :data:`_SLICE` runs. Once a day the manifests of all releases and runs are read, one after the
other, for the names of their files; nothing is proportional to the fleet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, delete, select, tuple_

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.policies.tables import policies
from wheeltapper_fleet.learning.runs.rules import ENDED, State
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.tables import release_runs, releases
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import decode_manifest

__all__ = ["GRACE_SECONDS", "runs_turn", "used_blobs"]

_LOG: Final = logging.getLogger(__name__)
GRACE_SECONDS: Final = 7 * 86_400.0
_DAY_SECONDS: Final = 86_400.0
_SLICE: Final = 100
_PAGE: Final = 200
_LOOKING: Final = ("TRAINING", "CANCELLING", "APPROVAL")
"""Stages of a policy that look at its run."""


def runs_turn(engine: Engine, blobs: BlobStore, keep_days: int) -> Callable[[float], bool]:
    """The duty: one turn at a Unix time; returns whether there is more to do at once.

    Args:
        engine: the fleet's database.
        blobs: has the bundles and plots.
        keep_days: for how long a run is kept after its end.
    """
    after: tuple[float, str] = (0.0, "")
    swept_at = 0.0

    def turn(now: float) -> bool:
        nonlocal after, swept_at
        with engine.begin() as connection:
            before = now - keep_days * _DAY_SECONDS
            looked = _old(connection, after, before)
            _remove(connection, looked, before)
        if len(looked) == _SLICE:
            after = (looked[-1].requested_at, looked[-1].id)
            return True
        after = (0.0, "")
        if now - swept_at >= _DAY_SECONDS:
            files, length = blobs.remove_unused(used_blobs(engine, blobs), now - GRACE_SECONDS)
            swept_at = now
            if files:
                _LOG.info("removed %d blobs (%d bytes) that no release and no run names", files, length)
        return False

    return turn


def used_blobs(engine: Engine, blobs: BlobStore) -> set[str]:
    """The SHA-256 of every blob that a release or a run names."""
    found: set[str] = set()
    for row in _pages(engine, (releases.c.model, releases.c.release), (releases.c.sha256, releases.c.manifest)):
        found.add(row.sha256)
        named = row.manifest.get("files") if isinstance(row.manifest, dict) else None
        found |= {str(file.get("sha256")) for file in named or () if isinstance(file, dict)}
    for row in _pages(engine, (runs.c.id,), (runs.c.result, runs.c.plots)):
        found |= {str(sha256) for sha256 in row.plots.values()} if isinstance(row.plots, dict) else set()
        if row.result is not None and row.result not in found:
            found |= {row.result, *_files(blobs, row.result)}
    return found


def _files(blobs: BlobStore, manifest: str) -> list[str]:
    """The files of a bundle in the store; none where its manifest is not there."""
    try:
        return [file.sha256 for file in decode_manifest(blobs.path(manifest).read_bytes()).files]
    except (FleetError, ProtocolError, OSError):
        return []


def _pages(engine: Engine, key: Sequence[Any], columns: Sequence[Any]) -> Iterator[Row[Any]]:
    """Rows of a whole table, some hundreds in memory at a time, each page in a transaction of its own."""
    after: tuple[Any, ...] | None = None
    while True:
        query = select(*key, *columns).order_by(*key).limit(_PAGE)
        if after is not None:
            query = query.where(tuple_(*key) > after)
        with reading(engine) as connection:
            rows = connection.execute(query).all()
        yield from rows
        if len(rows) < _PAGE:
            return
        after = tuple(rows[-1][: len(key)])


def _old(connection: Connection, after: tuple[float, str], before: float) -> list[Row[Any]]:
    """The next runs that were asked for before, oldest first, whatever became of them."""
    key = (runs.c.requested_at, runs.c.id)
    query = select(*key, runs.c.state, runs.c.model, runs.c.ended_at)
    query = query.where(runs.c.requested_at < before, tuple_(*key) > after)
    return list(connection.execute(query.order_by(*key).limit(_SLICE).with_for_update()))


def _remove(connection: Connection, looked: Sequence[Row[Any]], before: float) -> None:
    """Remove those whose term is over and that nothing stands on, with their candidates that became nothing."""
    over = [row for row in looked if row.state in ENDED and row.ended_at is not None and row.ended_at < before]
    names = [row.id for row in over]
    if not names:
        return
    kept = set(connection.execute(select(release_runs.c.run).where(release_runs.c.run.in_(names))).scalars())
    waits = (candidates.c.run.in_(names), candidates.c.state.in_(("WAITING", "APPROVED")))
    kept |= set(connection.execute(select(candidates.c.run).where(*waits)).scalars())
    states = connection.execute(select(policies.c.state).where(policies.c.stage.in_(_LOOKING))).scalars()
    kept |= {str(state.get("run")) for state in states if isinstance(state, dict)}
    for model in {row.model for row in over if row.state == State.SUCCEEDED}:
        newest = select(runs.c.id).where(runs.c.model == model, runs.c.state == State.SUCCEEDED.value)
        newest = newest.order_by(runs.c.requested_at.desc(), runs.c.id.desc()).limit(1)
        kept.add(connection.execute(newest).scalar_one())
    gone = [name for name in names if name not in kept]
    connection.execute(delete(candidates).where(candidates.c.run.in_(gone)))
    connection.execute(delete(runs).where(runs.c.id.in_(gone)))
