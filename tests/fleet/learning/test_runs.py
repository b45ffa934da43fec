"""Runs: their states, who may say what about them, what is kept; on both databases."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from tests.fleet.learning.rig import fleet, made
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.runs.recipe_text import read_recipe
from wheeltapper_fleet.learning.runs.rules import (
    ENDED,
    MOST_SILENCES,
    SILENT_SECONDS,
    Cause,
    Event,
    Outcome,
    State,
    after,
)
from wheeltapper_fleet.learning.runs.service import (
    cancel_run,
    claim_run,
    finish_run,
    queue_run,
    report_progress,
    silent_turn,
)
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.learning.runs.views import bundle_file, get_run, list_runs, plot_file
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_protocols.manifest.manifest import Gate

AT = 1_700_000_000.0
RECIPE = 'recipe = "slow-signal"\nmodel = "coolant"\nseed = 3\n[data]\ndataset = "coolant@1"\n'
ANN = Cause("person", "ann")
_SEARCH = '[search]\nmetric = "rmse"\ndirection = "minimize"\n[search.parameters]\n'
FAILED = Outcome(state=State.FAILED, error_code="training.too_little", error_detail="record longer")


def queued(engine: Engine, at: float = AT, text: str = RECIPE, cause: Cause = ANN) -> str:
    return queue_run(engine, text, who="ann", cause=cause, now=at)


def claimed(engine: Engine, at: float = AT) -> str:
    run = queued(engine, at)
    found = claim_run(engine, "bench", now=at)
    assert found is not None
    assert found.id == run
    return run


def listened(turn: Callable[[float], bool], since: float, until: float) -> bool:
    """Let the duty have its turns; what the last one gives."""
    now = since
    while now < until:
        turn(now)
        now += 5.0
    return turn(until)


def code(caught: pytest.ExceptionInfo[FleetError]) -> str:
    return caught.value.code


def bundle(blobs: BlobStore, folder: Path, model: str = "coolant", gates: tuple[Gate, ...] = (PASSED,)) -> str:
    """A small bundle in the store; the SHA-256 of its manifest."""
    write_bundle(folder, model, 1, gates)
    for file in folder.iterdir():
        blobs.put_bytes(file.read_bytes())
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_the_oldest_run_that_a_trainer_can_do_is_claimed_once(engine: Engine) -> None:
    first, second = queued(engine), queued(engine, AT + 1)
    other = queued(engine, AT - 5, RECIPE.replace("slow-signal", "fixed-limit"))
    taken = [claim_run(engine, "bench", now=AT + 2, recipes=["slow-signal", "anomaly"]) for _ in range(3)]
    assert [each and each.id for each in taken] == [first, second, None]
    assert taken[0] is not None
    assert (taken[0].state, taken[0].trainer, taken[0].attempt, taken[0].seed) == ("RUNNING", "bench", 1, 3)
    assert (claim_run(engine, "bench", now=AT + 2) or taken[0]).id == other


def test_progress_is_the_claimers_and_a_cancelled_run_is_lost(engine: Engine) -> None:
    run = claimed(engine)
    report_progress(engine, run, 1, progress=0.5, text="net 1 of 2", now=AT + 1)
    assert (get_run(engine, run).progress, get_run(engine, run).progress_text) == (0.5, "net 1 of 2")
    with pytest.raises(FleetError) as caught:
        report_progress(engine, run, 2, progress=0.9, text="", now=AT + 1)
    assert code(caught) == "run.lost"
    cancelled = cancel_run(engine, run, who="ann", now=AT + 2)
    assert (cancelled.state, cancelled.ended_by, cancelled.progress) == ("CANCELLED", "ann", 0.5)
    with pytest.raises(FleetError) as caught:
        report_progress(engine, run, 1, progress=0.9, text="", now=AT + 3)
    assert code(caught) == "run.lost"
    with pytest.raises(FleetError) as caught:
        cancel_run(engine, run, who="ann", now=AT + 2)
    assert (code(caught), caught.value.status) == ("run.state", 409)


def test_what_silent_trainers_had_is_queued_again_and_fails_at_last(engine: Engine, blobs: BlobStore) -> None:
    run, turn = claimed(engine), silent_turn(engine)
    assert listened(turn, AT, AT + SILENT_SECONDS) is False
    assert get_run(engine, run).state == "RUNNING"
    now = AT
    for attempt in range(1, MOST_SILENCES + 1):
        now += SILENT_SECONDS + 1
        listened(turn, now - SILENT_SECONDS - 1, now)
        found = get_run(engine, run)
        assert found.state == ("QUEUED" if attempt < MOST_SILENCES else "FAILED")
        if attempt < MOST_SILENCES:
            with pytest.raises(FleetError) as caught:  # the one that was thought dead speaks again
                finish_run(engine, blobs, run, attempt, FAILED, now=now)
            assert code(caught) == "run.lost"
            again = claim_run(engine, "bench", now=now)
            assert again is not None
            assert again.attempt == attempt + 1
    assert get_run(engine, run).error_code == "run.trainer_lost"


def test_what_nobody_could_hear_was_no_silence(engine: Engine) -> None:
    """The service was away for ten minutes, or its clock jumped: trainers that go on training keep their runs."""
    run, turn = claimed(engine), silent_turn(engine)
    listened(turn, AT, AT + 30)
    for jump in (600.0, -3000.0):
        back = AT + 30 + jump
        turn(back)
        assert get_run(engine, run).state == "RUNNING"
        report_progress(engine, run, 1, progress=None, text="", now=back + 10)
        listened(turn, back, back + 10 + SILENT_SECONDS)
        assert get_run(engine, run).state == "RUNNING"
    listened(turn, back + 10 + SILENT_SECONDS, back + 20 + SILENT_SECONDS)
    assert get_run(engine, run).state == "QUEUED"
    again = claim_run(engine, "bench", now=AT + 9000)
    assert again is not None
    listened(silent_turn(engine), AT, AT + 2 * SILENT_SECONDS)
    assert get_run(engine, run).state == "QUEUED", "a trainer that died before the clock went back is noticed"


def test_a_run_succeeds_with_a_whole_bundle_that_passed_and_keeps_its_record(
    engine: Engine, blobs: BlobStore, tmp_path: Path
) -> None:
    run = claimed(engine)
    result = bundle(blobs, tmp_path / "bundle")
    plot = blobs.put_bytes(b"<svg/>").sha256
    outcome = Outcome(
        state=State.SUCCEEDED,
        result=result,
        metrics={"rmse": 1.5},
        digests={"data": "0" * 64},
        parameters={"sigma": "3.75"},
        plots={"loss": plot},
        warnings=("few",),
    )
    done = finish_run(engine, blobs, run, 1, outcome, now=AT + 9)
    assert (done.state, done.result, done.ended_at, done.progress) == ("SUCCEEDED", result, AT + 9, 1.0)
    assert (done.metrics["rmse"], done.metrics[PASSED.name]) == (1.5, PASSED.value)
    assert [gate["name"] for gate in done.gates] == [PASSED.name]
    assert finish_run(engine, blobs, run, 1, outcome, now=AT + 99) == done
    assert bundle_file(engine, blobs, run, "manifest.json").name == result
    assert plot_file(engine, blobs, run, "loss").name == plot
    for name, wanted in (("nothing.onnx", "run.no_file"), ("manifest.json", "")):
        if wanted:
            with pytest.raises(FleetError) as caught:
                bundle_file(engine, blobs, run, name)
            assert code(caught) == wanted
    with pytest.raises(FleetError) as caught:
        finish_run(engine, blobs, run, 1, FAILED, now=AT + 99)
    assert code(caught) == "run.lost"


def test_what_is_no_whole_bundle_of_the_model_is_no_success(engine: Engine, blobs: BlobStore, tmp_path: Path) -> None:
    run = claimed(engine)
    wrong = {
        "0" * 64: "there is no blob",
        bundle(blobs, tmp_path / "other", "press"): "'press'",
        bundle(blobs, tmp_path / "bad", gates=(PASSED, Gate(name="auc", value=0, limit=1, passed=False))): "pass: auc",
        bundle(blobs, tmp_path / "ungated", gates=()): "no gates",
    }
    good = bundle(blobs, tmp_path / "good")
    for result, says in wrong.items():
        with pytest.raises(FleetError) as caught:
            finish_run(engine, blobs, run, 1, Outcome(state=State.SUCCEEDED, result=result), now=AT)
        assert says in caught.value.message
    for outcome in (Outcome(state=State.SUCCEEDED), Outcome(state=State.FAILED), Outcome(state=State.CANCELLED)):
        with pytest.raises(FleetError) as caught:
            finish_run(engine, blobs, run, 1, outcome, now=AT)
        assert code(caught) == "run.outcome"
    with pytest.raises(FleetError) as caught:
        finish_run(engine, blobs, run, 1, Outcome(state=State.SUCCEEDED, result=good, plots={"loss": "1" * 64}), now=AT)
    assert code(caught) == "blob.not_found"
    model = next(file for file in (tmp_path / "good").iterdir() if file.name != "manifest.json")
    blobs.path(hashlib.sha256(model.read_bytes()).hexdigest()).unlink()
    with pytest.raises(FleetError) as caught:
        finish_run(engine, blobs, run, 1, Outcome(state=State.SUCCEEDED, result=good), now=AT)
    assert "was not uploaded" in caught.value.message
    assert get_run(engine, run).state == "RUNNING"


def test_a_run_that_is_given_back_is_claimed_anew(engine: Engine, blobs: BlobStore) -> None:
    run = claimed(engine)
    assert finish_run(engine, blobs, run, 1, Outcome(state=State.QUEUED), now=AT).state == "QUEUED"
    again = claim_run(engine, "other", now=AT + 1)
    assert again is not None
    assert (again.id, again.attempt) == (run, 2)


def test_runs_are_listed_newest_first_by_what_is_asked_for(engine: Engine) -> None:
    policy = Cause("policy", "p-1")
    names = [queued(engine, AT + i, cause=policy if i % 2 else ANN) for i in range(5)]
    other = queued(engine, AT + 9, RECIPE.replace("coolant", "press"))
    claim_run(engine, "bench", now=AT + 10)
    assert [each.id for each in list_runs(engine).items] == [other, *reversed(names)]
    assert [each.id for each in list_runs(engine, cause=policy).items] == [names[3], names[1]]
    assert [each.id for each in list_runs(engine, model="press").items] == [other]
    assert [each.id for each in list_runs(engine, model="coolant", state="RUNNING").items] == [names[0]]
    seen, after_ = [], None
    for _ in itertools.count():
        page = list_runs(engine, state="QUEUED", limit=2, after=after_)
        seen += [each.id for each in page.items]
        if (after_ := page.next) is None:
            break
    assert seen == [other, *reversed(names[1:])]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (select(runs.c.id).where(runs.c.state == "QUEUED").order_by(runs.c.requested_at, runs.c.id), "state_requested"),
        (select(runs.c.id).where(runs.c.state == "RUNNING", runs.c.heartbeat_at < AT), "state_heartbeat"),
        (
            select(runs.c.id)
            .where(runs.c.cause_kind == "policy", runs.c.cause_id == "p")
            .order_by(runs.c.requested_at.desc(), runs.c.id.desc()),
            "cause_kind",
        ),
    ],
)
def test_what_is_asked_often_is_looked_up(tmp_path: Path, query: object, index: str) -> None:
    from wheeltapper_fleet.db.engine import open_database

    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    text = str(query.compile(engine, compile_kwargs={"literal_binds": True}))  # type: ignore[attr-defined]  # a Select
    with reading(engine) as connection:
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    engine.dispose()
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_a_version_that_is_left_open_is_pinned(engine: Engine, tmp_path: Path) -> None:
    store, _ = made(tmp_path, fleet(2), name="coolant")
    text = RECIPE.replace("coolant@1", "coolant")
    run = queue_run(engine, text, who="ann", cause=ANN, now=AT, datasets=store)
    assert get_run(engine, run).dataset == "coolant@1"
    with pytest.raises(FleetError) as caught:
        queue_run(engine, RECIPE.replace("@1", "@7"), who="ann", cause=ANN, now=AT, datasets=store)
    assert code(caught) == "dataset.not_found"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("recipe = 3", "recipe.malformed"),
        ("recipe = [" * 3000, "recipe.malformed"),
        (RECIPE + "[gates]\nworse = nan\n", "recipe.malformed"),
        (RECIPE + 'side = "test"\n[gates]\nside = "test"\n', "recipe.malformed"),
        (RECIPE + _SEARCH + "e = { low = 1.0, high = inf }\n", "recipe.malformed"),
        (RECIPE + _SEARCH + "e = { low = 1, high = 9, step = nan }\n", "recipe.malformed"),
        (RECIPE + "\n[other]\n", "recipe.malformed"),
        (RECIPE.replace('dataset = "coolant@1"', 'recordings = ["a.npz"]'), "run.recordings"),
        (RECIPE + 'store = "/etc"\n', "run.store"),
        (RECIPE + '[mlflow]\nuri = "sqlite:////etc/mlflow.db"\n', "run.mlflow"),
        (RECIPE.replace("coolant@1", "Coolant"), "dataset.name"),
    ],
)
def test_what_cannot_be_run_elsewhere_is_refused(engine: Engine, text: str, wanted: str) -> None:
    with pytest.raises(FleetError) as caught:
        queued(engine, text=text)
    assert code(caught) == wanted
    assert list_runs(engine).items == []


def test_nothing_moves_a_run_that_ended() -> None:
    for state, event in itertools.product(ENDED, Event):
        with pytest.raises(FleetError) as caught:
            after(state, event, "r-1")
        assert code(caught) == "run.state"
    assert read_recipe(RECIPE).data.dataset == "coolant@1"


def test_a_row_that_cannot_be_read_hides_no_other(engine: Engine) -> None:
    run = queued(engine)
    with engine.begin() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(metrics=[1], gates={"a": 1}))
    found = get_run(engine, run)
    assert (found.metrics, found.gates) == ({}, [])
