"""Policies and candidates from outside: routes, commands, who may do what, and an approval that signs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.learning.policies.circle import POLICY
from tests.fleet.promotion.test_quality import classifier, published, runs, say
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.client import policy_calls
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.service import add_candidate
from wheeltapper_fleet.learning.policies.observing import look
from wheeltapper_fleet.learning.policies.spec import parse_policy, read_policy
from wheeltapper_fleet.learning.runs.rules import Cause, Outcome, State
from wheeltapper_fleet.learning.runs.service import claim_run, finish_run, queue_run
from wheeltapper_fleet.registry.aliases import set_alias
from wheeltapper_fleet.trust.keys import team_key

API = "/api/v1"
RECIPE = f'recipe = "anomaly"\nmodel = "{MODEL}"\n[data]\ndataset = "fans@1"\n'


def made_candidate(server: AdminServer, folder: Path, number: int = 1) -> str:
    """A candidate that a run of a policy made."""
    run = queue_run(server.engine, RECIPE, who="policy p", cause=Cause("policy", f"p/{number}"), now=1e9)
    assert claim_run(server.engine, "bench", now=1e9) is not None
    write_bundle(folder, MODEL, number, (PASSED,))
    shas = {each.name: server.blobs.put_bytes(each.read_bytes()).sha256 for each in folder.iterdir()}
    outcome = Outcome(state=State.SUCCEEDED, result=shas["manifest.json"])
    found = finish_run(server.engine, server.blobs, run, 1, outcome, now=1e9)
    with server.engine.begin() as connection:
        return add_candidate(connection, found, policy="p", cycle=number, now=1e9)


def run(server: AdminServer, *arguments: str) -> Any:
    """What a command prints as JSON."""
    token = server.data_dir / "api-token"
    done = CliRunner().invoke(app, [*arguments, "--url", server.url, "--token-file", str(token), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_policies_over_the_api(server: AdminServer) -> None:
    with server.http() as http:
        made = http.post(f"{API}/policies", json={"text": POLICY})
        assert made.status_code == 201, made.text
        assert (made.json()["name"], made.json()["stage"], made.json()["text"]) == ("fan-speed", "WATCHING", POLICY)
        refused = http.post(f"{API}/policies", json={"text": POLICY.replace("devices = 0.5", "devices = 2.0")})
        assert (refused.status_code, refused.json()["code"]) == (422, "policy.invalid")
        assert "$.when.drift.devices" in refused.json()["detail"]
        other = http.post(f"{API}/policies", json={"text": POLICY.replace("fan-anomaly", MODEL)})
        assert (other.status_code, other.json()["code"]) == (409, "policy.model")
        assert http.post(f"{API}/policies/fan-speed/pause", json={"why": "holidays"}).json()["paused"]
        assert http.post(f"{API}/policies/fan-speed/pause", json={}).status_code == 409
        assert not http.post(f"{API}/policies/fan-speed/resume", json={}).json()["paused"]
        assert http.post(f"{API}/policies/fan-speed/burn", json={}).status_code == 404
        events = http.get(f"{API}/policies/fan-speed/events").json()["items"]
        assert [(each["kind"], each["detail"]) for each in events[:2]] == [
            ("resumed", "by first"), ("paused", "by first: holidays")
        ]  # fmt: skip
        causes = http.get(f"{API}/policies/fan-speed/events/{events[0]['id']}/causes").json()["chain"]
        assert [each["kind"] for each in causes] == ["resumed", "paused", "applied"]
        assert [each["name"] for each in http.get(f"{API}/policies?model=fan-anomaly").json()["items"]] == ["fan-speed"]
        assert http.get(f"{API}/policies?model=pump").json()["items"] == []
        assert http.post(f"{API}/policies/fan-speed/remove", json={}).status_code == 204
        assert http.get(f"{API}/policies/fan-speed").status_code == 404


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", set()),
        ("operator", {"pause"}),
        ("approver", {"reject"}),
        ("release-manager", {"apply", "pause", "resume", "reject", "remove"}),
    ],
)
def test_who_may_do_what(server: AdminServer, tmp_path: Path, role: str, may: set[str]) -> None:
    with server.http() as http:
        http.post(f"{API}/policies", json={"text": POLICY})
    candidate = made_candidate(server, tmp_path / "bundle")
    with server.http(server.token_of(role)) as http:
        assert http.get(f"{API}/policies").status_code == http.get(f"{API}/candidates").status_code == 200
        asked = {
            "apply": http.post(f"{API}/policies", json={"text": POLICY}),
            "pause": http.post(f"{API}/policies/fan-speed/pause", json={}),
            "resume": http.post(f"{API}/policies/fan-speed/resume", json={}),
            "reject": http.post(f"{API}/candidates/{candidate}/reject", json={"why": "no"}),
            "remove": http.post(f"{API}/policies/fan-speed/remove", json={}),
        }
    assert {name for name, answer in asked.items() if answer.status_code != 403} == may


def test_approving_is_signing(server: AdminServer, tmp_path: Path) -> None:
    candidate = made_candidate(server, tmp_path / "bundle")
    shown = run(server, "candidate", "show", candidate)
    assert (shown["state"], shown["policy"], shown["gates"][0]["name"]) == ("WAITING", "p", PASSED.name)
    key = str(team_key(server.keys_dir, MODEL))
    other = CliRunner().invoke(app, [
        "candidate", "approve", candidate, "--no-self-test", "--key", str(tmp_path / "no.pem"),
        "--url", server.url, "--token-file", str(server.data_dir / "api-token"),
    ])  # fmt: skip
    assert other.exit_code != 0
    assert run(server, "candidate", "list", "--state", "WAITING")[0]["id"] == candidate
    approved = run(server, "candidate", "approve", candidate, "--key", key, "--no-self-test", "--why", "seen")
    assert (approved["state"], approved["release"], approved["why"]) == ("APPROVED", 1, "seen")
    assert run(server, "release", "alias", "list")[0]["release"] == 1
    with FleetClient(server.url, server.token) as client:
        assert client.verify_release(MODEL, 1)["verified"]
        with pytest.raises(FleetError, match=r"\[candidate\.decided\]"):
            policy_calls.publish_candidate(client, candidate, key, tmp_path / "again", test=lambda _: None)
        manifest = server.app.state.context.releases.manifest(MODEL, 1)
    known = {name: manifest.lineage[name] for name in ("candidate", "run", "policy", "policy_cycle")}
    assert known == {"candidate": candidate, "run": shown["run"], "policy": "p", "policy_cycle": "1"}


def test_what_fails_its_test_is_not_signed(server: AdminServer, tmp_path: Path) -> None:
    candidate = made_candidate(server, tmp_path / "bundle")
    key = str(team_key(server.keys_dir, MODEL))

    def refuse(bundle: Path) -> None:
        raise FleetError("bundle.self_test", f"{bundle.name} does not do what it says")

    with FleetClient(server.url, server.token) as client:
        with pytest.raises(FleetError, match=r"\[bundle\.self_test\]"):
            policy_calls.publish_candidate(client, candidate, key, tmp_path / "out", test=refuse)
        assert client.releases() == []


def test_an_approval_goes_on_where_it_was_broken_off(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = made_candidate(server, tmp_path / "bundle")
    key = str(team_key(server.keys_dir, MODEL))
    with FleetClient(server.url, server.token) as client:
        with monkeypatch.context() as patch:
            patch.setattr(FleetClient, "call", broken_approval(FleetClient.call))
            with pytest.raises(ConnectionError):
                policy_calls.publish_candidate(client, candidate, key, tmp_path / "first", test=lambda _: None)
        made = policy_calls.publish_candidate(client, candidate, key, tmp_path / "second", test=lambda _: None)
        assert (made["release"], len(client.releases())) == (1, 1)


def broken_approval(real: Any) -> Any:
    """A connection that breaks when the approval is told."""

    def call(self: FleetClient, method: str, path: str, *arguments: Any, **query: Any) -> Any:
        if path.endswith("/approve"):
            raise ConnectionError
        return real(self, method, path, *arguments, **query)

    return call


def test_policies_on_the_command_line(server: AdminServer, tmp_path: Path) -> None:
    file = tmp_path / "fan.toml"
    file.write_text(POLICY)
    assert run(server, "policy", "apply", str(file))["stage"] == "WATCHING"
    assert run(server, "policy", "pause", "fan-speed", "--why", "holidays")["paused"]
    assert run(server, "policy", "resume", "fan-speed")["stage"] == "WATCHING"
    log = run(server, "policy", "log", "fan-speed", "--limit", "2")
    assert [each["kind"] for each in log] == ["resumed", "paused"]
    why = run(server, "policy", "log", "fan-speed", "--why", str(log[0]["id"]))
    assert [each["kind"] for each in why] == ["resumed", "paused", "applied"]
    assert [each["name"] for each in run(server, "policy", "list", "--model", "fan-anomaly")] == ["fan-speed"]
    plain = CliRunner().invoke(app, [
        "policy", "show", "fan-speed", "--url", server.url, "--token-file", str(server.data_dir / "api-token")
    ])  # fmt: skip
    assert "WATCHING since" in plain.stdout
    assert 'name = "fan-speed"' in plain.stdout
    assert run(server, "policy", "remove", "fan-speed")["removed"]
    assert run(server, "policy", "list") == []


def test_estimated_quality_begins_a_cycle(server: AdminServer) -> None:
    made, now = published(server, classifier()), time.time()
    set_alias(server.engine, MODEL, "champion", 3, who="ann", why="", now=now)
    for number in range(3):
        runs(server, f"press-{number}")
        say(server, made, f"press-{number}", [0.7] * 200, 1, now - 60)  # as often right as wrong, in training
    when = '[when.quality]\nfigure = "accuracy"\nlimit = '
    text = POLICY.replace("fan-anomaly", MODEL).replace("[when.drift]\ndevices = 0.5\nwindows = 50", when + "0.8")
    release, seen = look(server.engine, read_policy(parse_policy(text)), now)
    assert (release, len(seen.findings), len(seen.others)) == (3, 1, 3)
    assert seen.said.startswith("accuracy is estimated as 0.6, between")
    _, seen = look(server.engine, read_policy(parse_policy(text.replace("0.8", "0.5"))), now)
    assert seen.findings == ()
    _, seen = look(server.engine, read_policy(parse_policy(text.replace('"accuracy"', '"mae"'))), now)
    assert (seen.findings, seen.said) == ((), "mae is no figure of classification")
    _, seen = look(server.engine, read_policy(parse_policy(text)), now - 86_400)
    assert seen.findings == ()
    assert "cannot be estimated" in seen.said
