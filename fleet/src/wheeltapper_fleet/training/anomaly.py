"""``wheeltapper train anomaly``: trains an anomaly model on recordings and writes its bundle.

Healthy first part of each recording -> features -> autoencoder -> ONNX -> int8 -> golden vectors -> gates -> bundle.

Invariants:
    * The same recordings and seed give the same bundle, except for ``created_at`` and the measured latency.
    * One recording is in memory at a time.
    * If anything fails, ``out`` is as it was before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import autoencoder, budget, evidence, gates
from wheeltapper_fleet.training.baseline import fit_baseline
from wheeltapper_fleet.training.bundles import bundle_file, check_target, npz_bytes, write_bundle
from wheeltapper_fleet.training.conditions import AUTO
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evidence import Kept
from wheeltapper_fleet.training.healthy_part import (
    HealthyPart,
    Progress,
    feature_set,
    found_condition,
    machine_hours,
    machines_of,
    read_healthy,
    step_seconds,
)
from wheeltapper_fleet.training.machines import LEAST_BASELINE, MOST_BASELINE, fit_machines
from wheeltapper_fleet.training.quantize import latency_ms
from wheeltapper_fleet.training.recipe import decision_for, is_process, patient
from wheeltapper_fleet.training.recipes import Shown
from wheeltapper_fleet.training.tables import TableForm
from wheeltapper_fleet.training.tflite_nets import autoencoder_to_tflite
from wheeltapper_fleet.training.variants import with_tflite
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.evidence import Evidence
from wheeltapper_protocols.drift.drift import DriftSpec, fit_drift_spec
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Budget,
    Gate,
    Golden,
    Manifest,
    encode_manifest,
)  # fmt: skip
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["train_anomaly"]

_LOG = logging.getLogger(__name__)
_ATTEMPTS: Final = 4
"""How many seeds are tried until the int8 model agrees with the float model."""
_READ_DONE: Final = 0.4
"""How much of the training is over when all recordings are read, and"""
_FIT_DONE: Final = 0.85
"""when the model is fitted."""
_GOLDEN: Final = Golden(output_atol=0.05, score_rtol=0.02)
_BUDGET: Final = Budget(latency_p95_ms=50.0, rss_growth_mb=96.0)


@dataclass(frozen=True)
class _Candidate:
    """A trained model that has not passed its gates yet.

    Args:
        features: what it looks at.
        groups: the healthy features that it is fitted to, [window, feature]: of each recording or, where each is
            measured by its own baseline, of each machine.
        group_of: for each recording the index of its group.
        kept: the fit, and the scores of the groups.
        model: the network, int8 where that agrees with floating point.
        precision: what the lineage says of that.
    """

    features: FeatureSet
    groups: list[npt.NDArray[np.float32]]
    group_of: list[int]
    kept: Kept
    model: bytes
    precision: dict[str, str]


def train_anomaly(
    recordings: Iterable[Path | Recording],
    *,
    healthy_fraction: float,
    out: Path,
    model: str = "bearing-anomaly",
    seed: int = 0,
    false_alarms: float = 1.0,
    condition: str = "",
    baseline_windows: int | None = None,
    table: TableForm | None = None,
    replace: bool = False,
    formats: tuple[str, ...] = ("onnx",),
    origin: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    done: Callable[[float], None] | None = None,
    warn: Progress | None = None,
    shown: Shown | None = None,
) -> Manifest:
    """Train a model, run its gates, and write its bundle; returns its manifest, with the results of its gates.

    This function is long because each option is a parameter.

    Args:
        recordings: recordings, or paths of recordings (``.npz``, CSV, Parquet, WAV), that agree in rate, window,
            channels and units.
        healthy_fraction: how much of each recording, from its start, is known to be healthy; above 0 and at most 1.
        out: the bundle's folder.
        model: the model's name.
        seed: seeds everything random. If ``int8_agreement`` is the only gate that fails, the following seeds are tried.
        false_alarms: the budget: how many false alarms are accepted in 1,000 machine-hours.
        condition: name of the channel that says the operating condition, such as the speed; empty: there is one;
            ``auto``: the channel is found, where there is one that stands at one of a few values.
        baseline_windows: in so many windows each device learns the level and spread of its own machine; 0: in none. By
            default it does where there is vibration of two machines or more, in as many windows as each of them has, at
            most :data:`~wheeltapper_fleet.training.machines.MOST_BASELINE`.
        table: what files other than ``.npz`` do not say about themselves.
        replace: whether an older bundle at ``out`` may be replaced.
        formats: of the model; ONNX is always one, ``tflite`` may be another.
        origin: where the recordings are from, for the lineage: the dataset and its split.
        progress: called with a few words at each step.
        done: called with how much is over, 0 to 1, where the number of recordings is known.
        warn: called with a sentence for each thing that was left out, or that so little data cannot show; by default
            it is logged.
        shown: takes the scores of healthy windows, for the plots of a run.

    Raises:
        TrainingError: ``training.fraction``, ``training.budget``, ``training.baseline``, ``training.condition``,
            ``training.window``, ``training.mixed_input``, ``training.too_little``, ``training.table``,
            ``training.channel``, ``training.repeated``, ``training.out_exists``, ``training.gate_failed``,
            ``training.runtime``.
        RecordingError: a recording is malformed.
    """
    report, say = progress or (lambda text: None), warn or _LOG.warning
    _check_numbers(healthy_fraction, false_alarms)
    if baseline_windows and not 8 <= baseline_windows <= 1_000_000:
        raise TrainingError("training.baseline", f"a baseline of {baseline_windows} windows: give 8 to 1,000,000, or 0")
    check_target(out, replace)
    report("features")
    table = table or TableForm()
    if condition == AUTO:
        recordings = list(recordings)
        condition = found_condition(recordings, healthy_fraction, table)
        report(f"the channel {condition!r} says the condition" if condition else "no channel says a condition")
    count = len(recordings) if isinstance(recordings, Sequence) else 0

    def read(number: int) -> None:
        if count and done is not None:
            done(_READ_DONE * number / count)
            report(f"features of {number} of {count} recordings")

    healthy = read_healthy(recordings, healthy_fraction, condition, table, say, read)
    for attempt in range(_ATTEMPTS):
        report("fit with another seed" if attempt else "cross-validation and fit")
        candidate = _fit(healthy, seed, false_alarms, condition, baseline_windows)
        if done is not None:
            done(_FIT_DONE)
        report("gates")
        golden, measured = _run_gates(candidate, healthy, seed, false_alarms)
        failed = [gate for gate in measured if not gate.passed]
        if attempt + 1 == _ATTEMPTS or [gate.name for gate in failed] != ["int8_agreement"]:
            break
        # How well a model can be quantized depends on its initial weights and on the processor's arithmetic.
        seed += 1
    if "int8_agreement" in [gate.name for gate in failed]:
        report("gates in floating point")
        candidate = _in_float(candidate, failed)
        golden, measured = _run_gates(candidate, healthy, seed, false_alarms)
        failed = [gate for gate in measured if not gate.passed]
    if shown is not None:
        _show(candidate, healthy, false_alarms, shown)
    _refuse(failed)
    _say_unknown(healthy, say)
    manifest = _manifest(candidate, healthy, golden, measured, model, seed, healthy_fraction, false_alarms)
    manifest = msgspec.structs.replace(manifest, lineage={**manifest.lineage, **(origin or {})})
    if baseline_windows and manifest.baseline is None:
        task = InferenceTask(manifest)
        rows = [task.model_input(part.features, part.features[:, :0]) for part in healthy]
        manifest = msgspec.structs.replace(manifest, baseline=fit_baseline(rows, baseline_windows))
    files = {MODEL_FILE: candidate.model, GOLDEN_FILE: golden}
    if "tflite" in formats:
        report("golden outputs of the TFLite runtimes")
        manifest, files = with_tflite(manifest, files, autoencoder_to_tflite(candidate.model))
    write_bundle(out, files | {MANIFEST_FILE: encode_manifest(manifest)}, replace)
    report("bundle written")
    return manifest


def _check_numbers(healthy_fraction: float, false_alarms: float) -> None:
    """Raise ``training.fraction`` or ``training.budget`` for what is no share, or no rate."""
    if not 0 < healthy_fraction <= 1:
        raise TrainingError(
            "training.fraction", f"healthy_fraction is {healthy_fraction}; give a number above 0 and at most 1"
        )
    if not 0 < false_alarms <= 1e6:
        raise TrainingError(
            "training.budget",
            f"false_alarms is {false_alarms}; give how many are accepted in 1,000 machine-hours, above 0",
        )


def _refuse(failed: list[Gate]) -> None:
    """Raise ``training.gate_failed`` where there is a gate that failed."""
    if failed:
        text = "; ".join(f"{gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}" for gate in failed)
        raise TrainingError("training.gate_failed", f"the candidate failed its gates: {text}; no bundle was written")


def _show(candidate: _Candidate, healthy: list[HealthyPart], false_alarms: float, shown: Shown) -> None:
    """Hand over the scores of healthy windows, each by a fit that did not see it."""
    decision = _decision(candidate, healthy, false_alarms)
    what = "machine" if candidate.kept.own else "recording"
    scores = {f"{what} {number}": each for number, each in enumerate(candidate.kept.held_out, start=1)}
    shown.scores(scores, step_seconds(healthy), decision.raise_windows, false_alarms or None)


def _say_unknown(healthy: list[HealthyPart], say: Progress) -> None:
    """Say what so few windows cannot show."""
    windows = sum(len(part.features) for part in healthy)
    for text in gates.unknown_from(windows, step_seconds(healthy)):
        say(text)


def _fit(
    healthy: list[HealthyPart], seed: int, false_alarms: float, condition: str, baseline_windows: int | None
) -> _Candidate:
    """Fit the detectors, find their limits, and quantize the model of one candidate."""
    features = feature_set(healthy[0].input, condition)
    said = features.names.index(f"{condition}.value") if condition else None
    group_of = list(range(len(healthy)))
    if said is None and not is_process(features.specs):
        group_of = machines_of(healthy)
    groups = [np.concatenate([each.features for each, at in zip(healthy, group_of, strict=True) if at == group])
              for group in range(max(group_of) + 1)]  # fmt: skip
    windows_per_hour = 3600.0 / step_seconds(healthy)
    learnt = min(MOST_BASELINE, *map(len, groups)) if baseline_windows is None else baseline_windows
    if said is None and not is_process(features.specs) and len(groups) > 1 and learnt >= LEAST_BASELINE:
        kept = fit_machines(features.specs, groups, seed, windows_per_hour, false_alarms, learnt)
    else:
        kept = evidence.fit_evidence(features.specs, groups, seed, windows_per_hour, false_alarms, said)
    rows = np.concatenate([kept.rows(number, group) for number, group in enumerate(groups)])
    exact = autoencoder.to_onnx(kept.fitted.layers)
    model = autoencoder.quantize_int8(exact, rows)
    return _Candidate(features, groups, group_of, kept, model, _precision(exact, model, rows.shape[1]))


def _in_float(candidate: _Candidate, failed: list[Gate]) -> _Candidate:
    """The candidate in floating point, since no 8-bit model of it agreed."""
    gate = next(gate for gate in failed if gate.name == "int8_agreement")
    why = f"8 bits differ by {gate.value:.3g}, and {gate.limit:.3g} is allowed: float is kept"
    exact = autoencoder.to_onnx(candidate.kept.fitted.layers)
    return changed(candidate, model=exact, precision={"precision": "float", "precision_why": why})


def _precision(exact: bytes, small: bytes, width: int) -> dict[str, str]:
    """What the lineage says of an 8-bit model: what a window takes with it, and in floating point."""
    float_ms, int8_ms = latency_ms([exact, small], np.zeros((1, width), dtype=np.float32))
    told = f"int8 takes {1e3 * int8_ms:.3g} µs a window here, float {1e3 * float_ms:.3g} µs: int8 is kept"
    return {"precision": "int8", "precision_why": told}


def _decision(candidate: _Candidate, healthy: list[HealthyPart], false_alarms: float) -> DecisionSpec:
    """The decision of a candidate; with slow wear where machines have their own baselines."""
    found = decision_for(step_seconds(healthy), candidate.features.specs)
    if not candidate.kept.own:
        return found
    limit = budget.slow_limit(candidate.kept.held_out, 3600.0 / step_seconds(healthy), false_alarms)
    slow = {"slow_drift": budget.SLOW_REFERENCE, "slow_limit": round(limit, 3)} if limit else {}
    return msgspec.structs.replace(patient(found), **slow)


def _drift(candidate: _Candidate, healthy: list[HealthyPart]) -> DriftSpec:
    """The drift reference: bins frozen from all healthy features and the cross-validated scores, for reports by the
    hour."""
    scores = np.concatenate(candidate.kept.held_out)
    windows_an_hour = 3600.0 / step_seconds(healthy)
    return fit_drift_spec(np.concatenate([part.features for part in healthy]), scores, round(min(1e6, windows_an_hour)))


def _damaged(
    samples: npt.NDArray[np.float32], gain: float, seed: int, spread: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Simulate damage: windows ``gain`` times as loud, with sparse impacts, in the shape of ``samples``.

    Of process data each window is instead ``gain`` of its channels' ``spread`` [channel] away, up or down.
    """
    random = np.random.default_rng(seed)
    if spread is not None:
        ways = random.choice(np.array([-1.0, 1.0]), size=(len(samples), 1, samples.shape[2]))
        return np.asarray(samples + gain * spread * ways, dtype=np.float32)
    mean = samples.mean(axis=1, keepdims=True)
    level = samples.std(axis=1, keepdims=True) + 1e-6
    impacts = random.normal(size=samples.shape) * (random.random(samples.shape) < 0.02) * 5 * gain
    return np.asarray(mean + (samples - mean) * gain + impacts * level, dtype=np.float32)


