"""Quality without labels, over the API and by the command: from reports of devices to figures, and what lacks."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import update

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.telemetry.test_drift import keep, report
from tests.vectors.make_signal_vectors import manifest as small_manifest
from wheeltapper_fleet import tables
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.devices.reported import Said, store_reported
from wheeltapper_protocols.drift.drift import DriftSpec, Reference
from wheeltapper_protocols.drift.estimation import EstimationSpec, GroupCounts
from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.manifest.manifest import Classification, Manifest, RawInput, decode_manifest, encode_manifest

EDGES = [0.0, 0.5, 1.0, 2.0]
GROUP = GroupCounts(windows=[0, 100, 50, 50, 0], right=[0, 98, 30, 45, 0], faults=[0, 1, 10, 40, 0])


def classifier(**changes: Any) -> Manifest:
    made = msgspec.structs.replace(
        small_manifest(),
        model=MODEL,
        release=3,
        task="classification",
        features=[],
        scoring=None,
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0]),
        classification=Classification(classes=["normal", "worn"], normal=["normal"]),
        drift=DriftSpec(features=[], score=Reference(edges=EDGES, counts=[0, 100, 40, 10, 0], mean=0.3, deviation=0.2)),
        estimation=EstimationSpec(kind="classification", groups=[GROUP] * 4),
    )
    return msgspec.structs.replace(made, **changes)


def published(server: AdminServer, made: Manifest) -> Manifest:
    content = encode_manifest(made)
    row = {"model": MODEL, "release": made.release, "path": f"releases/{MODEL}/3/manifest.json", "sha256": "0" * 64}
    stored = msgspec.json.decode(content)
    server.insert(tables.releases, **row, length=1, manifest=stored, published_at=1e9, published_by="a")
    return made


def say(server: AdminServer, made: Manifest, device: str, scores: list[float], seq: int, at: float) -> None:
    values = np.zeros((len(scores), 0))
    score = encode_sketches(Bins([EDGES]).sketch(np.array(scores)[:, None]))
    keep(server, device, report(made, values, seq, score=score, windows=len(scores), last_window=len(scores)), at)


def runs(server: AdminServer, device: str) -> None:
    server.add_device(device, status=None)
    with server.engine.begin() as connection:
        said = {"pipelines": {"main": {"model": MODEL, "release": 3}}}
        store_reported(connection, [Said(device, None, said)], 1.0)


def test_reports_of_devices_become_figures(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, now = published(server, classifier()), time.time()
    for number in range(3):
        runs(server, f"press-{number}")
    say(server, made, "press-0", [0.2] * 90 + [1.5] * 10, 1, now - 60)
    say(server, made, "press-1", [0.2] * 60, 1, now - 50)
    path = f"/api/v1/releases/{MODEL}/3/quality"
    with server.http() as http:
        found = http.get(path).json()
        assert (found["devices"], found["running"], found["reports"], found["windows"]) == (2, 3, 2, 160)
        figures = {each["name"]: each for each in found["figures"]}
        assert figures["accuracy"]["value"] == pytest.approx((150 * 0.98 + 10 * 0.9) / 160)
        assert figures["accuracy"]["reference"] == pytest.approx(173 / 200)
        assert figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"]
        assert figures["precision"]["value"] is None
        assert figures["precision"]["why"] == "10 windows; at least 100 are needed"
        alone = http.get(path, params={"device": "press-1"}).json()
        assert (alone["devices"], alone["running"], alone["figures"][0]["value"]) == (1, None, None)
        nothing = http.get(path, params={"since": 1, "until": 2}).json()
        assert (nothing["windows"], nothing["score_psi"]) == (0, None)
        assert {each["value"] for each in nothing["figures"]} == {None}
        assert http.get(path.replace("/3/", "/4/")).json()["code"] == "release.not_found"
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "release", "quality", MODEL, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    code, out = run(3)
    assert (code, out.splitlines()[0]) == (0, "160 windows of 2 devices of 3 pipelines that run it, 2 reports")
    assert "accuracy   0.975" in out
    assert json.loads(run(3, "--device", "press-0", "--json")[1])["windows"] == 100
    assert run(4)[0] == 1


def test_a_release_without_the_section_is_not_measured(server: AdminServer) -> None:
    published(server, classifier(estimation=None))
    with server.http() as http:
        refused = http.get(f"/api/v1/releases/{MODEL}/3/quality")
        assert (refused.status_code, refused.json()["code"]) == (404, "quality.not_measured")
        with server.engine.begin() as connection:
            connection.execute(update(tables.releases).values(manifest={"format": 9}))
        assert http.get(f"/api/v1/releases/{MODEL}/3/quality").json()["code"] == "release.unreadable"


def test_the_section_is_of_the_bins_and_the_task_of_the_manifest() -> None:
    whole = encode_manifest(classifier())
    assert decode_manifest(whole).estimation == classifier().estimation
    assert b"estimation" not in encode_manifest(classifier(estimation=None))
    short = GroupCounts(windows=[0, 1, 0], right=[0, 1, 0], faults=[0, 0, 0])
    life = GroupCounts(windows=[0, 1, 0, 0, 0], absolute=[0.0, 1.0, 0.0, 0.0, 0.0], squared=[0.0, 1.0, 0.0, 0.0, 0.0])
    for changes in (
        {"estimation": EstimationSpec(kind="classification", groups=[short])},
        {"estimation": EstimationSpec(kind="remaining_life", groups=[life])},
        {"drift": None},
    ):
        with pytest.raises(ValueError, match="section estimation"):
            classifier(**changes)


def test_an_alias_may_ask_for_the_estimated_quality(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, now = published(server, classifier()), time.time()
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "release", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        caught = capsys.readouterr()
        return int(ended.value.code or 0), caught.out + caught.err

    assert "accuracy estimated at least 0.9 in 24 h" in run(
        "rule", "set", MODEL, "champion", "--quality", "accuracy=0.9", "--quality-hours", 24
    )[1]  # fmt: skip
    code, said = run("rule", "set", MODEL, "champion", "--quality", "accuracy")
    assert (code, "[cli.quality]" in said) == (2, True)
    assert run("rule", "set", MODEL, "champion", "--quality", "beauty=1")[0] != 0
    refused = run("alias", "set", MODEL, "champion", 3)[1]
    assert "quality accuracy: needs estimated at least 0.9 with 95 % confidence, in 24 h, found not known" in refused
    say(server, made, "press-0", [0.2] * 90 + [1.5] * 10, 1, now - 60)
    say(server, made, "press-1", [0.2] * 60, 1, now - 50)
    assert run("promote", MODEL, 3, "--to", "champion")[0] == 0
    with server.http() as http:
        assert http.get(f"/api/v1/models/{MODEL}/aliases/champion").json()["release"] == 3
