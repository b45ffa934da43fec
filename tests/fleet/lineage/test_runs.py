"""Runs in the lineage: from a recording to the runs on it, from a run to its candidate and its releases; candidates of
runs that a person asked for."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.fleet.api.harness import AdminServer
from tests.fleet.db.test_every_migration import at_revision
from tests.fleet.learning.rig import coming, fleet, vibration
from tests.fleet.lineage.test_lineage import MODEL, add_release
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet.access.tokens import create_api_token
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.rules import Cause, Outcome, State
from wheeltapper_fleet.learning.runs.service import claim_run, finish_run, queue_run
from wheeltapper_fleet.lineage.contents import index_turn
from wheeltapper_protocols.signal.recording import recording_bytes

RECORDING = vibration(7)
SHA256 = hashlib.sha256(recording_bytes(RECORDING)).hexdigest()
RECIPE = f'recipe = "anomaly"\nmodel = "{MODEL}"\n[data]\ndataset = "rig@{{version}}"\n'


def queued(server: AdminServer, version: int, cause: Cause, at: float) -> str:
    store = DatasetStore(server.data_dir / "datasets")
    text = RECIPE.format(version=version)
    return queue_run(server.engine, text, who="ann", cause=cause, now=at, datasets=store)


@pytest.fixture
def trained(server: AdminServer, tmp_path: Path) -> list[str]:
    """Four runs: on a version without the recording, two on versions with it of which one made a bundle, one of a
    policy that made one too."""
    store = DatasetStore(server.data_dir / "datasets")
    import_version(store, "rig", fleet(2))
    for count in (1, 2):
        import_version(store, "rig", [coming(RECORDING, "mill"), *fleet(count)])
    while index_turn(server.engine, lambda: store)(0.0):
        pass
    person = Cause("person", "ann")
    found = [queued(server, 1, person, 1.0), queued(server, 2, person, 2.0)]
    found += [queued(server, 3, person, 3.0), queued(server, 3, Cause("policy", "p/1"), 4.0)]
    write_bundle(tmp_path / "bundle", MODEL, 1, (PASSED,))
    for file in (tmp_path / "bundle").iterdir():
        server.blobs.put_bytes(file.read_bytes())
    result = hashlib.sha256((tmp_path / "bundle" / "manifest.json").read_bytes()).hexdigest()
    for number, run in enumerate(found):
        claim = claim_run(server.engine, "bench", now=10.0)
        assert claim is not None
        assert claim.id == run
        outcome = Outcome(state=State.FAILED, error_code="training.gate_failed")
        if number > 1:
            outcome = Outcome(state=State.SUCCEEDED, result=result)
        finish_run(server.engine, server.blobs, run, 1, outcome, now=11.0)
    return found


def test_a_recording_leads_to_runs_and_a_run_to_what_became_of_it(
    server: AdminServer, trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_release(server.engine, 5, {"dataset": "rig@3", "run": trained[2]})
    with FleetClient(server.url, server.token) as client:
        ran = list(client.recording_runs(SHA256))
        assert [(each["id"], each["state"], each["dataset"]) for each in ran] == [
            (trained[3], "SUCCEEDED", "rig@3"), (trained[2], "SUCCEEDED", "rig@3"), (trained[1], "FAILED", "rig@2"),
        ]  # fmt: skip
        assert [each["id"] for each in client.runs(dataset="rig@3")] == [trained[3], trained[2]]
        assert client.release_lineage(MODEL, 5)["run"] == trained[2]
        made = client.make_candidate(trained[2])
        found = client.run_lineage(trained[2])
        assert (found["candidate"], found["candidate_state"], found["policy"]) == (made["id"], "WAITING", None)
        assert found["releases"] == [{"model": MODEL, "release": 5, "published_at": 50.0}]
        assert found["run"]["dataset"] == "rig@3"
        with pytest.raises(FleetError) as caught:
            client.run_lineage("r-000000000000")
        assert caught.value.code == "run.not_found"
        with pytest.raises(FleetError) as caught:
            list(client.recording_runs("0" * 64))
        assert caught.value.code == "lineage.recording"
    scoped = create_api_token(
        server.engine, "hall", ("viewer",), expires_at=None, who="test", now=1.0, scope="tag.customer = a"
    )
    with server.http(scoped.token) as http:
        refused = http.get(f"/api/v1/lineage/recordings/{SHA256}/runs")
        assert refused.json()["code"] == "lineage.recording", "it is of no device of theirs"
        assert http.get(f"/api/v1/lineage/runs/{trained[2]}").status_code == 403
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    said = run("lineage", "run", trained[2])
    assert f"candidate: {made['id']} WAITING" in said
    assert f"{MODEL}" in said.splitlines()[-1]
    assert trained[1] in run("lineage", "recording", SHA256)
    listed = json.loads(run("run", "list", "--dataset", "rig@2", "--json"))
    assert [each["id"] for each in listed] == [trained[1]]


def test_a_run_that_a_person_asked_for_becomes_a_candidate_once(server: AdminServer, trained: list[str]) -> None:
    with FleetClient(server.url, server.token) as client:
        made = client.make_candidate(trained[2])
        assert (made["run"], made["policy"], made["state"]) == (trained[2], "", "WAITING")
        assert client.make_candidate(trained[2])["id"] == made["id"]
        for run, code in ((trained[1], "candidate.no_bundle"), (trained[3], "candidate.policy")):
            with pytest.raises(FleetError) as caught:
                client.make_candidate(run)
            assert (caught.value.code, caught.value.status) == (code, 409)
    with FleetClient(server.url, server.token_of("viewer")) as client, pytest.raises(FleetError) as caught:
        client.make_candidate(trained[2])
    assert caught.value.code == "api.forbidden"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_knows_the_runs_of_releases_and_datasets(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/old.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    url = url.replace("postgresql://", "postgresql+psycopg://")
    run: dict[str, Any] = {"state": "FAILED", "model": "m", "recipe": "anomaly", "recipe_toml": "", "seed": 0}
    run |= {"cause_kind": "person", "cause_id": "a", "requested_at": 1.0, "requested_by": "a", "attempt": 0}
    run |= {"silences": 0, "progress_text": ""} | dict.fromkeys(("parameters", "metrics", "digests", "plots"), "{}")
    run |= dict.fromkeys(("gates", "warnings", "trials"), "[]")
    with at_revision(url, "0041") as old, old.begin() as connection:
        for number, dataset in enumerate(("rig@12", "rig", "", "rig@0", "rig@123456789")):
            row = run | {"id": f"r-{number:012x}", "dataset": dataset}
            names = ", ".join(row)
            connection.execute(text(f"INSERT INTO runs ({names}) VALUES (:{', :'.join(row)})"), row)
        manifests = (
            '{"lineage": {"run": "r-000000000001"}}',
            '{"lineage": {"run": 5}}',
            "{}",
            '{"lineage": {"run": "x"}}',
        )
        for number, manifest in enumerate(manifests):
            row = {"number": number, "path": f"p{number}", "manifest": manifest}
            connection.execute(
                text(
                    "INSERT INTO releases (model, release, path, sha256, length, manifest, published_at, published_by)"
                    " VALUES ('m', :number, :path, '', 1, :manifest, 0, 'a')"
                ),
                row,
            )
    open_database(url).dispose()
    made = create_engine(url)
    with made.connect() as connection:
        known = connection.execute(text("SELECT dataset, dataset_name, dataset_version FROM runs ORDER BY id")).all()
        by_run = connection.execute(text("SELECT run, model, release FROM release_runs")).all()
    made.dispose()
    assert [tuple(row) for row in known] == [
        ("rig@12", "rig", 12), ("rig", None, None), ("", None, None), ("rig@0", None, None),
        ("rig@123456789", None, None),
    ]  # fmt: skip
    assert [tuple(row) for row in by_run] == [("r-000000000001", "m", 0)]