def _run_gates(
    candidate: _Candidate, healthy: list[HealthyPart], seed: int, false_alarms: float
) -> tuple[bytes, list[Gate]]:
    """Make the golden vectors (the bytes of an ``.npz``) and measure every gate."""
    session = autoencoder.open_session(candidate.model)
    kept, fitted = candidate.kept, candidate.kept.fitted
    scorer, detectors = fitted.scorer, Evidence(fitted.spec, fitted.scorer.spec)

    def score(rows: npt.NDArray[np.float32]) -> tuple[Any, Any, Any]:
        output = session.run(["output"], {"input": rows})[0]
        float_score = detectors.score(rows, autoencoder.reconstruct(fitted.layers, rows))
        return output, detectors.score(rows, output), float_score

    samples = np.concatenate([part.samples for part in healthy])
    spread = samples.std(axis=(0, 1)) if is_process(candidate.features.specs) else None
    said = [spec.channel for spec in candidate.features.specs if fitted.condition and spec.name == scorer.names[-1]]

    def damage(windows: npt.NDArray[np.float32], gain: float, seed: int) -> npt.NDArray[np.float32]:
        found = _damaged(windows, gain, seed, spread)
        found[:, :, said] = windows[:, :, said]  # the speed does not break
        return found

    broken = np.split(
        candidate.features.compute(damage(samples, 10.0, seed)),
        np.cumsum([len(part.samples) for part in healthy])[:-1],
    )
    damaged = score(np.concatenate([kept.rows(at, each) for at, each in zip(candidate.group_of, broken, strict=True)]))
    normal = score(np.concatenate([kept.rows(at, group) for at, group in enumerate(candidate.groups)]))
    golden_samples = samples[np.linspace(0, len(samples) - 1, 4).astype(int)]
    windows = np.concatenate(
        [golden_samples, *(damage(golden_samples[i : i + 1], 1.0 + i, seed + i) for i in range(4))]
    )
    rows = fitted.rows(candidate.features.compute(windows))
    output, golden_score, _ = score(rows)
    again = autoencoder.open_session(candidate.model).run(["output"], {"input": rows})[0]
    held_out, decision = kept.held_out, _decision(candidate, healthy, false_alarms)
    measured = [
        gates.finite(
            np.concatenate([output, normal[0], damaged[0]]), np.concatenate([golden_score, normal[1], damaged[1]])
        ),
        gates.agreement(np.concatenate([normal[1], damaged[1]]), np.concatenate([normal[2], damaged[2]])),
        gates.false_alerts(held_out, 1.0, candidate.groups, scorer, decision),
        gates.false_alarm_budget(held_out, machine_hours(healthy), false_alarms, decision),
        gates.sensitivity(damaged[1]),
        gates.reproducible(output, again, _GOLDEN.output_atol),
        gates.size(candidate.model),
        gates.latency(session, rows[:1]),
    ]
    arrays = {"samples": windows, "model_input": rows, "model_output": output, "score": golden_score}
    return npz_bytes(arrays), measured


