"""Two releases side by side, over the API and by the command."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.promotion.test_quality import classifier
from wheeltapper_fleet import tables
from wheeltapper_fleet.cli.app import main
from wheeltapper_protocols.manifest.manifest import Classification, Gate, Manifest, encode_manifest


def published(server: AdminServer, made: Manifest) -> None:
    row: dict[str, Any] = {"model": MODEL, "release": made.release, "path": f"p/{made.release}", "sha256": "0" * 64}
    stored = msgspec.json.decode(encode_manifest(made))
    server.insert(tables.releases, **row, length=1, manifest=stored, published_at=1e9, published_by="a")


def gate(name: str, value: float) -> Gate:
    return Gate(name=name, value=value, limit=0.8, passed=True, detail="95 %: 0.7 to 0.9")


@pytest.fixture
def two(server: AdminServer) -> AdminServer:
    """Releases 3 and 4 of a model, which differ in gates, threshold, recipe parameters and dataset."""
    lineage = {"dataset": "rig@1", "parameters": '{"epochs":5,"folds":3}', "recording-0": "a", "recording-1": "b"}
    published(server, classifier(gates=[gate("auroc", 0.9), gate("size", 0.5)], lineage=lineage))
    lineage = {"dataset": "rig@2", "parameters": '{"epochs":9,"folds":3}', "recording-0": "a"}
    other = Classification(classes=["normal", "worn"], normal=["normal"], threshold=0.7)
    made = classifier(gates=[gate("auroc", 0.95), gate("latency", 0.1)], lineage=lineage, classification=other)
    published(server, msgspec.structs.replace(made, release=4))
    return server


def test_gates_differences_and_lineage_stand_side_by_side(two: AdminServer) -> None:
    with two.http() as http:
        found = http.get(f"/api/v1/releases/{MODEL}/3/compare", params={"other": 4}).json()
        assert [each["name"] for each in found["gates"]] == ["auroc", "size", "latency"]
        assert (found["gates"][0]["one"]["value"], found["gates"][0]["other"]["value"]) == (0.9, 0.95)
        assert found["gates"][0]["one"]["detail"] == "95 %: 0.7 to 0.9"
        assert (found["gates"][1]["other"], found["gates"][2]["one"]) == (None, None)
        assert found["differences"] == [{"path": "classification.threshold", "one": "0.5", "other": "0.7"}]
        assert {each["path"]: (each["one"], each["other"]) for each in found["lineage"]} == {
            "dataset": ("rig@1", "rig@2"), "parameters.epochs": ("5", "9"), "recordings": ("2", "1")
        }  # fmt: skip
        assert found["bytes_one"] == found["bytes_other"] > 0
        assert found["field_one"]["precision"] is None
        same = http.get(f"/api/v1/releases/{MODEL}/3/compare", params={"other": 3}).json()
        assert (same["differences"], same["lineage"]) == ([], [])
        assert (
            http.get(f"/api/v1/releases/{MODEL}/3/compare", params={"other": 9}).json()["code"] == "release.not_found"
        )


def test_what_people_found_counts_for_its_release(
    two: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHEELTAPPER_URL", two.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", two.token)
    for case, (release, verdict) in enumerate(
        ((3, "true_fault"), (3, "false_alarm"), (3, "true_fault"), (4, "unclear"))
    ):
        row: dict[str, Any] = {"case_id": case, "episode": 1, "device": "press-1", "pipeline": "main", "model": MODEL}
        row |= {"release": release, "verdict": verdict, "who": "ann", "from_t_s": 0.0, "to_t_s": 1.0}
        two.insert(tables.labels, **row, from_at=1.0, to_at=2.0, resolved_at=1.79e9)
    with two.http() as http:
        found = http.get(f"/api/v1/releases/{MODEL}/3/compare", params={"other": 4, "since": 1}).json()
    assert (found["field_one"]["true_faults"], found["field_one"]["false_alarms"]) == (2, 1)
    assert found["field_one"]["precision_low"] < found["field_one"]["precision"] < found["field_one"]["precision_high"]
    assert found["field_other"]["precision"] is None
    outs = []
    for more in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "release", "compare", MODEL, "3", "4", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        outs.append(capsys.readouterr().out)
    assert "parameters.epochs" in outs[0]
    assert "0.95 (limit 0.8)" in outs[0]
    assert "not measured" in outs[0]
    assert json.loads(outs[1])["gates"][2]["name"] == "latency"
