"""A fleet that is nearly a year old, as a real service: it says what ends, refuses what would end, and is renewed while
it runs. Then it gets a second model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet.cli.test_cli import run, served, start
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import MODEL, PASSED, Clock, World
from wheeltapper_fleet.client.fleet_client import FleetClient, find_fleet
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.keys import init_keys

AGE_SECONDS = 360 * 86_400.0
SECOND_MODEL = "gear-anomaly"


@pytest.fixture
def old_fleet(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Keys and data folder of a running service whose keys were made 360 days ago, with one release and one device."""
    clock = Clock()
    clock.now -= AGE_SECONDS
    init_keys(tmp_path / "offline", tmp_path / "data", [MODEL], clock=clock)
    world = World(tmp_path, clock)
    world.publish(1)
    world.enrol("press-1")
    world.engine.dispose()
    process: subprocess.Popen[bytes] = start(world.data_dir)
    yield world.keys_dir, world.data_dir
    process.terminate()
    log = process.communicate(timeout=20)[1].decode()
    assert "root ends in 4 days" in log or "root ends in 5 days" in log, log


def test_an_old_fleet_warns_refuses_and_is_renewed_while_it_runs(old_fleet: tuple[Path, Path], tmp_path: Path) -> None:
    keys_dir, data_dir = old_fleet
    folders = ("--keys-dir", str(keys_dir), "--data-dir", str(data_dir))
    found = find_fleet(data_dir)
    with FleetClient(found.url, found.token) as client:
        health = client.healthz()
        ending = {item["name"]: item for item in health["ending"]}
        assert health["ok"], "what ends is no fault yet"
        assert health["days_left"] in {4, 5}
        assert set(ending) == {"root", "targets", MODEL, "device certificate"}
        assert ending["root"]["state"] == "ending"
        assert ending["root"]["days_left"] in {4, 5}
        assert "keys renew" in ending["root"]["todo"]

        page = _page(found.url, found.token)
        assert "root ends in" in page
        assert "run `wheeltapper keys renew" in page

        status = {item["name"]: item for item in _json(run("keys", "status", *folders[2:], "--json"))}
        assert {"root", "targets", "snapshot", "timestamp", MODEL, "CA certificate", "server certificate"} <= set(
            status
        )
        assert (status["root"]["keys"], status["root"]["threshold"]) == (2, 2)
        assert (status["director"]["keys"], status["director"]["expires_at"], status["director"]["todo"]) == (
            1,
            None,
            None,
        )
        assert status["server certificate"]["state"] == status["timestamp"]["state"] == "ok"

        bundle = tmp_path / "bundle"
        write_bundle(bundle, MODEL, 2, (PASSED,))
        team = keys_dir / f"team-{MODEL}.pem"
        assert "director" in run("keys", "status", *folders[2:]).stdout
        publish = (
            "release",
            "publish",
            "--bundle",
            str(bundle),
            "--key",
            str(team),
            *folders[2:],
            "--no-self-test",
            "--json",
        )
        refused = run(*publish)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "[trust.expired]" in refused.stderr
        assert "wheeltapper keys renew" in refused.stderr
        with pytest.raises(FleetError) as caught:
            client.create_campaign({"model": MODEL, "release": 1, "execution_deadline_seconds": 20 * 86_400.0})
        assert caught.value.code == "trust.expired"
        short = client.create_campaign({"model": MODEL, "release": 1})  # an hour: over before the metadata end

        renewed = _json(run("keys", "renew", *folders, "--json"))
        assert renewed == {"renewed": ["root", "targets", MODEL]}
        health = client.healthz()
        assert [item["name"] for item in health["ending"]] == ["device certificate"]
        assert health["days_left"] in {364, 365}
        assert "root ends in" not in _page(found.url, found.token)
        assert _json(run(*publish))["release"] == 2
        client.create_campaign({"model": MODEL, "release": 1, "execution_deadline_seconds": 20 * 86_400.0})
        assert client.act(short["id"], "start")["state"] != "DRAFT"

        added = _json(run("keys", "add-model", SECOND_MODEL, *folders, "--json"))
        again = run("keys", "add-model", SECOND_MODEL, *folders)
        assert (again.returncode, "[keys.model_exists]" in again.stderr) == (1, True)
        second = tmp_path / "second"
        write_bundle(second, SECOND_MODEL, 1, (PASSED,))
        made = _json(
            run(
                "release",
                "publish",
                "--bundle",
                str(second),
                "--key",
                added["key"],
                *folders[2:],
                "--no-self-test",
                "--json",
            )
        )
        assert (made["model"], made["release"]) == (SECOND_MODEL, 1)
        assert client.verify_release(SECOND_MODEL, 1)["verified"]
        assert served(data_dir)["pid"], "the service ran all the time"


def test_a_campaign_is_not_started_when_it_could_not_end(tmp_path: Path) -> None:
    """It was created when there was time left."""
    clock = Clock()
    init_keys(tmp_path / "offline", tmp_path / "data", [MODEL], clock=clock)
    world = World(tmp_path, clock)
    world.publish(1)
    world.enrol("press-1")
    world.engine.dispose()
    process = start(world.data_dir)
    try:
        found = find_fleet(world.data_dir)
        with FleetClient(found.url, found.token) as client:
            campaign = client.create_campaign({"model": MODEL, "release": 1, "soak_seconds": 9 * 86_400.0})["id"]
            for role in ("root", "targets"):
                _shorten(world, role)
            with pytest.raises(FleetError) as caught:
                client.act(campaign, "start")
            assert caught.value.code == "trust.expired"
            assert client.campaign(campaign)["state"] == "DRAFT"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _shorten(world: World, role: str) -> None:
    """Sign a role for a week only."""
    from wheeltapper_fleet.trust.ceremony import renew_roles
    from wheeltapper_fleet.trust.keys import Lifetimes

    week = Lifetimes(root_seconds=7 * 86_400.0, targets_seconds=7 * 86_400.0)
    renew_roles(world.keys_dir, world.data_dir, [role], clock=world.clock, lifetimes=week)


def _page(url: str, token: str) -> str:
    """The page as a person sees it who has signed in."""
    with httpx.Client(base_url=url, trust_env=False, follow_redirects=True) as browser:
        browser.post("/sign-in", data={"token": token})
        return browser.get("/").text


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
