"""A release bundle, loaded: its verified files become features, a model and the reading of the model's output.

Invariants:
    * Every file is checked against the manifest at each load.
    * The model is made of the very bytes that were checked, not of the file.

What this module does not do: test that the bundle works on this board (:mod:`wheeltapper_agent.model.self_test`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.inference import LoadedModel, runtime_name
from wheeltapper_agent.model.runtimes import chosen_format, load_model
from wheeltapper_agent.source.base import SourceSpec
from wheeltapper_protocols.decision.baseline import BaselineState, learn
from wheeltapper_protocols.decision.bearing_detector import BearingFaultDetector
from wheeltapper_protocols.decision.decision import DecisionState, Verdict, step
from wheeltapper_protocols.decision.reasons import band_reasons, feature_reasons
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.inference_task import InferenceTask, Prediction, with_baseline
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    RUNTIMES,
    Manifest,
    check_file,
    decode_manifest,
    golden_file,
)
from wheeltapper_protocols.manifest.model_file import check_model_file
from wheeltapper_protocols.signal import iso20816
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.iso20816 import Zone, velocity_feature_specs
from wheeltapper_protocols.wire.messages import Reason

__all__ = ["MAX_BATCH", "Bundle", "Evaluation", "check_input", "load_bundle"]

_LOG = logging.getLogger(__name__)
_MAX_MODEL_REASONS: Final = 13
"""An alert has room for 16 reasons: these, the detector, the velocity and the bearing fault."""
_RATE_SHARE: Final = 1e-3
"""How far the rate of a source may be from that of a release: headers of files round it to whole Hz."""
MAX_BATCH: Final = 32
"""Greatest number of windows that are scored in one call of the model."""


class Evaluation(Struct, frozen=True):
    """The scores of some windows, and what they were computed from. The first axis of every array is the window."""

    samples: NDArray[np.float32]
    features: NDArray[np.float32]
    """[window, feature]; without columns where the model reads raw samples."""
    model_input: NDArray[np.float32]
    model_output: NDArray[np.float32]
    scores: Prediction
    velocity_mm_s: NDArray[np.float32] | None = None
    """[window, channel]: root mean square vibration velocity of each channel that the manifest's section ``iso20816``
    names."""
    missing: NDArray[np.bool_] | None = None
    """[window, feature]: features of missing channels, without which the window was scored; None: there are none."""

    def window(self, row: int) -> Evaluation:
        """Return a copy of the window ``row`` alone, which keeps none of the other windows in memory."""
        rows, scores = slice(row, row + 1), self.scores
        prediction = Prediction(
            scores.score[rows].copy(),
            scores.labels[rows] if scores.labels is not None else None,
            scores.values[rows].copy() if scores.values is not None else None,
        )
        velocity = self.velocity_mm_s[rows].copy() if self.velocity_mm_s is not None else None
        return Evaluation(
            self.samples[rows].copy(),
            self.features[rows].copy(),
            self.model_input[rows].copy(),
            self.model_output[rows].copy(),
            prediction,
            velocity,
            self.missing[rows].copy() if self.missing is not None else None,
        )


@dataclass(frozen=True)
class Bundle:
    """A release that can score windows.

    Example:
        >>> bundle = load_bundle(Path("release"))
        >>> evaluation = bundle.evaluate(samples)  # [window, sample, channel] in the manifest's units
        >>> state, verdict = bundle.decide(DecisionState(), evaluation)
    """

    manifest: Manifest
    sha256: str
    features: FeatureSet
    """The manifest's features, followed by the ISO 20816 velocities where the manifest asks for them."""
    task: InferenceTask
    model: LoadedModel
    golden: bytes
    """The file of golden vectors; empty after :meth:`without_golden`."""
    golden_here: bytes = b""
    """The file of what this board's runtime is expected to give for them; empty: as in ``golden``."""
    bearing: BearingFaultDetector | None = None
    propagates_nan: bool = False
    """Whether a missing sample (NaN) in any channel always makes the score NaN. Then the pipeline need not search a
    window for missing samples before it scores it."""
    last_above_threshold: list[Evaluation] = field(default_factory=list, compare=False, repr=False)
    """The newest window at or above ``raise_level``, or no window. Smoothing may raise the alert at a later window that
    is quiet again; the reasons are then those of this one. The list is replaced in place because the bundle is frozen.
    """

    def without_golden(self) -> Bundle:
        """Return this bundle without its golden vectors, which only the self-test needs."""
        return dataclasses.replace(self, golden=b"", golden_here=b"")

    def for_one_stream(self) -> Bundle:
        """Return this bundle for the windows of one source; the copies share all but the newest window above the
        threshold."""
        return dataclasses.replace(self, last_above_threshold=[])

    def with_baseline(self, state: BaselineState) -> Bundle:
        """Return this bundle with the device's own center and scale, as the section ``baseline`` allows; the same one
        where nothing is learned. The manifest stays the signed one."""
        own = with_baseline(self.manifest, state)
        if own is self.manifest:
            return self
        return dataclasses.replace(self, task=InferenceTask(own), last_above_threshold=[])

    def learn(self, state: BaselineState, evaluation: Evaluation, verdict: Verdict, row: int = 0) -> BaselineState:
        """Return what is learnt of the machine after one window, which this bundle scored with the fleet's values.

        A window without a score or without all channels is not learnt. One in an ISO 20816 zone that raises is not
        healthy.
        """
        spec, section, missing = self.manifest.baseline, self.manifest.iso20816, evaluation.missing
        if spec is None or not verdict.valid or math.isnan(evaluation.scores.score[row]):
            return state
        if missing is not None and missing[row].any():
            return state
        healthy = not (section is not None and section.raises and verdict.zone in ("C", "D"))
        return learn(spec, state, evaluation.model_input[row], healthy)

    def warm_up(self) -> None:
        """Score a made-up window, so that the slow first call is not counted as the latency of a live window."""
        shape = self.manifest.input
        wave = np.sin(np.arange(shape.window_samples, dtype=np.float32))
        samples = np.repeat(wave[None, :, None], len(shape.channels), axis=2)
        try:
            self.evaluate(samples)
        except (AgentError, ProtocolError, ValueError) as error:  # the first live window shows the same error
            _LOG.warning("the warm-up of the model failed: %s", error)

    def evaluate(self, samples: NDArray[np.float32]) -> Evaluation:
        """Compute features and scores of windows.

        Args:
            samples: [window, sample, channel] float32 in the manifest's units; NaN where a sample is missing.

        Raises:
            AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``.
        """
        table = self.features.compute(samples)
        velocity = None
        if self.manifest.iso20816 is not None:
            count = len(self.task.names)
            table, velocity = table[:, :count], table[:, count:]
        model_input = self.task.model_input(table, samples)
        missing = self.task.set_missing_to_usual(model_input)
        model_output = self._run(model_input)
        scores = self.task.in_known_conditions(self._read(model_input, model_output, missing), table)
        return Evaluation(samples, table, model_input, model_output, scores, velocity, missing)

    def decide(self, state: DecisionState, evaluation: Evaluation, row: int = 0) -> tuple[DecisionState, Verdict]:
        """Decide what one window of an evaluation means for the machine.

        Args:
            state: the decision after the window before.
            evaluation: from :meth:`evaluate`.
            row: which window of ``evaluation``.

        Returns:
            The new state (see :func:`wheeltapper_protocols.decision.decision.step`) and the verdict. The verdict has
            reasons if it raises an alert or makes one worse.
        """
        spec, scores = self.manifest.decision, evaluation.scores
        zone, floor = self._zone(evaluation, row)
        score = float(scores.score[row])
        if not score >= floor:  # also where the model gives no score: the velocity alone says enough
            score = floor if math.isfinite(floor) else score
        if score >= spec.raise_level:
            self.last_above_threshold[:] = [evaluation.window(row)]
        state, verdict = step(spec, state, score)
        if scores.labels is not None or scores.values is not None or zone is not None:
            label = scores.labels[row] if scores.labels is not None else None
            value = float(scores.values[row]) if scores.values is not None and verdict.valid else None
            verdict = replace(verdict, label=label, value=value, zone=zone)
        if verdict.changed and verdict.alert:
            if score < spec.raise_level and self.last_above_threshold:
                evaluation, row = self.last_above_threshold[0], 0
            verdict = replace(verdict, reasons=self.reasons(evaluation, row))
        return state, verdict

    def _zone(self, evaluation: Evaluation, row: int) -> tuple[Zone | None, float]:
        """Return the ISO 20816 zone of the window, and the least score that this zone allows (minus infinity: any)."""
        section, spec = self.manifest.iso20816, self.manifest.decision
        if evaluation.velocity_mm_s is None or section is None:
            return None, -math.inf
        worst = (
            np.fmax.reduce if evaluation.missing is not None else np.max
        )  # fmax passes over channels without a value
        zone = iso20816.zone(section, float(worst(evaluation.velocity_mm_s[row])))
        if not section.raises or zone not in ("C", "D"):
            return zone, -math.inf
        return zone, spec.critical_level if zone == "D" else spec.raise_level

    def reasons(self, evaluation: Evaluation, row: int = 0) -> tuple[Reason, ...]:
        """Return why the window ``row`` has its score.

        Reasons of the model are found by intervention (ADR 13); there are none if the model fails. Where the ISO 20816
        zone alone raises the alert, the reason is the velocity. A bearing fault comes last, with a share of 0: it
        explains the score and is no part of it.
        """
        spec = self.manifest.decision
        _, floor = self._zone(evaluation, row)
        if math.isfinite(floor) and not evaluation.scores.score[row] >= spec.raise_level:
            reasons: tuple[Reason, ...] = (self._velocity_reason(evaluation, row, share=1.0),)
        else:
            reasons = self._model_reasons(evaluation, row, spec.reasons)[:_MAX_MODEL_REASONS]
            reasons += self._detector_reason(evaluation, row)
            if math.isfinite(floor):
                reasons += (self._velocity_reason(evaluation, row, share=0.0),)
        fault = self.bearing.find(evaluation.samples[row]) if self.bearing is not None else None
        return reasons if fault is None else (*reasons, fault)

    def _detector_reason(self, evaluation: Evaluation, row: int) -> tuple[Reason, ...]:
        """Return the reason that names the detector which gives the score, by its kind; none without ``evidence``."""
        if self.task.evidence is None:
            return ()
        rows = evaluation.model_input[row], evaluation.model_output[row]
        detector, value = self.task.evidence.strongest(*rows)
        return (Reason(feature=f"detector: {detector.kind}", value=value, usual=1.0, share=0.0),)

    def _velocity_reason(self, evaluation: Evaluation, row: int, share: float) -> Reason:
        """Return the reason that names the channel with the greatest velocity."""
        section = self.manifest.iso20816
        assert section is not None  # the caller has found a zone
        assert evaluation.velocity_mm_s is not None  # a zone is computed from it
        worst = int(np.nanargmax(evaluation.velocity_mm_s[row]))
        name = f"{self.manifest.input.channels[section.channels[worst]]}.velocity_mm_s"
        limit = iso20816.LIMITS_MM_S[section.group, section.foundation][1]
        return Reason(feature=name, value=float(evaluation.velocity_mm_s[row, worst]), usual=limit, share=share)

    def _model_reasons(self, evaluation: Evaluation, row: int, count: int) -> tuple[Reason, ...]:
        """Return the features or frequency bands that make the score, at most ``count``."""
        window = evaluation.samples[row]
        shape = self.manifest.input
        try:
            if self.manifest.raw is None:
                names, usual = self.task.names, self.task.usual_of(evaluation.features[row])
                return feature_reasons(
                    evaluation.model_input[row], evaluation.features[row], names, usual, self._score_inputs, count
                )
            bands = self.manifest.bands or []
            return band_reasons(window, bands, shape.sample_rate_hz, shape.channels, self._score_samples, count)
        except AgentError as error:  # an alert without reasons is better than none
            _LOG.warning("the alert has no reasons: the model failed: %s", error)
            return ()

    def _score_inputs(self, model_input: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what reasons lower, of ``model_input`` [window, …]: the scores, or all evidence together."""
        output = self._run(model_input)
        if self.task.evidence is not None:
            return self.task.evidence.strength(model_input, output)
        return self._read(model_input, output).score

    def _score_samples(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of ``samples`` [window, sample, channel] of a model that reads raw samples."""
        return self._score_inputs(self.task.model_input(np.zeros((len(samples), 0), np.float32), samples))

    def _run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's output; windows go one by one if the model fails on all of them together."""
        if len(model_input) == 1:
            return self.model.run(model_input)
        try:
            return self.model.run(model_input)
        except AgentError:
            return np.concatenate([self.model.run(one[None]) for one in model_input])

    def _read(
        self,
        model_input: NDArray[np.float32],
        model_output: NDArray[np.float32],
        missing: NDArray[np.bool_] | None = None,
    ) -> Prediction:
        """Return the scores that the model's output stands for; ``runtime.run`` if its form does not fit the task."""
        try:
            return self.task.read(model_input, model_output, missing)
        except ValueError as error:
            raise AgentError("runtime.run", str(error)) from error


def _read_file(path: Path, limit_bytes: int) -> bytes:
    """Return the content of ``path``; ``bundle.too_large`` or ``bundle.missing`` where that cannot be."""
    try:
        if path.stat().st_size > limit_bytes:
            raise AgentError("bundle.too_large", f"{path.name} has more than {limit_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AgentError("bundle.missing", f"{path} cannot be read: {error.strerror}") from error


def load_bundle(folder: Path, profile: Profile | None = None, sha256: str | None = None) -> Bundle:
    """Load the bundle in ``folder``.

    Args:
        folder: has ``manifest.json`` and the files that it names.
        profile: the board; None: any runtime, one thread, the CPU.
        sha256: the beginning of the SHA-256 that ``manifest.json`` must have, in hexadecimal; None: any.

    Raises:
        AgentError: ``bundle.missing``, ``bundle.too_large``, ``bundle.hash``, ``bundle.invalid``, ``runtime.*``.
        ProtocolError: ``manifest.*``, and ``runtime.*`` of :mod:`wheeltapper_protocols.manifest.model_file`.
    """
    raw = _read_file(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and not digest.startswith(sha256):
        raise AgentError(
            "bundle.hash", f"the manifest in {folder.name} is not the one that was verified; fetch the release again"
        )
    manifest = chosen_format(decode_manifest(raw), profile)
    contents: dict[str, bytes] = {}
    wanted = {manifest.model_file, GOLDEN_FILE, *(golden_file(each) for each in RUNTIMES[manifest.runtime])}
    for file in manifest.files:
        content = _read_file(folder / file.name, MAX_FILE_BYTES)
        check_file(file, content)
        if file.name in wanted:
            contents[file.name] = content
    shape = manifest.input
    signal_shape = (shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    specs = list(manifest.features)
    try:
        if manifest.iso20816 is not None:
            velocities = velocity_feature_specs(manifest.iso20816, shape.channels, shape.units)
            specs += [replace(spec, name=f"iso20816.{spec.name}") for spec in velocities]
        features = FeatureSet(specs, *signal_shape)
        task = InferenceTask(manifest)
        bearing = BearingFaultDetector(manifest.bearing, *signal_shape) if manifest.bearing is not None else None
    except (ProtocolError, ValueError, IndexError, KeyError) as error:
        raise AgentError(
            "bundle.invalid",
            f"the manifest describes what this agent cannot compute: {getattr(error, 'message', error)}",
        ) from error
    content = contents[manifest.model_file]
    check_model_file(manifest, content)
    claimed = None if manifest.runtimes is None else [entry.name for entry in manifest.runtimes]
    model = load_model(
        content, manifest.runtime, profile, manifest.tensors, manifest.output, manifest.signature, claimed
    )
    channels = {feature.channel for feature in manifest.features}
    reconstructs = manifest.raw is None and manifest.task == "anomaly" and manifest.anomaly is None
    propagates_nan = reconstructs and channels == set(range(len(shape.channels)))
    here = contents.get(golden_file(runtime_name(model)), b"")
    return Bundle(manifest, digest, features, task, model, contents[GOLDEN_FILE], here, bearing, propagates_nan)


def check_input(manifest: Manifest, spec: SourceSpec) -> None:
    """Check that a source gives windows of the form that a release takes.

    Raises:
        AgentError: ``update.input_mismatch``: sample rate, window length, channels or units differ.
    """
    shape = manifest.input
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("samples at no fixed rate", shape.irregular, spec.irregular),
        ("sample rate [Hz]", shape.sample_rate_hz, shape.sample_rate_hz if shape.irregular else spec.sample_rate_hz),
        ("samples in a window", shape.window_samples, spec.window_samples),
        ("channels", tuple(shape.channels), spec.channels),
        ("units", tuple(shape.units), spec.units),
    )
    for what, needed, given in pairs:
        same = math.isclose(needed, given, rel_tol=_RATE_SHARE) if isinstance(needed, float) else needed == given
        if not same:
            raise AgentError(
                "update.input_mismatch",
                f"{what}: the release takes {needed}, the source gives {given}; assign a release made for this source",
            )
