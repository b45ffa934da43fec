"""Runs a bundle over a recording: the score and the decision that a device would reach at each snapshot.

Gates and benchmarks use it.

Example:
    >>> evaluation = evaluate(read_recording(Path("run.npz")), read_bundle(Path("bundle")))
    >>> evaluation.first_alert
    412

Invariants:
    * Features, scoring and decision are the code that devices run; the model runs with the devices' session options.
    * A device's own baseline is learnt from the recording's first snapshots, as a device does.

What this module does not do: verify signatures. A bundle here is a folder that the caller made or trusts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import autoencoder
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.decision.baseline import BaselineState, learn
from wheeltapper_protocols.decision.decision import DecisionSpec, DecisionState, Verdict, decide, initial_state
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.inference_task import InferenceTask, with_baseline
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, check_file, decode_manifest
from wheeltapper_protocols.manifest.model_file import check_model_file
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["Bundle", "Evaluation", "compute_features", "evaluate", "first_alert", "read_bundle", "verdicts"]


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its manifest and its serialised model."""

    manifest: Manifest
    model: bytes


@dataclass(frozen=True)
class Evaluation:
    """A bundle's scores and decisions over a recording, one entry a snapshot.

    Args:
        t_s: start times of the snapshots, seconds.
        raw_score: scores before smoothing; 1.0 is the warning threshold.
        verdicts: the decisions.
    """

    t_s: npt.NDArray[np.float64]
    raw_score: npt.NDArray[np.float64]
    verdicts: tuple[Verdict, ...]

    @property
    def alert(self) -> npt.NDArray[np.bool_]:
        """Whether the alert is on at each snapshot, bool [snapshot]."""
        return np.array([verdict.alert for verdict in self.verdicts])

    @property
    def first_alert(self) -> int | None:
        """Index of the first snapshot at which the alert is on; None if it never is."""
        return first_alert(self.verdicts)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its files against the manifest.

    Raises:
        WireError: the manifest is malformed, a file's hash or length differs from it, or no device could run the model.
        OSError: a file cannot be read.
    """
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    model = b""
    for file in manifest.files:
        content = (folder / file.name).read_bytes()
        check_file(file, content)
        if file.name == MODEL_FILE:
            model = content  # the very bytes that were checked
    check_model_file(manifest, model)
    return Bundle(manifest, model)


def compute_features(features: FeatureSet, recording: Recording, stop: int | None = None) -> npt.NDArray[np.float32]:
    """Compute the features of a recording's first ``stop`` snapshots (by default all).

    Snapshots are converted to physical units in blocks, so that a long recording needs little memory.

    Returns:
        float32 [snapshot, feature].
    """
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
    """Decide over consecutive windows, from a fresh state.

    Args:
        spec: the decision's parameters.
        score: scores, [window].
        shares: each feature's share of the score, [window, feature].
        features: feature values, [window, feature].
        scorer: names the features and knows their healthy values.
    """
    return _verdicts(spec, score, shares, features, scorer, DecisionState())[0]


def _verdicts(
    spec: DecisionSpec,
    score: npt.NDArray[np.float64],
    shares: npt.NDArray[Any],
    features: npt.NDArray[Any],
    scorer: Scorer,
    state: DecisionState,
) -> tuple[tuple[Verdict, ...], DecisionState]:
    found = []
    for i in range(len(score)):
        state, verdict = decide(spec, state, float(score[i]), shares[i], features[i], scorer.names, scorer.usual)
        found.append(verdict)
    return tuple(found), state


def first_alert(found: tuple[Verdict, ...]) -> int | None:
    """Index of the first verdict with the alert on; None if there is none."""
    return next((i for i, verdict in enumerate(found) if verdict.alert), None)


def evaluate(recording: Recording, bundle: Bundle) -> Evaluation:
    """Run a bundle over a recording.

    Raises:
        TrainingError: ``training.mixed_input``: rate, window or channels differ from what the bundle expects, or its
            model reads samples instead of features.
    """
    manifest = bundle.manifest
    wanted = (manifest.input.sample_rate_hz, manifest.input.window_samples, len(manifest.input.channels))
    given = (recording.sample_rate_hz, recording.window_samples, len(recording.channels))
    if wanted != given:
        raise TrainingError(
            "training.mixed_input",
            f"the bundle expects (rate in Hz, samples, channels) {wanted} and the recording has {given}; "
            "cut or resample the recording",
        )
    if manifest.scoring is None:
        raise TrainingError(
            "training.mixed_input", "the bundle's model reads samples; only models that read features can be evaluated"
        )
    values = compute_features(FeatureSet(manifest.features, *wanted), recording)
    session = autoencoder.open_session(bundle.model)
    whole = _Part(manifest, session, values)
    state, learned = BaselineState(), 0
    while manifest.baseline is not None and state.phase == "learning" and learned < len(values):
        if not np.isnan(whole.score[learned]):
            state = learn(manifest.baseline, state, whole.rows[learned])
        learned += 1
    if state.phase != "learned":
        return Evaluation(recording.t_s, whole.score, whole.decide(DecisionState())[0])
    before = _Part(manifest, session, values[:learned])
    verdicts_before, decision = before.decide(DecisionState())
    own = _Part(with_baseline(manifest, state), session, values[learned:])
    verdicts_after, _ = own.decide(initial_state(decision.severity, decision.no_score))
    score = np.concatenate([before.score, own.score])
    return Evaluation(recording.t_s, score, verdicts_before + verdicts_after)


class _Part:
    """Consecutive windows, scored as a device with this manifest scores them."""

    def __init__(self, manifest: Manifest, session: Any, features: npt.NDArray[np.float32]) -> None:
        task = InferenceTask(manifest)
        assert task.scorer is not None  # the caller has looked
        self._decision, self._scorer, self._features = manifest.decision, task.scorer, features
        self.rows = task.model_input(features, features[:, :0])
        output = session.run(["output"], {"input": self.rows})[0] if len(features) else self.rows
        self.score = task.in_known_conditions(task.read(self.rows, output), features).score
        plain = task.scorer.score(self.rows, output)
        self._shares = task.evidence.shares(self.rows, output) if task.evidence is not None else plain.shares

    def decide(self, state: DecisionState) -> tuple[tuple[Verdict, ...], DecisionState]:
        """Decide on the windows from ``state`` on; returns the verdicts and the state after them."""
        return _verdicts(self._decision, self.score, self._shares, self._features, self._scorer, state)
