"""Runs go when their term is over, and with them what nothing else names; what something stands on stays."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, insert, select, update

from tests.fleet.learning.test_runs import ANN, AT, RECIPE, bundle
from tests.fleet.trust.bundles import model_content
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.learning.candidates.service import candidate_of, reject_candidate
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.policies.tables import policies
from wheeltapper_fleet.learning.retention import GRACE_SECONDS, runs_turn, used_blobs
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.learning.runs.service import cancel_run, claim_run, finish_run, queue_run
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.dataset_views import record_origin
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.manifest.manifest import decode_manifest

LATER = AT + 40 * 86_400.0


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def ended(engine: Engine, blobs: BlobStore, at: float, result: str | None = None, plot: bytes = b"") -> str:
    """A run that ended: with a bundle, or in a failure."""
    run = queue_run(engine, RECIPE, who="ann", cause=ANN, now=at)
    claim = claim_run(engine, "bench", now=at)
    assert claim is not None
    assert claim.id == run
    plots = {"loss": blobs.put_bytes(plot).sha256} if plot else {}
    outcome = Outcome(state=State.FAILED, error_code="training.gate_failed", plots=plots)
    if result is not None:
        outcome = Outcome(state=State.SUCCEEDED, result=result, plots=plots)
    finish_run(engine, blobs, run, 1, outcome, now=at)
    return run


def there(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(select(runs.c.id)).scalars())


def release_of(engine: Engine, blobs: BlobStore, number: int, result: str, run: str) -> None:
    """A release that was made of a run's bundle."""
    manifest = msgspec.json.decode(blobs.path(result).read_bytes())
    values: dict[str, Any] = {"model": "coolant", "release": number, "path": f"p{number}", "length": 1}
    values |= {"sha256": f"{number:064x}", "manifest": manifest, "published_at": AT, "published_by": "ann"}
    with engine.begin() as connection:
        connection.execute(insert(releases).values(values))
        record_origin(connection, "coolant", number, {"run": run})


def grow_old(blobs: BlobStore, folder: Path, at: float) -> None:
    for file in (folder / "blobs").iterdir():
        os.utime(file, (at, at))


def test_what_nothing_stands_on_goes_and_the_rest_stays(engine: Engine, blobs: BlobStore, tmp_path: Path) -> None:
    failed = ended(engine, blobs, AT, plot=b"<svg>failed</svg>")
    first = bundle(blobs, tmp_path / "first")
    superseded = ended(engine, blobs, AT + 1, first, b"<svg>first</svg>")
    shared = bundle(blobs, tmp_path / "second", gates=(*decode_manifest(blobs.path(first).read_bytes()).gates,) * 2)
    published = ended(engine, blobs, AT + 2, shared)
    waiting, rejected = ended(engine, blobs, AT + 3, first), ended(engine, blobs, AT + 4, first)
    watched = ended(engine, blobs, AT + 5)
    newest = ended(engine, blobs, AT + 6, first)
    young = ended(engine, blobs, LATER - 5)
    cancelled = queue_run(engine, RECIPE, who="ann", cause=ANN, now=AT + 7)
    cancel_run(engine, cancelled, who="ann", now=AT + 8)
    queued = queue_run(engine, RECIPE, who="ann", cause=ANN, now=AT + 9)
    release_of(engine, blobs, 1, shared, published)
    candidate_of(engine, waiting, now=AT)
    reject_candidate(engine, candidate_of(engine, rejected, now=AT), who="ann", why="", now=AT)
    with engine.begin() as connection:
        row: dict[str, Any] = {"name": "p", "model": "coolant", "text": "", "stage": "TRAINING"}
        row |= {
            "state": {"run": watched},
            "version": 1,
            "event": 1,
            "problem": "",
            "found": "",
            "applied_at": AT,
            "applied_by": "ann",
        }
        connection.execute(insert(policies).values(row))
    everything = there(engine)
    assert runs_turn(engine, blobs, 365)(LATER) is False
    assert there(engine) == everything
    assert runs_turn(engine, blobs, 30)(LATER) is False
    assert everything - there(engine) == {failed, superseded, rejected, cancelled}
    assert {published, waiting, watched, newest, young, queued} <= there(engine)
    with reading(engine) as connection:
        assert set(connection.execute(select(candidates.c.run)).scalars()) == {waiting}


def test_files_that_nothing_names_go_after_a_week(engine: Engine, blobs: BlobStore, tmp_path: Path) -> None:
    kept = bundle(blobs, tmp_path / "kept")
    ended(engine, blobs, AT, kept, b"<svg>kept</svg>")
    published = bundle(blobs, tmp_path / "published")
    release_of(engine, blobs, 2, published, "r-0")
    lone = blobs.put_bytes(b"nobody names it").sha256
    asked = blobs.put_bytes(b"somebody asks for it").sha256
    named = used_blobs(engine, blobs)
    assert hashlib.sha256(model_content(1)).hexdigest() in named
    assert {lone, asked} & named == set()
    turn = runs_turn(engine, blobs, 36_500)
    grow_old(blobs, tmp_path, AT)
    turn(AT + GRACE_SECONDS - 1)
    assert blobs.path(lone).is_file()
    blobs.wanted(asked)
    (tmp_path / "blobs" / "notes.txt").write_text("not a blob")
    runs_turn(engine, blobs, 36_500)(AT + GRACE_SECONDS + 86_400)
    found = {file.name for file in (tmp_path / "blobs").iterdir()}
    assert lone not in found
    assert asked in found
    assert "notes.txt" in found
    assert blobs.path(kept).is_file()
    for file in decode_manifest(blobs.path(kept).read_bytes()).files:
        assert blobs.has(file.sha256, file.length)
    assert named - {f"{2:064x}"} <= found


def test_another_process_leaves_an_upload_that_is_under_way(blobs: BlobStore, tmp_path: Path) -> None:
    under_way = tmp_path / "blobs" / ".0123.tmp"
    under_way.write_bytes(b"half of it")
    BlobStore(tmp_path / "blobs", receives=False).remove_unused((), 1e12)
    assert under_way.is_file()
    BlobStore(tmp_path / "blobs")
    assert not under_way.exists()


def test_a_row_that_says_nothing_of_its_plots_ends_no_turn(engine: Engine, blobs: BlobStore) -> None:
    run = ended(engine, blobs, AT)
    with engine.begin() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(plots=[1], result="0" * 64))
    assert used_blobs(engine, blobs) == {"0" * 64}


def test_many_runs_are_looked_at_in_slices(engine: Engine, blobs: BlobStore) -> None:
    for number in range(105):
        run = queue_run(engine, RECIPE, who="ann", cause=ANN, now=AT + number)
        cancel_run(engine, run, who="ann", now=AT + number)
    turn = runs_turn(engine, blobs, 1)
    assert turn(LATER) is True
    assert len(there(engine)) == 5
    assert turn(LATER) is False
    assert there(engine) == set()
