"""Make the golden vectors of recordings, features, decisions and manifests. Nothing in them is random.

Run by hand: ``python -m tests.vectors.make_signal_vectors``. One that is there is never rewritten, as with the wire's.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tests.vectors.make_vectors import FOLDER, add_new
from wheeltapper_protocols.decision.bearing import Bearing, BearingSpec
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.decision import DecisionSpec, DecisionState, decide
from wheeltapper_protocols.decision.evidence import Detector, EvidenceSpec
from wheeltapper_protocols.decision.interval import Interval
from wheeltapper_protocols.decision.reasons import UsualBand
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.drift.drift import DriftSpec, fit_drift_spec
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import (
    Anomaly,
    Budget,
    BundleFile,
    Classification,
    Gate,
    Golden,
    Input,
    Manifest,
    RawInput,
    RemainingLife,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs
from wheeltapper_protocols.signal.iso20816 import Iso20816
from wheeltapper_protocols.signal.recording import Recording, read_recording, recording_bytes

RATE_HZ = 12_800.0
WINDOW_SAMPLES = 1024
CHANNELS = ("horizontal", "vertical")
SCORES = [0.1] * 8 + [3.0] + [0.2] * 8 + [1.5] * 12 + [2.5] * 12 + [0.9] * 6 + [0.1] * 20

HELD = DecisionSpec(smooth_windows=3, fast_windows=2, minimum_alert_windows=45)


def signal() -> npt.NDArray[np.float32]:
    """Two windows [2, 1024, 2]: harmonics of a shaft, an offset, and a resonance excited every 128 samples."""
    at = np.arange(2 * WINDOW_SAMPLES) / RATE_HZ
    shaft = np.sin(2 * np.pi * 25 * at) + 0.5 * np.sin(2 * np.pi * 50 * at + 0.3)
    since = (np.arange(at.size) % 128) / RATE_HZ
    rung = 0.8 * np.exp(-1500 * since) * np.sin(2 * np.pi * 3100 * since)
    both = np.stack([0.4 + shaft + rung, 0.7 * shaft - 0.2], axis=1)
    return both.reshape(2, WINDOW_SAMPLES, 2).astype(np.float32)


def feature_set() -> FeatureSet:
    return FeatureSet(default_specs(RATE_HZ, CHANNELS, WINDOW_SAMPLES), RATE_HZ, WINDOW_SAMPLES, len(CHANNELS))


LATER_SPECS = [
    FeatureSpec(
        name="horizontal.velocity",
        kind="velocity_rms",
        channel=0,
        params={"low_hz": 10.0, "high_hz": 1000.0, "m_s2_per_unit": 9.80665},
    ),
    FeatureSpec(
        name="horizontal.line",
        kind="bearing_line",
        channel=0,
        params={
            "line_hz": 100.0,
            "harmonics": 3.0,
            "tolerance": 0.02,
            "carrier_low_hz": 2000.0,
            "carrier_high_hz": 4500.0,
        },
    ),
    FeatureSpec(name="vertical.value", kind="value", channel=1),
]


def feature_vectors() -> list[dict[str, Any]]:
    specs = [*default_specs(RATE_HZ, CHANNELS, WINDOW_SAMPLES), *LATER_SPECS]
    values = FeatureSet(specs, RATE_HZ, WINDOW_SAMPLES, len(CHANNELS)).compute(signal())
    return [
        {"name": spec.name, "spec": msgspec.to_builtins(spec), "values": [float(value) for value in values[:, column]]}
        for column, spec in enumerate(specs)
    ]


def decisions(spec: DecisionSpec) -> list[list[Any]]:
    """[severity, alert, changed] for each score of :data:`SCORES`."""
    state, found = DecisionState(), []
    one = np.ones(1)
    for score in SCORES:
        state, verdict = decide(spec, state, score, one, one, ("x.rms",), one)
        found.append([verdict.severity.value, verdict.alert, verdict.changed])
    return found


def recording() -> Recording:
    return Recording(
        samples=(np.arange(24, dtype=np.int16) - 12).reshape(3, 4, 2),
        scale=np.array([0.5, 0.25]),
        sample_rate_hz=1000.0,
        t_s=np.array([0.0, 10.0, 20.0]),
        channels=("x", "y"),
        units=("g", "g"),
        meta={"machine": "press-1"},
    )


def changed(**arrays: Any) -> bytes:
    """The bytes of a recording with some arrays changed, or left out (None)."""
    with np.load(io.BytesIO(recording_bytes(recording())), allow_pickle=False) as loaded:
        content = {name: loaded[name] for name in loaded.files} | arrays
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in content.items():
            if array is None:
                continue
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return target.getvalue()


def bad_recordings() -> dict[str, bytes]:
    good = recording_bytes(recording())
    nan = np.ones((3, 4, 2), dtype=np.float32)
    nan[1, 2, 0] = np.nan
    return {
        "empty_file": b"",
        "not_a_zip": b"PK but not really",
        "truncated": good[:-40],
        "no_samples": changed(samples=None),
        "no_snapshots": changed(samples=np.zeros((0, 4, 2), np.int16), t_s=np.zeros(0)),
        "nan": changed(samples=nan),
        "wrong_dtype": changed(samples=np.ones((3, 4, 2), np.float64)),
        "wrong_shape": changed(samples=np.ones((3, 4), np.int16)),
        "missing_rate": changed(sample_rate_hz=None),
        "zero_rate": changed(sample_rate_hz=np.float64(0.0)),
        "nan_rate": changed(sample_rate_hz=np.float64(np.nan)),
        "times_backwards": changed(t_s=np.array([0.0, 20.0, 10.0])),
        "scale_of_another_number": changed(scale=np.ones(3)),
    }


def manifest() -> Manifest:
    names = ["x.rms"]
    return Manifest(
        model="bearing-anomaly",
        release=3,
        created_at="2026-01-02T03:04:05Z",
        files=[
            BundleFile(name="model.onnx", sha256="ab" * 32, length=1000),
            BundleFile(name="golden.npz", sha256="cd" * 32, length=2000),
        ],
        input=Input(sample_rate_hz=RATE_HZ, window_samples=WINDOW_SAMPLES, channels=["x"], units=["g"]),
        features=[FeatureSpec(name=names[0], kind="rms", channel=0)],
        scoring=ScoringSpec(transform=["log"], center=[0.0], scale=[1.0], weight=[1.0], down=[1.0], threshold=1.0),
        decision=DecisionSpec(),
        golden=Golden(output_atol=0.05, score_rtol=0.02),
        budget=Budget(latency_p95_ms=50.0, rss_growth_mb=96.0),
        gates=[Gate(name="int8_against_float", value=0.01, limit=0.1, passed=True)],
        lineage={"recipe": "anomaly"},
    )


def task_manifests() -> dict[str, Manifest]:
    """A manifest for each task, and for each section that was added after the first version."""
    plain, raw = manifest(), RawInput(channels=[0], center=[0.0], scale=[0.5], layout="flat")
    classification = Classification(classes=["good", "worn"], normal=["good"], threshold=0.75)
    life = RemainingLife(unit="cycles", cap=125.0, warn_at=30.0)
    decision = DecisionSpec(minimum_alert_windows=60)
    return {
        "classification": msgspec.structs.replace(plain, task="classification", classification=classification),
        "remaining_life": msgspec.structs.replace(plain, task="remaining_life", remaining_life=life, decision=decision),
        "remaining_life_with_interval": msgspec.structs.replace(
            plain,
            task="remaining_life",
            remaining_life=msgspec.structs.replace(
                life, interval=Interval(coverage=0.9, edges=[40.0], below=[5.0, 20.5], above=[8.25, 30.0])
            ),
        ),
        "raw": msgspec.structs.replace(
            plain,
            features=[],
            scoring=None,
            raw=raw,
            anomaly=Anomaly(output="reconstruction", threshold=0.25),
            bands=[UsualBand(channel=0, low_hz=100.0, high_hz=500.0, rms=0.5)],
        ),
        "zones_and_bearing": msgspec.structs.replace(
            plain,
            iso20816=Iso20816(group=2, foundation="rigid", channels=[0], raises=True),
            bearing=BearingSpec(geometry=Bearing(), shaft_hz=25.0, carrier_low_hz=500.0, carrier_high_hz=6000.0),
        ),
        "condition": msgspec.structs.replace(
            plain,
            condition=ConditionSpec(
                features=[0], centres=[[0.5], [2.5]], reach=[1.0], center=[[0.0], [1.0]], scale=[[1.0], [0.5]]
            ),
        ),
        "evidence": msgspec.structs.replace(
            plain,
            features=[*plain.features, FeatureSpec(name="x.peak", kind="peak", channel=0)],
            scoring=ScoringSpec(
                transform=["log"] * 2,
                center=[0.0] * 2,
                scale=[1.0] * 2,
                weight=[1.0] * 2,
                down=[0.25] * 2,
                threshold=6.0,
            ),
            evidence=EvidenceSpec(
                detectors=[
                    Detector(kind="level", features=[0], limit=5.5),
                    Detector(kind="shape", features=[0, 1], limit=6.0),
                    Detector(kind="density", features=[0, 1], limit=6.5, axes=[[1.0, 0.25], [0.0, 1.5]]),
                ],
                together=0.75,
                alone=2.5,
            ),
        ),
    }


def bad_task_manifests() -> dict[str, bytes]:
    """Manifests with sections that do not fit the task or the input."""
    good = {name: encode_manifest(each) for name, each in task_manifests().items()}
    return {
        "features_without_scoring": good["raw"].replace(b'"raw": {', b'"not_raw": {'),
        "condition_of_a_classification": good["condition"].replace(b'"task": "anomaly"', b'"task": "classification"'),
        "evidence_of_a_classification": good["evidence"].replace(b'"task": "anomaly"', b'"task": "classification"'),
        "evidence_of_a_feature_that_is_not_there": good["evidence"].replace(
            b'"limit": 5.5', b'"limit": 5.5, "features": [2]'
        ),
        "density_without_axes": good["evidence"].replace(b'"axes": [', b'"not_axes": ['),
        "classification_without_its_section": good["classification"].replace(b'"classification": {', b'"other": {'),
        "normal_is_no_class": good["classification"].replace(b'"normal": [\n   "good"', b'"normal": [\n   "fine"'),
        "raw_channel_that_is_not_there": good["raw"].replace(b'"channels": [\n   0', b'"channels": [\n   5'),
        "raw_anomaly_without_its_section": good["raw"].replace(b'"anomaly": {', b'"other": {'),
        "band_beyond_the_spectrum": good["raw"].replace(b'"high_hz": 500.0', b'"high_hz": 9000.0'),
        "zones_of_no_acceleration": good["zones_and_bearing"].replace(b'"g"', b'"bar"'),
        "bearing_larger_than_its_circle": good["zones_and_bearing"].replace(b'"ball_mm": 7.94', b'"ball_mm": 79.4'),
        "interval_without_an_end": good["remaining_life_with_interval"].replace(b'"below": [', b'"not_below": ['),
        "interval_of_falling_edges": good["remaining_life_with_interval"].replace(b"   40.0", b"   -4.0"),
        "life_without_a_cap": good["remaining_life"].replace(b'"cap"', b'"cup"'),
    }


def drift() -> DriftSpec:
    """The section ``drift`` of ten windows with one feature, and their scores."""
    steps = np.arange(10, dtype=np.float64)
    return fit_drift_spec(steps[:, None] / 4, steps / 16, period_windows=360)


def bad_manifests() -> dict[str, bytes]:
    good = encode_manifest(manifest())
    watched = msgspec.to_builtins(msgspec.structs.replace(manifest(), drift=drift()))
    reference = watched["drift"]["score"]

    def with_drift(**changes: Any) -> bytes:
        return msgspec.json.encode(watched | {"drift": watched["drift"] | changes})

    return {
        "empty": b"",
        "not_json": b"\xff",
        "deep": b"[" * 100_000,
        "too_large": b" " * (1024 * 1024 + 1),
        "format_from_the_future": good.replace(b'"format": 1', b'"format": 2'),
        "file_in_a_folder": good.replace(b'"model.onnx"', b'"../model.onnx"'),
        "a_file_twice": good.replace(b'"golden.npz"', b'"model.onnx"'),
        "golden_missing": good.replace(b'"golden.npz"', b'"silver.npz"'),
        "hash_too_short": good.replace(b"ab" * 32, b"ab" * 31),
        "drift_no_reference": with_drift(features=[]),
        "drift_edges_fall": with_drift(score=reference | {"edges": reference["edges"][::-1]}),
        "drift_edges_equal_as_float32": with_drift(
            score={"edges": [1.0, 1.00000000001], "counts": [0, 1, 0], "mean": 1.0, "deviation": 0.0}
        ),
        "drift_counts_too_few": with_drift(score=reference | {"counts": reference["counts"][1:]}),
        "drift_counts_outside": with_drift(score=reference | {"counts": [1, *reference["counts"][1:]]}),
        "drift_counts_nothing": with_drift(score=reference | {"counts": [0] * len(reference["counts"])}),
        "drift_period_zero": with_drift(period_windows=0),
        "release_zero": good.replace(b'"release": 3', b'"release": 0'),
    }


def code_of(read: Callable[[bytes], object], content: bytes) -> str:
    """The code with which ``content`` is refused."""
    try:
        read(content)
    except ProtocolError as error:
        return error.code
    raise SystemExit("accepted; it should not be")


def read_bytes(content: bytes) -> Recording:
    return read_recording(io.BytesIO(content))


def packed(name: str, content: bytes, **more: str) -> dict[str, str]:
    return {"name": name, "content": base64.b64encode(content).decode("ascii"), **more}


def main() -> None:
    add_new(FOLDER / "features.json", feature_vectors())
    spec = DecisionSpec()
    add_new(
        FOLDER / "decision.json",
        [
            {"name": name, "spec": msgspec.to_builtins(spec), "scores": SCORES, "verdicts": decisions(spec)}
            for name, spec in (("steps", spec), ("held", HELD))
        ],
    )
    # "int16" in that file is deflated, as the first version wrote recordings; it is read for ever.
    add_new(FOLDER / "recording_valid.json", [packed("int16_stored", recording_bytes(recording()))])
    bad = [packed(name, content, code=code_of(read_bytes, content)) for name, content in bad_recordings().items()]
    add_new(FOLDER / "recording_invalid.json", bad)
    watched = msgspec.structs.replace(manifest(), drift=drift())
    manifests = {"manifest": manifest(), "manifest_drift": watched, **task_manifests()}
    add_new(FOLDER / "manifest_valid.json", [packed(name, encode_manifest(each)) for name, each in manifests.items()])
    # The oversized one is made anew by the test: a megabyte of spaces is no use to anybody in a repository.
    worse = {
        name: content for name, content in (bad_manifests() | bad_task_manifests()).items() if len(content) < 200_000
    }
    bad = [packed(name, content, code=code_of(decode_manifest, content)) for name, content in worse.items()]
    add_new(FOLDER / "manifest_invalid.json", bad)


if __name__ == "__main__":
    main()
