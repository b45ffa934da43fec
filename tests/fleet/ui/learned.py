"""What a fleet has learned from: datasets, runs, a policy, a candidate; put into a server's database and stores."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.learning.policies.circle import POLICY
from tests.fleet.learning.rig import HALVES, coming, fleet, vibration
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet import tables
from wheeltapper_fleet.learning.candidates.service import add_candidate
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.policies.service import apply_policy
from wheeltapper_fleet.learning.runs.rules import Cause, Outcome, State
from wheeltapper_fleet.learning.runs.service import claim_run, finish_run, queue_run, report_progress
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.training.runs.plots import loss_plot

__all__ = ["datasets", "many_runs", "policy", "run_under_way", "succeeded"]

AT = 1.79e9


def recipe(seed: int, dataset: str = "fans@1") -> str:
    return f'recipe = "anomaly"\nmodel = "{MODEL}"\nseed = {seed}\n[data]\ndataset = "{dataset}"\n'


def datasets(server: AdminServer) -> None:
    """Two versions of the dataset ``fans``: the second one has a machine more."""
    store = server.app.state.context.datasets
    import_version(store, "fans", fleet(4), request=HALVES)
    more = [coming(vibration(99), machine="machine-99")]
    import_version(store, "fans", [*fleet(4), *more], request=HALVES)


def succeeded(server: AdminServer, folder: Path, seed: int, rmse: float, *, policy: str = "") -> str:
    """A run that made a bundle, with a plot; of a ``policy`` it is a candidate too. Returns the run's id."""
    cause = Cause("policy", f"{policy}/{seed}") if policy else Cause("person", "ann")
    run = queue_run(server.engine, recipe(seed), who="ann", cause=cause, now=AT + seed)
    assert claim_run(server.engine, "bench", now=AT + seed) is not None
    write_bundle(folder, MODEL, 1, (PASSED,))
    shas = {each.name: server.blobs.put_bytes(each.read_bytes()).sha256 for each in folder.iterdir()}
    plot = server.blobs.put_bytes(loss_plot({"net": [1.0, 0.5, rmse]}).encode()).sha256
    outcome = Outcome(
        state=State.SUCCEEDED,
        result=shas["manifest.json"],
        metrics={"rmse": rmse},
        digests={"data": "0" * 64, "model": f"{seed:064x}"},
        parameters={"epochs": "30", "seed": str(seed)},
        plots={"loss": plot},
    )
    found = finish_run(server.engine, server.blobs, run, 1, outcome, now=AT + seed + 60)
    if policy:
        with server.engine.begin() as connection:
            add_candidate(connection, found, policy=policy, cycle=seed, now=AT + seed + 60)
    return run


def run_under_way(server: AdminServer, progress: float) -> str:
    """A run that a trainer has; returns its id."""
    run = queue_run(server.engine, recipe(7), who="ann", cause=Cause("person", "ann"), now=AT + 500)
    assert claim_run(server.engine, "bench", now=AT + 500) is not None
    report_progress(server.engine, run, 1, progress=progress, text="net 1 of 2", now=AT + 501)
    return run


def many_runs(server: AdminServer, count: int) -> None:
    """So many runs that failed, with all the metrics that a run may have."""
    run = queue_run(server.engine, recipe(1), who="ann", cause=Cause("person", "ann"), now=AT)
    with server.engine.begin() as connection:
        row = dict(connection.execute(runs.select().where(runs.c.id == run)).one()._mapping)
        connection.execute(runs.delete())
        row |= {"state": "FAILED", "metrics": {f"metric-{number}": number / 7 for number in range(500)}}
        rows = [{**row, "id": f"r-{number:012x}", "requested_at": AT + number} for number in range(count)]
        connection.execute(tables.metadata.tables["runs"].insert(), rows)


def policy(server: AdminServer) -> None:
    """The policy ``fan-speed``."""
    apply_policy(server.engine, POLICY, who="ann", now=AT)
