"""``train anomaly``: from recordings to a gated bundle.

Healthy first part of each recording -> features -> autoencoder -> ONNX -> int8 -> golden vectors -> gates -> bundle.

Invariants: deterministic for a seed (but for ``created_at`` and the measured latency); recordings are held one at a
time; if anything fails there is no bundle at ``out`` that was not there before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import gates, network
from wheeltapper_fleet.training.bundles import bundle_file, check_target, npz_bytes, write_bundle
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import compute_features
from wheeltapper_fleet.training.recipe import DECISION, Calibration, calibrate, fit_scoring
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.drift.drift import DriftSpec, freeze
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Budget,
    Gate,
    Golden,
    Input,
    Manifest,
    encode_manifest,
)  # fmt: skip
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["train_anomaly"]

MIN_WINDOWS: Final = 8
MIN_WINDOWS_EACH: Final = 6
_ATTEMPTS: Final = 4
"""Seeds that are tried."""
_SAMPLE_WINDOWS: Final = 8
_GOLDEN: Final = Golden(output_atol=0.05, score_rtol=0.02)
_BUDGET: Final = Budget(latency_p95_ms=50.0, rss_growth_mb=96.0)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Healthy:
    """What is kept of a recording."""

    form: Input
    features: npt.NDArray[np.float32]
    samples: npt.NDArray[np.float32]
    """A few windows, physical, for golden vectors."""
    step_seconds: float
    """From one window to the next."""
    sha256: str


@dataclass(frozen=True)
class _Candidate:
    features: FeatureSet
    scorer: Scorer
    calibration: Calibration
    layers: list[network.Layer]
    model: bytes


def train_anomaly(
    recordings: Sequence[Path | Recording],
    *,
    healthy_fraction: float,
    out: Path,
    model: str = "bearing-anomaly",
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Train, check and write a bundle.

    Args:
        recordings: of one kind of machine: rate, channels and window agree.
        healthy_fraction: the first part of each that is known to be healthy, above 0 and at most 1.
        out: the folder to become the bundle.
        model: the line of releases.
        seed: of everything random; the next ones are tried where only the int8 net is not near enough to the float net.
        progress: is told what happens, in a few words.

    Raises:
        TrainingError: ``training.fraction``, ``training.mixed_input``, ``training.too_little``,
        ``training.out_exists``,
            ``training.gate_failed``.
        RecordingError: a recording cannot be accepted.
    """
    say = progress or (lambda text: None)
    if not 0 < healthy_fraction <= 1:
        raise TrainingError("training.fraction", f"healthy_fraction must be above 0 and at most 1: {healthy_fraction}")
    check_target(out)
    say("features")
    healthy = _read_all(recordings, healthy_fraction)
    for attempt in range(_ATTEMPTS):
        say("fit from another seed" if attempt else "cross-validation and fit")
        candidate = _fit(healthy, seed)
        say("gates")
        golden, measured = _judge(candidate, healthy, seed)
        failed = [gate for gate in measured if not gate.passed]
        if attempt + 1 == _ATTEMPTS or [gate.name for gate in failed] != ["int8_agreement"]:
            break
        # How well a net can be quantised depends on where its training began, and on the processor's arithmetic.
        seed += 1
    if failed:
        text = "; ".join(f"{gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}" for gate in failed)
        raise TrainingError("training.gate_failed", f"the candidate did not pass: {text}. No bundle was written")
    manifest = _manifest(candidate, healthy, golden, measured, model, seed, healthy_fraction)
    write_bundle(out, {MODEL_FILE: candidate.model, GOLDEN_FILE: golden, MANIFEST_FILE: encode_manifest(manifest)})
    say("bundle written")
    return manifest


def _read_all(recordings: Sequence[Path | Recording], fraction: float) -> list[_Healthy]:
    healthy: list[_Healthy] = []
    for source in recordings:
        recording = source if isinstance(source, Recording) else read_recording(source)
        if healthy and _form(recording) != healthy[0].form:
            raise TrainingError(
                "training.mixed_input", "rates, channels, units and window must be the same in all recordings"
            )
        healthy.append(_healthy(recording, fraction))
    total = sum(len(part.features) for part in healthy)
    if not healthy or total < MIN_WINDOWS or min(len(part.features) for part in healthy) < MIN_WINDOWS_EACH:
        raise TrainingError(
            "training.too_little",
            f"{total} healthy windows in {len(healthy)} recordings; needed are {MIN_WINDOWS} in all and "
            f"{MIN_WINDOWS_EACH} in each: record longer or raise the healthy fraction",
        )
    return healthy


def _form(recording: Recording) -> Input:
    if not 16 <= recording.window_samples <= 2**20:
        raise TrainingError("training.window", f"a window has {recording.window_samples} samples; 16 to 1048576 work")
    return Input(
        sample_rate_hz=recording.sample_rate_hz,
        window_samples=recording.window_samples,
        channels=list(recording.channels),
        units=list(recording.units),
    )


def _features(form: Input) -> FeatureSet:
    specs = default_specs(form.sample_rate_hz, form.channels, form.window_samples)
    return FeatureSet(specs, form.sample_rate_hz, form.window_samples, len(form.channels))


