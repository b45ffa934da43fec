"""Golden vectors: recordings, features, decisions and manifests stay as they were in the first version."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.vectors import make_signal_vectors as made
from tests.vectors.make_vectors import FOLDER
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import decode_manifest, encode_manifest
from wheeltapper_protocols.signal.features import KINDS, FeatureSet, FeatureSpec
from wheeltapper_protocols.signal.recording import recording_bytes


def vectors(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert loaded
    return loaded


def test_features_keep_their_values() -> None:
    found = vectors("features")
    specs = [msgspec.convert(vector["spec"], FeatureSpec) for vector in found]
    assert {spec.kind for spec in specs} == set(KINDS)
    features = FeatureSet(specs, made.RATE_HZ, made.WINDOW_SAMPLES, len(made.CHANNELS))
    wanted = np.array([vector["values"] for vector in found]).T
    np.testing.assert_allclose(features.compute(made.signal()), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vector", vectors("decision"), ids=lambda vector: vector["name"])
def test_decisions_keep_their_steps(vector: dict[str, Any]) -> None:
    spec = msgspec.convert(vector["spec"], DecisionSpec)
    assert vector["scores"] == made.SCORES
    assert made.decisions(spec) == vector["verdicts"]
    assert any(alert for _, alert, _ in vector["verdicts"])


def test_a_recording_keeps_its_bytes() -> None:
    content = {vector["name"]: base64.b64decode(vector["content"]) for vector in vectors("recording_valid")}
    assert recording_bytes(made.recording()) == content["int16_stored"]
    assert recording_bytes(made.read_bytes(content["int16_stored"])) == content["int16_stored"]


@pytest.mark.parametrize("vector", vectors("recording_valid"), ids=lambda vector: vector["name"])
def test_a_recording_of_every_version_is_read(vector: dict[str, str]) -> None:
    read, wanted = made.read_bytes(base64.b64decode(vector["content"])), made.recording()
    assert read.samples.dtype == np.int16
    assert (read.sample_rate_hz, read.meta) == (1000.0, {"machine": "press-1"})
    np.testing.assert_array_equal(read.samples, wanted.samples)
    np.testing.assert_array_equal(read.scale, wanted.scale)
    np.testing.assert_array_equal(read.t_s, wanted.t_s)
    assert (read.channels, read.units) == (wanted.channels, wanted.units)


@pytest.mark.parametrize("vector", vectors("recording_invalid"), ids=lambda vector: vector["name"])
def test_a_bad_recording_keeps_its_code(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        made.read_bytes(base64.b64decode(vector["content"]))
    assert caught.value.code == vector["code"]


@pytest.mark.parametrize("vector", vectors("manifest_valid"), ids=lambda vector: vector["name"])
def test_a_manifest_keeps_its_bytes(vector: dict[str, str]) -> None:
    content = base64.b64decode(vector["content"])
    assert encode_manifest(decode_manifest(content)) == content


def test_the_reference_of_drift_keeps_its_meaning() -> None:
    content = {vector["name"]: base64.b64decode(vector["content"]) for vector in vectors("manifest_valid")}
    assert decode_manifest(content["manifest"]).drift is None
    drift = decode_manifest(content["manifest_drift"]).drift
    assert drift == made.drift()
    assert drift is not None
    assert (drift.features[0].counts, drift.period_windows) == ([0, 5, 5, 0], 360)


@pytest.mark.parametrize("vector", vectors("manifest_invalid"), ids=lambda vector: vector["name"])
def test_a_bad_manifest_keeps_its_code(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_manifest(base64.b64decode(vector["content"]))
    assert caught.value.code == vector["code"]


def test_an_oversized_manifest_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_manifest(made.bad_manifests()["too_large"])
    assert caught.value.code == "manifest.too_large"
