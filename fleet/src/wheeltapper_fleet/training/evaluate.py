"""A bundle over a recording: what a device would say at each snapshot. Gates and benchmarks share it.

Invariants: features, scoring and decision are the device's own code; the model runs in a session opened as devices
open it.

What this module does not do: verify signatures (a bundle here is a folder that the caller made or trusts).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import network
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.decision.decision import DecisionSpec, DecisionState, Verdict, decide
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, check_file, decode_manifest
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["Bundle", "Evaluation", "compute_features", "evaluate", "first_alert", "read_bundle", "verdicts"]


@dataclass(frozen=True)
class Bundle:
    """A manifest and the model's bytes."""

    manifest: Manifest
    model: bytes


@dataclass(frozen=True)
class Evaluation:
    """What a bundle says of a recording, snapshot by snapshot."""

    t_s: npt.NDArray[np.float64]
    raw_score: npt.NDArray[np.float64]
    verdicts: tuple[Verdict, ...]

    @property
    def alert(self) -> npt.NDArray[np.bool_]:
        """Whether the alert is on, [snapshot]."""
        return np.array([verdict.alert for verdict in self.verdicts])

    @property
    def first_alert(self) -> int | None:
        """Index of the first snapshot with the alert on."""
        return first_alert(self.verdicts)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its files against the manifest.

    Raises:
        WireError: the manifest or a file is not what it should be.
        OSError: a file cannot be read.
    """
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    for file in manifest.files:
        check_file(file, (folder / file.name).read_bytes())
    return Bundle(manifest, (folder / MODEL_FILE).read_bytes())


def compute_features(features: FeatureSet, recording: Recording, stop: int | None = None) -> npt.NDArray[np.float32]:
    """Features [snapshot, feature] of a recording's first ``stop`` snapshots, some at a time."""
    stop = recording.snapshots if stop is None else stop
    block = max(1, 2**20 // (recording.window_samples * len(recording.channels)))
    parts = [
        features.compute(recording.physical(slice(start, min(stop, start + block)))) for start in range(0, stop, block)
    ]
    return np.concatenate(parts)


def verdicts(
    spec: DecisionSpec,
    score: npt.NDArray[np.float64],
    shares: npt.NDArray[Any],
    features: npt.NDArray[Any],
    scorer: Scorer,
) -> tuple[Verdict, ...]:
    """The decision's verdicts over windows in order."""
    state, found = DecisionState(), []
    for i in range(len(score)):
        state, verdict = decide(spec, state, float(score[i]), shares[i], features[i], scorer.names, scorer.usual)
        found.append(verdict)
    return tuple(found)


def first_alert(found: tuple[Verdict, ...]) -> int | None:
    """Index of the first verdict with the alert on."""
    return next((i for i, verdict in enumerate(found) if verdict.alert), None)


def evaluate(recording: Recording, bundle: Bundle) -> Evaluation:
    """Run a bundle over a recording.

    Raises:
        TrainingError: ``training.mixed_input``, the recording is not what the bundle was made for.
    """
    manifest = bundle.manifest
    wanted = (manifest.input.sample_rate_hz, manifest.input.window_samples, len(manifest.input.channels))
    given = (recording.sample_rate_hz, recording.window_samples, len(recording.channels))
    if wanted != given:
        raise TrainingError(
            "training.mixed_input",
            f"the bundle wants (rate in Hz, samples, channels) {wanted}, the recording has {given}: cut or resample it",
        )
    if manifest.scoring is None:
        raise TrainingError(
            "training.mixed_input", "the bundle's network reads samples: this evaluation is of features"
        )
    features = FeatureSet(manifest.features, *wanted)
    scorer = Scorer(manifest.scoring, features.names)
    values = compute_features(features, recording)
    rows = scorer.model_input(values)
    output = network.open_session(bundle.model).run(["output"], {"input": rows})[0]
    scores = scorer.score(rows, output)
    found = verdicts(manifest.decision, scores.score, scores.shares, values, scorer)
    return Evaluation(t_s=recording.t_s, raw_score=scores.score, verdicts=found)
