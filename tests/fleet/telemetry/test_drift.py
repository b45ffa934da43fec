"""Drift of a release: reports of several devices through the ingest's store, over HTTP back as one comparison."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from tests.fleet.api.harness import MODEL, AdminServer
from tests.vectors.make_signal_vectors import manifest as small_manifest
from wheeltapper_fleet import tables
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.telemetry import views
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.drift.drift import fit_drift_spec
from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.manifest.manifest import Manifest, encode_manifest
from wheeltapper_protocols.signal.features import FeatureSpec
from wheeltapper_protocols.wire.messages import DriftEvent, DriftReport, Report

EPOCH = "0123456789abcdef"
FEATURES = 3
TRAINED = np.random.default_rng(0).normal(1.0, 0.5, (1000, FEATURES)).astype(np.float32)
SCORES = np.random.default_rng(1).normal(0.3, 0.05, 1000)


def released(server: AdminServer, release: int = 3, **changes: Any) -> Manifest:
    """A release with a reference, as the registry would have it."""
    one = [1.0] * FEATURES
    made = msgspec.structs.replace(
        small_manifest(),
        release=release,
        features=[FeatureSpec(name=f"x.{number}", kind="rms", channel=0) for number in range(FEATURES)],
        scoring=ScoringSpec(transform=["affine"] * FEATURES, center=one, scale=one, weight=one, down=one, threshold=1),
    )
    made = msgspec.structs.replace(made, **({"drift": fit_drift_spec(TRAINED, SCORES)} | changes))
    content = encode_manifest(made)
    blob = server.blobs.put_bytes(content)
    path = f"releases/{MODEL}/{release}/manifest.json"
    row = {"model": MODEL, "release": release, "path": path, "sha256": blob.sha256, "length": blob.length}
    server.insert(tables.releases, **row, manifest={}, published_at=1e9, published_by="a")
    return made


def report(seen: Manifest, values: Any, seq: int, **changes: Any) -> Report:
    assert seen.drift is not None
    features = Bins([one.edges for one in seen.drift.features]).sketch(values)
    score = Bins([seen.drift.score.edges]).sketch(np.full((len(values), 1), 0.3))
    body = DriftReport(
        pipeline="main",
        model=MODEL,
        release=3,
        why="period",
        first_window=0,
        last_window=len(values) - 1,
        first_t_s=0.0,
        last_t_s=1.0,
        windows=len(values),
        unscored=2,
        sketches=encode_sketches(features),
        score=encode_sketches(score),
        events=[DriftEvent(kind="level", window=1, before=0.2, after=0.3)],
    )
    return Report(epoch=EPOCH, oldest=1, seq=seq, at=1.79e9, body=msgspec.structs.replace(body, **changes))


def keep(server: AdminServer, device: str, message: Report, at: float) -> None:
    with server.engine.begin() as connection:
        apply_batch(connection, [DeviceMessage(device, message)], [], at)


def test_the_sketches_of_a_release_add_up_over_devices(server: AdminServer) -> None:
    seen = released(server)
    random = np.random.default_rng(5)
    parts = {device: random.normal(1.0, 0.5, (400, FEATURES)).astype(np.float32) for device in ("press-1", "press-2")}
    parts["press-2"][:, 1] += 1.5
    for device, values in parts.items():
        keep(server, device, report(seen, values, 1), 1000.0)
        keep(server, device, report(seen, values, 1), 1001.0)  # twice on the wire, once in the database
    keep(server, "press-3", report(seen, parts["press-1"] + 9, 1, release=2), 1000.0)  # another release
    keep(server, "press-1", report(seen, parts["press-1"] + 9, 2), 5000.0)  # later
    with server.http() as http:
        path = f"/api/v1/releases/{MODEL}/3/drift"
        found = http.get(path, params={"since": 500, "until": 2000}).json()
        alone = http.get(path, params={"since": 500, "until": 2000, "device": "press-1"}).json()
        assert http.get(path).json()["reports"] == 0  # nothing in the last day
    assert (found["devices"], found["reports"], found["windows"]) == (["press-1", "press-2"], 2, 800)
    assert (found["unscored"], found["changes"], found["left_out"]) == (4, 2, 0)
    assert [feature["moved"] for feature in found["features"]] == [False, True, False]
    both = np.concatenate(list(parts.values()))
    for column, feature in enumerate(found["features"]):
        assert (feature["name"], feature["n"], feature["missing"]) == (f"x.{column}", 800, 0)
        assert feature["mean"] == pytest.approx(both[:, column].mean(dtype=float), rel=1e-9)
        ks = stats.ks_2samp(TRAINED[:, column], both[:, column]).statistic
        assert feature["ks"] - 1e-9 <= ks <= feature["ks"] + feature["ks_error"] + 1e-9
    assert found["features"][1]["unseen"] > 0
    assert [feature["moved"] for feature in alone["features"]] == [False] * 3
    assert alone["devices"] == ["press-1"]


def test_reports_left_out_are_counted(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = released(server)
    values = TRAINED[:50]
    other = encode_sketches(Bins([[0.0]] * FEATURES).sketch(values))
    keep(server, "press-1", report(seen, values, 1, sketches=other), 1000.0)
    for seq in range(2, 7):
        keep(server, "press-1", report(seen, values, seq), 1000.0 + seq)
    path = f"/api/v1/releases/{MODEL}/3/drift?since=0&until=2000"
    with server.http() as http:
        found = http.get(path).json()
        assert (found["reports"], found["left_out"], found["windows"]) == (5, 1, 250)
        monkeypatch.setattr(views, "MAX_REPORTS", 3)
        found = http.get(path).json()
        assert (found["reports"], found["left_out"]) == (3, 1)


def test_refusals(server: AdminServer) -> None:
    released(server, 4, drift=None)
    with server.http() as http:
        for path, status, code in (
            (f"{MODEL}/4/drift", 404, "drift.no_reference"),
            (f"{MODEL}/9/drift", 404, "release.not_found"),
            (f"{MODEL}/4/drift?since=nan", 422, "api.invalid"),
            (f"{MODEL}/4/drift?device=../x", 422, "id.invalid"),
        ):
            answer = http.get(f"/api/v1/releases/{path}")
            assert (answer.status_code, answer.json()["code"]) in ((status, code), (400, code)), path
        assert http.get(f"/api/v1/releases/{MODEL}/4/drift", headers={"Authorization": "no"}).status_code == 401