def _manifest(
    candidate: _Candidate,
    healthy: list[HealthyPart],
    golden: bytes,
    measured: list[Gate],
    model: str,
    seed: int,
    fraction: float,
    false_alarms: float,
) -> Manifest:
    lineage = {f"recording-{number}": part.sha256 for number, part in enumerate(healthy)}
    lineage |= {"recipe": "anomaly-4", "seed": str(seed), "healthy_fraction": str(fraction)}
    lineage |= {"false_alarm_budget": f"{false_alarms:g} in 1000 machine-hours"}
    if (section := candidate.kept.fitted.condition) is not None:
        lineage |= {"condition": candidate.features.names[section.features[0]].removesuffix(".value")}
    lineage |= candidate.precision
    lineage |= {name: version(name) for name in ("numpy", "onnx", "onnxruntime", "scikit-learn")}
    return Manifest(
        model=model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=[bundle_file(MODEL_FILE, candidate.model), bundle_file(GOLDEN_FILE, golden)],
        input=healthy[0].input,
        features=list(candidate.features.specs),
        scoring=candidate.kept.fitted.scorer.spec,
        evidence=candidate.kept.fitted.spec,
        condition=candidate.kept.fitted.condition,
        baseline=candidate.kept.baseline,
        decision=_decision(candidate, healthy, false_alarms),
        drift=_drift(candidate, healthy),
        golden=_GOLDEN,
        budget=_BUDGET,
        gates=measured,
        lineage=lineage,
    )