def _healthy(recording: Recording, fraction: float) -> _Healthy:
    form = _form(recording)
    # A decimal fraction of a whole number: 0.1 of 230 is 23, whatever binary arithmetic says.
    stop = max(1, math.floor(recording.snapshots * fraction + 1e-9))
    digest = hashlib.sha256(np.float64(recording.sample_rate_hz).tobytes() + recording.scale.tobytes())
    digest.update(np.ascontiguousarray(recording.samples[:stop]).data)
    picked = np.unique(np.linspace(0, stop - 1, _SAMPLE_WINDOWS).astype(int))
    samples = np.concatenate([recording.physical(slice(i, i + 1)) for i in picked])
    step = np.median(np.diff(recording.t_s)) if recording.snapshots > 1 else 0.0
    step_seconds = float(step) or recording.window_samples / recording.sample_rate_hz
    features = compute_features(_features(form), recording, stop)
    return _Healthy(form, features, samples, step_seconds, digest.hexdigest())


def _fit(healthy: list[_Healthy], seed: int) -> _Candidate:
    features = _features(healthy[0].form)
    groups = [part.features for part in healthy]
    calibration = calibrate(features.specs, groups, seed)
    scorer = Scorer(fit_scoring(features.specs, groups, calibration.threshold), features.names)
    rows = np.concatenate([scorer.model_input(group) for group in groups])
    layers = network.fit(rows, seed)
    return _Candidate(features, scorer, calibration, layers, network.quantised(network.to_onnx(layers), rows))


def _drift(candidate: _Candidate, healthy: list[_Healthy]) -> DriftSpec:
    """What devices compare with: all healthy features, the scores of nets that had not seen the window, an hour."""
    calibration = candidate.calibration
    scores = np.concatenate(calibration.held_out) / calibration.threshold
    windows_an_hour = 3600.0 / float(np.median([part.step_seconds for part in healthy]))
    return freeze(np.concatenate([part.features for part in healthy]), scores, round(min(1e6, windows_an_hour)))


def _damaged(samples: npt.NDArray[np.float32], gain: float, seed: int) -> npt.NDArray[np.float32]:
    """Windows ``gain`` times as loud, with sparse impacts."""
    random = np.random.default_rng(seed)
    mean = samples.mean(axis=1, keepdims=True)
    level = samples.std(axis=1, keepdims=True) + 1e-6
    impacts = random.normal(size=samples.shape) * (random.random(samples.shape) < 0.02) * 5 * gain
    return np.asarray(mean + (samples - mean) * gain + impacts * level, dtype=np.float32)


def _judge(candidate: _Candidate, healthy: list[_Healthy], seed: int) -> tuple[bytes, list[Gate]]:
    """The golden vectors, and the gates' results."""
    session = network.open_session(candidate.model)
    scorer = candidate.scorer

    def score(values: npt.NDArray[Any]) -> tuple[Any, Any, Any, Any]:
        rows = scorer.model_input(values)
        output = session.run(["output"], {"input": rows})[0]
        float_score = scorer.score(rows, network.run(candidate.layers, rows)).score
        return rows, output, scorer.score(rows, output).score, float_score

    samples = np.concatenate([part.samples for part in healthy])
    gross = score(candidate.features.compute(_damaged(samples, 10.0, seed)))
    usual = score(np.concatenate([part.features for part in healthy]))
    some = samples[np.linspace(0, len(samples) - 1, 4).astype(int)]
    windows = np.concatenate([some, *(_damaged(some[i : i + 1], 1.0 + i, seed + i) for i in range(4))])
    values = candidate.features.compute(windows)
    rows, output, golden_score, _ = score(values)
    again = network.open_session(candidate.model).run(["output"], {"input": rows})[0]
    groups = [part.features for part in healthy]
    calibration = candidate.calibration
    measured = [
        gates.finite(np.concatenate([output, usual[1], gross[1]]), np.concatenate([golden_score, usual[2], gross[2]])),
        gates.agreement(np.concatenate([usual[2], gross[2]]), np.concatenate([usual[3], gross[3]])),
        gates.false_alerts(calibration.held_out, calibration.threshold, groups, scorer),
        gates.sensitivity(gross[2]),
        gates.reproducible(output, again, _GOLDEN.output_atol),
        gates.size(candidate.model),
        gates.latency(session, rows[:1]),
    ]
    arrays = {"samples": windows, "model_input": rows, "model_output": output, "score": golden_score}
    return npz_bytes(arrays), measured


def _manifest(
    candidate: _Candidate,
    healthy: list[_Healthy],
    golden: bytes,
    measured: list[Gate],
    model: str,
    seed: int,
    fraction: float,
) -> Manifest:
    lineage = {f"recording-{number}": part.sha256 for number, part in enumerate(healthy)}
    lineage |= {"recipe": "anomaly-2", "seed": str(seed), "healthy_fraction": str(fraction)}
    lineage |= {name: version(name) for name in ("numpy", "onnx", "onnxruntime", "scikit-learn")}
    return Manifest(
        model=model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=[bundle_file(MODEL_FILE, candidate.model), bundle_file(GOLDEN_FILE, golden)],
        input=healthy[0].form,
        features=list(candidate.features.specs),
        scoring=candidate.scorer.spec,
        decision=DECISION,
        drift=_drift(candidate, healthy),
        golden=_GOLDEN,
        budget=_BUDGET,
        gates=measured,
        lineage=lineage,
    )
