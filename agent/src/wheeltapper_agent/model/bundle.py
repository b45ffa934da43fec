"""A bundle, loaded: verified bytes turned into features, network and its reading; and the self-test of it
on this board.

Invariant: every file is checked against the manifest at each load, and what runs is made of the very bytes that were
checked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import math
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.inference import Model
from wheeltapper_agent.model.runtimes import open_network
from wheeltapper_agent.source.base import SourceSpec
from wheeltapper_protocols.decision.bearing import BearingFinder
from wheeltapper_protocols.decision.decision import DecisionState, Verdict, step
from wheeltapper_protocols.decision.reasons import feature_reasons, raw_reasons
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.interpreter import Interpreter, Reading
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_file,
    decode_manifest,
)
from wheeltapper_protocols.signal import iso20816
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.iso20816 import Zone, velocity_specs
from wheeltapper_protocols.wire.messages import Reason

__all__ = ["MAX_BATCH", "Bundle", "Evaluation", "check_input", "load_bundle", "process_mb", "self_test"]

_LOG = logging.getLogger(__name__)
MAX_BATCH: Final = 32
"""Windows in one call of the network, at most."""
_LATENCY_RUNS: Final = 40
_WARM_UP_RUNS: Final = 5


class Evaluation(Struct, frozen=True):
    """Some windows through a bundle; the first axis of everything is the window."""

    samples: NDArray[np.float32]
    features: NDArray[np.float32]
    """[window, feature]; no columns where the network reads samples."""
    model_input: NDArray[np.float32]
    model_output: NDArray[np.float32]
    scores: Reading
    velocity_mm_s: NDArray[np.float32] | None = None
    """[window, channel], root mean square of each channel that the section ISO 20816 of the manifest names."""

    def window(self, row: int) -> Evaluation:
        """The window ``row`` alone, in memory of its own."""
        at, scores = slice(row, row + 1), self.scores
        alone = Reading(
            scores.score[at].copy(),
            scores.labels[at] if scores.labels is not None else None,
            scores.values[at].copy() if scores.values is not None else None,
        )
        velocity = self.velocity_mm_s[at].copy() if self.velocity_mm_s is not None else None
        return Evaluation(
            self.samples[at].copy(),
            self.features[at].copy(),
            self.model_input[at].copy(),
            self.model_output[at].copy(),
            alone,
            velocity,
        )


@dataclass(frozen=True)
class Bundle:
    """A release that can score windows."""

    manifest: Manifest
    sha256: str
    features: FeatureSet
    """The manifest's features, and after them the velocities of ISO 20816 where it asks for them."""
    interpreter: Interpreter
    model: Model
    golden: bytes
    """The golden vectors' file; nothing after :meth:`without_golden`."""
    bearing: BearingFinder | None = None
    shows_missing: bool = False
    """Whether any missing sample (NaN) gives a score that is NaN: features see every channel, and the score is made of
    what became of them. Then a window need not be searched for them before it is scored."""
    loud: list[Evaluation] = field(default_factory=list, compare=False, repr=False)
    """The newest window at or above ``raise_level``, alone in a list: a smoothed score may raise the alert later, at a
    window that is quiet again and has no reasons to give."""

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names."""
        return self.interpreter.names

    def without_golden(self) -> Bundle:
        """This bundle for the rest of its life: what only :func:`self_test` needs is let go."""
        return dataclasses.replace(self, golden=b"")

    def for_one_stream(self) -> Bundle:
        """This bundle for the windows of one source alone: several may share everything but what was seen last."""
        return dataclasses.replace(self, loud=[])

    def warm_up(self) -> None:
        """Score a made-up window: the first call is slow, which shall not be held against a release."""
        shape = self.manifest.input
        wave = np.sin(np.arange(shape.window_samples, dtype=np.float32))
        samples = np.repeat(wave[None, :, None], len(shape.channels), axis=2)
        try:
            self.evaluate(samples)
        except (AgentError, ProtocolError, ValueError) as error:  # the first live window will say so
            _LOG.warning("warming up: %s", error)

    def evaluate(self, samples: NDArray[np.float32]) -> Evaluation:
        """Score ``samples`` [window, sample, channel] in the manifest's units.

        Raises:
            AgentError: ``runtime.run``.
        """
        table = self.features.compute(samples)
        velocity = None
        if self.manifest.iso20816 is not None:
            count = len(self.interpreter.names)
            table, velocity = table[:, :count], table[:, count:]
        model_input = self.interpreter.model_input(table, samples)
        model_output = self._run(model_input)
        return Evaluation(samples, table, model_input, model_output, self._read(model_input, model_output), velocity)

    def decide(self, state: DecisionState, found: Evaluation, row: int = 0) -> tuple[DecisionState, Verdict]:
        """Take the window ``row`` of ``found`` into account; see :func:`wheeltapper_protocols.decision.decision.step`.

        The verdict has reasons where it raised an alert or made it worse.
        """
        spec, scores = self.manifest.decision, found.scores
        zone, floor = self._zone(found, row)
        score = max(float(scores.score[row]), floor)
        if score >= spec.raise_level:
            self.loud[:] = [found.window(row)]
        state, verdict = step(spec, state, score)
        if scores.labels is not None or scores.values is not None or zone is not None:
            label = scores.labels[row] if scores.labels is not None else None
            value = float(scores.values[row]) if scores.values is not None and verdict.valid else None
            verdict = replace(verdict, label=label, value=value, zone=zone)
        if verdict.changed and verdict.alert:
            if score < spec.raise_level and self.loud:
                found, row = self.loud[0], 0
            verdict = replace(verdict, reasons=self.reasons(found, row))
        return state, verdict

    def _zone(self, found: Evaluation, row: int) -> tuple[Zone | None, float]:
        """The zone of a window, and the score that it has at least."""
        section, spec = self.manifest.iso20816, self.manifest.decision
        if found.velocity_mm_s is None or section is None:
            return None, -math.inf
        zone = iso20816.zone(section, float(found.velocity_mm_s[row].max()))
        if not section.raises or zone not in ("C", "D"):
            return zone, -math.inf
        return zone, spec.critical_level if zone == "D" else spec.raise_level

    def reasons(self, found: Evaluation, row: int = 0) -> tuple[Reason, ...]:
        """Why the window ``row`` has the score that it has, found by intervention (nothing where the network fails), or
        the velocity where the zone alone raised it; at last what explains it and is no part of the score."""
        spec = self.manifest.decision
        _, floor = self._zone(found, row)
        if math.isfinite(floor) and not found.scores.score[row] >= spec.raise_level:
            why: tuple[Reason, ...] = (self._velocity_reason(found, row, share=1.0),)
        else:
            why = self._network_reasons(found, row, spec.reasons)[:14]
            if math.isfinite(floor):
                why += (self._velocity_reason(found, row, share=0.0),)
        fault = self.bearing.find(found.samples[row]) if self.bearing is not None else None
        return why if fault is None else (*why, fault)

    def _velocity_reason(self, found: Evaluation, row: int, share: float) -> Reason:
        section = self.manifest.iso20816
        assert section is not None  # there is a zone
        assert found.velocity_mm_s is not None  # as above
        worst = int(found.velocity_mm_s[row].argmax())
        name = f"{self.manifest.input.channels[section.channels[worst]]}.velocity_mm_s"
        limit = iso20816.LIMITS_MM_S[section.group, section.foundation][1]
        return Reason(feature=name, value=float(found.velocity_mm_s[row, worst]), usual=limit, share=share)

    def _network_reasons(self, found: Evaluation, row: int, count: int) -> tuple[Reason, ...]:
        window = found.samples[row]
        shape = self.manifest.input
        try:
            if self.manifest.raw is None:
                names, usual = self.interpreter.names, self.interpreter.usual
                return feature_reasons(
                    found.model_input[row], found.features[row], names, usual, self._score_inputs, count
                )
            bands = self.manifest.bands or []
            return raw_reasons(window, bands, shape.sample_rate_hz, shape.channels, self._score_samples, count)
        except AgentError as error:  # an alert without reasons is better than none
            _LOG.warning("no reasons: %s", error)
            return ()

    def _score_inputs(self, model_input: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._read(model_input, self._run(model_input)).score

    def _score_samples(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._score_inputs(self.interpreter.model_input(np.zeros((len(samples), 0), np.float32), samples))

    def _run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output; one window at a time where it refuses more."""
        if len(model_input) == 1:
            return self.model.run(model_input)
        try:
            return self.model.run(model_input)
        except AgentError:
            return np.concatenate([self.model.run(one[None]) for one in model_input])

    def _read(self, model_input: NDArray[np.float32], model_output: NDArray[np.float32]) -> Reading:
        try:
            return self.interpreter.read(model_input, model_output)
        except ValueError as error:
            raise AgentError("runtime.run", str(error)) from error


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        if path.stat().st_size > limit_bytes:
            raise AgentError("bundle.too_large", f"{path.name} exceeds {limit_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AgentError("bundle.missing", f"{path} cannot be read: {error.strerror}") from error


def load_bundle(folder: Path, profile: Profile | None = None, sha256: str | None = None) -> Bundle:
    """Load the bundle in ``folder``.

    Args:
        folder: with ``manifest.json`` and the files that it names.
        profile: the board; None for one thread on the CPU.
        sha256: what the manifest's hash must begin with.

    Raises:
        AgentError: ``bundle.missing``, ``bundle.too_large``, ``bundle.invalid``, ``runtime.*``.
        ProtocolError: ``manifest.*``.
    """
    raw = _read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and not digest.startswith(sha256):
        raise AgentError("bundle.hash", f"the manifest in {folder.name} is not the one that was verified")
    manifest = decode_manifest(raw)
    contents: dict[str, bytes] = {}
    for file in manifest.files:
        content = _read(folder / file.name, MAX_FILE_BYTES)
        check_file(file, content)
        if file.name in (manifest.model_file, GOLDEN_FILE):
            contents[file.name] = content
    shape = manifest.input
    form = (shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    specs = list(manifest.features)
    try:
        if manifest.iso20816 is not None:
            velocities = velocity_specs(manifest.iso20816, shape.channels, shape.units)
            specs += [replace(spec, name=f"iso20816.{spec.name}") for spec in velocities]
        features = FeatureSet(specs, *form)
        interpreter = Interpreter(manifest)
        bearing = BearingFinder(manifest.bearing, *form) if manifest.bearing is not None else None
    except (ProtocolError, ValueError, IndexError, KeyError) as error:
        raise AgentError("bundle.invalid", f"the manifest cannot be run: {error}") from error
    model = open_network(contents[manifest.model_file], manifest.runtime, profile, manifest.tensors)
    seen = {feature.channel for feature in manifest.features}
    reconstructs = manifest.raw is None and manifest.task == "anomaly" and manifest.anomaly is None
    shows_missing = reconstructs and seen == set(range(len(shape.channels)))
    return Bundle(manifest, digest, features, interpreter, model, contents[GOLDEN_FILE], bearing, shows_missing)


def check_input(manifest: Manifest, spec: SourceSpec) -> None:
    """Check that the windows of a source are what the release takes.

    Raises:
        AgentError: ``update.input_mismatch``.
    """
    shape = manifest.input
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("sample rate [Hz]", shape.sample_rate_hz, spec.sample_rate_hz),
        ("samples in a window", shape.window_samples, spec.window_samples),
        ("channels", tuple(shape.channels), spec.channels),
        ("units", tuple(shape.units), spec.units),
    )
    for what, needed, given in pairs:
        same = math.isclose(needed, given, rel_tol=1e-6) if isinstance(needed, float) else needed == given
        if not same:
            raise AgentError("update.input_mismatch", f"{what}: the release takes {needed}, the source gives {given}")


def _golden(content: bytes) -> dict[str, NDArray[Any]]:
    names = ("samples", "model_input", "model_output", "score")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in names}
    except Exception as error:  # numpy and zipfile raise many kinds on foreign bytes
        raise AgentError("self_test.golden", f"the golden vectors cannot be read: {str(error)[:200]}") from error
    if arrays["samples"].ndim != 3 or not len(arrays["samples"]):
        raise AgentError("self_test.golden", "the golden vectors hold no windows")
    return arrays


def process_mb(figure: str) -> float:
    """A figure of this process's memory from ``/proc/self/status``; ``VmHWM`` is its peak.

    Not getrusage's peak: that begins with the one of the process that forked this one.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return float(text.partition(f"{figure}:")[2].split()[0]) / 1024.0
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def self_test(bundle: Bundle, rss_before_mb: float | None = None, latency_factor: float = 1.0) -> dict[str, float]:
    """Run the golden vectors from raw samples to scores on this board, then measure latency and memory.

    Args:
        bundle: loaded.
        rss_before_mb: peak memory before it was loaded; None: the growth of this test alone counts.
        latency_factor: how many times its budget a window may take, where this process yields to others.

    Returns:
        ``output_error``, ``score_error``, ``latency_p95_ms``, ``rss_growth_mb``.

    Raises:
        AgentError: ``self_test.golden``, ``self_test.features``, ``self_test.output``, ``self_test.score``,
        ``self_test.latency``,
            ``self_test.memory``, ``runtime.run``.
    """
    before_mb = process_mb("VmHWM") if rss_before_mb is None else rss_before_mb
    golden = _golden(bundle.golden)
    samples = np.asarray(golden["samples"], dtype=np.float32)
    try:
        found = bundle.evaluate(samples)
    except (ProtocolError, ValueError, IndexError) as error:
        raise AgentError("self_test.golden", f"the golden windows cannot be scored: {error}") from error
    metrics = _compare(bundle, golden, found)
    bundle.evaluate(np.resize(samples, (MAX_BATCH, *samples.shape[1:])))  # as many as may come together
    times_ms = []
    for run in range(_WARM_UP_RUNS + _LATENCY_RUNS):
        one = samples[run % len(samples)][None]
        begin = time.perf_counter()
        bundle.evaluate(one)
        if run >= _WARM_UP_RUNS:
            times_ms.append((time.perf_counter() - begin) * 1e3)
    metrics["latency_p95_ms"] = float(np.percentile(times_ms, 95))
    metrics["rss_growth_mb"] = max(0.0, process_mb("VmHWM") - before_mb)
    budget = bundle.manifest.budget
    if metrics["latency_p95_ms"] > budget.latency_p95_ms * latency_factor:
        text = f"p95 {metrics['latency_p95_ms']:.2f} ms exceeds the budget of {budget.latency_p95_ms} ms"
        raise AgentError("self_test.latency", text)
    if metrics["rss_growth_mb"] > budget.rss_growth_mb:
        text = (
            f"memory grew by {metrics['rss_growth_mb']:.1f} MB with up to {MAX_BATCH} windows in a call, the budget is "
            f"{budget.rss_growth_mb} MB; a network exported for one window at a time needs less"
        )
        raise AgentError("self_test.memory", text)
    return metrics


def _compare(bundle: Bundle, golden: dict[str, NDArray[Any]], found: Evaluation) -> dict[str, float]:
    tolerance = bundle.manifest.golden
    checks = (
        ("features", golden["model_input"], found.model_input, tolerance.feature_rtol, tolerance.feature_rtol),
        ("output", golden["model_output"], found.model_output, tolerance.output_atol, 0.0),
        ("score", golden["score"], found.scores.score, 1e-9, tolerance.score_rtol),
    )
    metrics: dict[str, float] = {}
    for what, expected, got, atol, rtol in checks:
        if expected.shape != got.shape:
            raise AgentError(
                f"self_test.{what}", f"golden {what} have the shape {expected.shape}, this board gives {got.shape}"
            )
        error = np.abs(np.asarray(got, dtype=np.float64) - expected)
        worst = float(np.max(error))
        if not np.all(error <= atol + rtol * np.abs(expected)):  # also refuses NaN
            raise AgentError(f"self_test.{what}", f"golden {what} differ by up to {worst:.4g} on this board")
        metrics[f"{what}_error"] = worst
    return metrics
