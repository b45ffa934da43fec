"""The recipe ``fault-classifier``: from labelled vibration to the kind of fault, with calibrated probabilities.

Recordings with a label -> windows of one rate without the converters' grids -> convolution nets on the raw samples and
boosted trees on the envelope's spectrum, by folds of machines -> the share of each and a temperature from the machines
that each did not see -> int8 -> golden vectors -> gates -> bundle.

Invariants:
    * Machines are divided, never windows. A class that one machine alone shows is divided by time, and that is said.
    * The same recordings, parameters and seed give the same model bytes on one machine.
    * Every window is brought to zero mean and unit root mean square within the model: loudness is not the class.
    * If anything fails, ``out`` is as it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from sklearn.metrics import roc_auc_score

from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import check_target
from wheeltapper_fleet.training.conformal import fit_temperature, softmax
from wheeltapper_fleet.training.convnet import ConvNet, Convolution, Fit, fit
from wheeltapper_fleet.training.convnet_onnx import Front, net_layers, quantize, to_onnx
from wheeltapper_fleet.training.envelopes import plan_envelopes
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.estimation import with_estimation
from wheeltapper_fleet.training.finishing import PENDING, finish
from wheeltapper_fleet.training.quantize import Method, Quantised, chosen
from wheeltapper_fleet.training.recipes import SLOWER, Job, Recipe, Source
from wheeltapper_fleet.training.tflite_nets import nets_to_tflite
from wheeltapper_fleet.training.trees import NO_TREES, Growth, Trees, grow_classes
from wheeltapper_fleet.training.vibration_windows import Labelled, folds_of, read_labelled
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.manifest.manifest import Budget, Classification, Gate, Golden, Input, Manifest, RawInput

__all__ = ["FAULT_CLASSIFIER", "FaultClassifierParameters", "macro_auroc"]

Array = npt.NDArray[np.float32]
_MIN_WINDOWS: Final = 20
"""Of each class."""
_GOLDEN: Final = Golden(output_atol=0.5, score_rtol=0.25)
_BUDGET: Final = Budget(latency_p95_ms=20.0, rss_growth_mb=96.0)
_DECISION: Final = DecisionSpec(smooth_windows=5, raise_windows=3, clear_windows=10, critical_level=1.9)
_BATCH: Final = 64
_LEAST_STEPS: Final = 300
"""Few windows are gone through more often, until there were so many steps."""
_GROWTH: Final = Growth(trees=40, rate=0.1, leaves=6, leaf_share=0.01)
_TREE_ROWS: Final = 8000
"""Windows that trees learn from, evenly spread."""
_NETS_DONE: Final = 0.7
"""How much of the training is over with the nets, and"""
_TREES_DONE: Final = 0.9
"""with the trees."""
_GRID: Final = 2
"""Decimals of what trees learn from, so that no split falls between values that differ by rounding only."""
_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the trees in the logits, each tried."""
_LEAST_AUROC: Final = 0.7
_MOST_MISCALIBRATED: Final = 0.15
_LEAST_AGREEMENT: Final = 0.97


class FaultClassifierParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``fault-classifier``."""

    label: Annotated[str, Meta(min_length=1, max_length=64)] = "fault"
    """The label of a recording that is its class."""
    normal: Annotated[str, Meta(min_length=1, max_length=64)] = "normal"
    """The class that is no fault."""
    sample_rate_hz: Annotated[float, Meta(ge=0, le=1e7)] = 0.0
    """To which recordings are brought; 0: the lowest of theirs."""
    window_samples: Annotated[int, Meta(ge=256, le=16_384)] = 2048
    model: Literal["auto", "nets", "trees"] = "nets"
    """``auto``: as much of each as suits machines that they had not seen; of few machines that is a guess."""
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 20
    folds: Annotated[int, Meta(ge=2, le=10)] = 3
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The probability of any fault at which the score is 1."""


@dataclass(frozen=True)
class _Trained:
    """Nets and trees, and the logits that each window got from those that had not seen its machine.

    Args:
        front, nets, trees, share: the model; see :func:`convnet_onnx.run`.
        logits: [window, class].
        temperature: by which they were divided.
        areas: the macro AUROC of each kind of model alone.
    """

    front: Front
    nets: list[ConvNet]
    trees: Trees | None
    share: float
    logits: npt.NDArray[Any]
    temperature: float
    areas: dict[str, float]


class _FaultClassifier:
    name: Final = "fault-classifier"
    parameters: Final = FaultClassifierParameters

    def train(self, recordings: Sequence[Source], parameters: FaultClassifierParameters, job: Job) -> Manifest:
        """Train on recordings that have the label ``parameters.label``; ``meta["machine"]`` says whose each is.

        Raises:
            TrainingError: ``training.label``, ``training.too_little``, ``training.window``, ``training.mixed_input``,
                ``training.repeated``, ``training.out_exists``, ``training.gate_failed``.
        """
        check_target(job.out, job.replace)
        job.progress("recordings")
        data = read_labelled(
            recordings, parameters.label, parameters.window_samples, parameters.sample_rate_hz, job.seed
        )
        _check_classes(data, parameters)
        fold, alone = folds_of(data, parameters.folds, job.seed)
        for name in alone:
            job.warn(f"the class {name!r} is of one machine only: how it looks on others is not known")
        trained = _fit(data, fold, parameters, job)
        job.shown.classes(softmax(trained.logits), data.classes, data.names)
        job.done(_TREES_DONE)
        job.progress("quantization")
        shape = parameters.window_samples, len(data.channels)
        exact = to_onnx(trained.nets, trained.front, *shape, trained.trees, trained.share)
        small = _quantised(exact, data, job) if trained.nets else None
        model = small.content if small is not None else exact
        picked = [int(np.flatnonzero(data.classes == each)[0]) for each in range(len(data.names))]
        lineage = {f"recording-{number}": sha256 for number, sha256 in enumerate(data.sha256)}
        lineage |= {"recipe": "fault-classifier-2", "temperature": f"{trained.temperature:.4g}"}
        lineage |= small.lineage if small is not None else {}
        lineage |= {"trees_share": f"{trained.share:.2f}"}
        lineage |= {f"macro_auroc_{kind}": f"{area:.3f}" for kind, area in trained.areas.items()}
        lineage |= {"classes_of_one_machine": ", ".join(alone)} if alone else {}
        if trained.trees is not None and "tflite" in job.formats:
            job.warn(NO_TREES)
            lineage |= {"tflite": NO_TREES}
        tflite = None if trained.trees else lambda: nets_to_tflite(trained.nets, trained.front, *shape, model)
        draft = _estimated(_draft(data, parameters, job), data, trained)
        return finish(draft, model, data.samples[picked], _quality(data, trained, exact, model), lineage, job, tflite)


FAULT_CLASSIFIER: Final[Recipe] = _FaultClassifier()


def _check_classes(data: Labelled, parameters: FaultClassifierParameters) -> None:
    """Refuse classes from which nothing can be learnt."""
    if parameters.normal not in data.names or len(data.names) < 2:
        known = ", ".join(data.names)
        raise TrainingError(
            "training.label", f"the classes are {known}; a class {parameters.normal!r} and one more are needed"
        )
    counts = np.bincount(data.classes, minlength=len(data.names))
    if counts.min() < _MIN_WINDOWS:
        name = data.names[int(counts.argmin())]
        raise TrainingError(
            "training.too_little",
            f"the class {name!r} has {counts.min()} windows; {_MIN_WINDOWS} of each are needed: record longer, or "
            "shorten window_samples",
        )


def _fit(data: Labelled, fold: npt.NDArray[np.int64], parameters: FaultClassifierParameters, job: Job) -> _Trained:
    """Fit nets and trees for each fold on the others; mix them as suits unseen machines."""
    count = len(data.channels)
    front = Front(
        np.zeros((1, count), np.float32), np.ones((1, count), np.float32), 1, 12.0, tuple(range(count)), by_window=True,
        envelopes=plan_envelopes(parameters.window_samples),
    )  # fmt: skip
    seen, _ = front.apply(data.samples)
    found: dict[str, npt.NDArray[Any]] = {}
    nets, trees = list[ConvNet](), None
    if parameters.model != "trees":
        nets, found["nets"] = _fit_nets(data, seen, fold, parameters, job)
    if parameters.model != "nets":
        trees, found["trees"] = _grow(data, front.rows(seen), fold, parameters.folds, job)
    areas = {kind: macro_auroc(logits, data.classes) for kind, logits in found.items()}
    single = {kind: fit_temperature(logits, data.classes) for kind, logits in found.items()}
    share, temperature, logits = _mixed(
        [found[kind] / single[kind] for kind in ("nets", "trees") if kind in found],
        _SHARES if len(found) == 2 else (0.0,),
        data.classes,
    )
    share = 1.0 if "nets" not in found else share
    for net in nets:
        net.weights[-1] /= np.float32(temperature * single["nets"])
        net.biases[-1] /= np.float32(temperature * single["nets"])
    if trees is not None:
        trees = replace(trees, factor=1 / (temperature * single["trees"]))
    nets, trees = (nets if share < 1 else []), (trees if share else None)
    return _Trained(front, nets, trees, share, logits, temperature, areas)


def _mixed(
    logits: list[npt.NDArray[Any]], shares: Sequence[float], classes: npt.NDArray[np.int64]
) -> tuple[float, float, npt.NDArray[Any]]:
    """The share of the last of ``logits`` whose mean with the first is likeliest, its temperature, and the mean."""
    best: tuple[float, float, float, npt.NDArray[Any]] | None = None
    rows = np.arange(len(classes))
    for share in shares:
        mean = (1 - share) * logits[0] + share * logits[-1]
        temperature = fit_temperature(mean, classes)
        mean = mean / temperature
        loss = float(-np.log(np.maximum(softmax(mean)[rows, classes], 1e-12)).mean())
        if best is None or loss < best[0]:
            best = (loss, share, temperature, mean)
    assert best is not None  # there is a share
    return best[1:]


def _fit_nets(
    data: Labelled, seen: Array, fold: npt.NDArray[np.int64], parameters: FaultClassifierParameters, job: Job
) -> tuple[list[ConvNet], Array]:
    """A net for each fold, and the logits of each window by the net that had not seen its machine."""
    logits = np.zeros((len(seen), len(data.names)), np.float32)
    nets = []
    for number in range(parameters.folds):
        rest, mine = np.flatnonzero(fold != number), fold == number
        rest = _balanced(rest, data.classes, job.seed)
        forms = _convolutions(seen.shape[1])
        net = ConvNet(seen.shape[1], seen.shape[2], forms, 32, len(data.names), average=True)
        epochs = max(parameters.epochs, -(-_LEAST_STEPS * _BATCH // len(rest)))
        how = Fit(loss="classes", epochs=epochs, batch=_BATCH, rate=2e-3, decay=0.1, noise=0.1)
        for epoch in fit(net, seen[rest], data.classes[rest], how, job.seed + number, job.crew):
            job.done(_NETS_DONE * (number + epoch / epochs) / parameters.folds)
            job.progress(f"net {number + 1} of {parameters.folds}: {epoch} of {epochs} epochs")
        job.shown.loss(f"net {number + 1}", net.losses)
        if mine.any():
            logits[mine] = net.predict(seen[mine])
        nets.append(net)
    return nets, logits


def _grow(
    data: Labelled, rows: Array, fold: npt.NDArray[np.int64], folds: int, job: Job
) -> tuple[Trees, npt.NDArray[Any]]:
    """Trees of all machines, and the logits of each window by trees that had not seen its machine."""
    rounded = np.round(rows, _GRID)
    logits = np.full((len(rows), len(data.names)), -10.0)

    def grown(usable: npt.NDArray[np.int64]) -> Trees:
        picked = usable[:: max(1, -(-len(usable) // _TREE_ROWS))]
        return grow_classes(rounded[picked], data.classes[picked], _GROWTH, job.seed)

    for number in range(folds):
        job.done(_NETS_DONE + (_TREES_DONE - _NETS_DONE) * number / (folds + 1))
        job.progress(f"trees {number + 1} of {folds + 1}")
        mine = np.flatnonzero(fold == number)
        trees = grown(np.flatnonzero(fold != number))
        if len(mine):
            logits[np.ix_(mine, trees.model.classes_)] = trees.predict(rows[mine])
    job.progress(f"trees {folds + 1} of {folds + 1}")
    return grown(np.arange(len(rows))), logits


def _balanced(rows: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Rows of rare classes repeated until each class has at least a half of the most frequent one's."""
    counts = np.bincount(classes[rows])
    wanted = int(counts.max()) // 2
    random = np.random.default_rng(seed)
    more = [
        random.choice(rows[classes[rows] == each], wanted - count)
        for each, count in enumerate(counts.tolist())
        if 0 < count < wanted
    ]
    return np.concatenate([rows, *more])


def _convolutions(samples: int) -> list[Convolution]:
    """Broad filters first, then shapes of some milliseconds; short windows get narrower steps."""
    stride = 8 if samples >= 1024 else 4
    return [Convolution(16, 32, stride=stride), Convolution(24, 5, stride=2), Convolution(32, 5, stride=2)]


def _draft(data: Labelled, parameters: FaultClassifierParameters, job: Job) -> Manifest:
    """The manifest, without files, gates and lineage."""
    count = len(data.channels)
    return Manifest(
        model=job.model,
        task="classification",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=PENDING,
        input=Input(
            sample_rate_hz=data.rate_hz,
            window_samples=parameters.window_samples,
            channels=list(data.channels),
            units=list(data.units),
        ),
        features=[],
        raw=RawInput(channels=list(range(count)), center=[0.0] * count, scale=[1.0] * count),
        classification=Classification(
            classes=list(data.names), normal=[parameters.normal], output="logits", threshold=parameters.threshold
        ),
        decision=_DECISION,
        golden=_GOLDEN,
        budget=_BUDGET,
    )


def _estimated(draft: Manifest, data: Labelled, trained: _Trained) -> Manifest:
    """The draft with what the fleet needs to estimate its quality, from nets that had not seen the machine."""
    section = draft.classification
    assert section is not None  # the draft has it
    abnormal = np.array([name not in section.normal for name in section.classes])
    faults, scores = abnormal[data.classes], softmax(trained.logits) @ abnormal / section.threshold
    right = trained.logits.argmax(axis=1) == data.classes
    return with_estimation(draft, scores, data.machine, ~faults, right=right, faults=faults)


def macro_auroc(logits: npt.NDArray[Any], classes: npt.NDArray[Any]) -> float:
    """The area under the ROC curve of each class against the rest, averaged over the classes that are there."""
    probabilities = softmax(logits)
    there = [each for each in range(logits.shape[1]) if 0 < np.sum(classes == each) < len(classes)]
    return float(np.mean([roc_auc_score(classes == each, probabilities[:, each]) for each in there]))


def _rows(data: Labelled) -> Array:
    """Windows on which 8 bits are compared with float."""
    return data.samples[:: max(1, len(data.samples) // 500)]


def _likeliest(model: bytes, rows: Array) -> npt.NDArray[np.int64]:
    """The class that a model names for each window."""
    return np.asarray(open_session(model).run(["output"], {"input": rows})[0].argmax(axis=1))


def _quantised(exact: bytes, data: Labelled, job: Job) -> Quantised:
    """The model in 8 bits, as far as it names the same classes."""
    rows = _rows(data)
    wanted = _likeliest(exact, rows)
    method = Method(
        net_layers(exact),
        lambda kept: quantize(exact, data.samples, kept),
        lambda model: float(np.mean(_likeliest(model, rows) != wanted)),
    )
    return chosen(exact, method, rows[:1], limit=1 - _LEAST_AGREEMENT, slower=SLOWER, say=job.progress)


def _quality(data: Labelled, trained: _Trained, exact: bytes, model: bytes) -> list[Gate]:
    """Gates on what nets say of machines that they had not seen, and on the quantization."""
    area = macro_auroc(trained.logits, data.classes)
    off = _calibration_error(softmax(trained.logits), data.classes)
    rows = _rows(data)
    same = float(np.mean(_likeliest(model, rows) == _likeliest(exact, rows)))
    alone = ", ".join(f"{kind} {value:.3f}" for kind, value in trained.areas.items())
    right = float(np.mean(trained.logits.argmax(axis=1) == data.classes))
    return [
        Gate(
            name="macro_auroc", value=area, limit=_LEAST_AUROC, passed=area >= _LEAST_AUROC,
            detail=f"at least; each machine by what had not seen it; {right:.1%} of windows right; alone {alone}",
        ),
        Gate(
            name="calibration_error", value=off, limit=_MOST_MISCALIBRATED, passed=off <= _MOST_MISCALIBRATED,
            detail="mean difference between the probability of the likeliest class and how often it is right",
        ),
        Gate(
            name="int8_same_class", value=same, limit=_LEAST_AGREEMENT, passed=same >= _LEAST_AGREEMENT,
            detail="at least; share of windows for which int8 and float name the same class",
        ),
    ]  # fmt: skip


def _calibration_error(probabilities: npt.NDArray[Any], classes: npt.NDArray[Any], bins: int = 10) -> float:
    """Expected calibration error of the likeliest class (Naeini et al., AAAI 2015)."""
    best, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    part = np.minimum((best * bins).astype(int), bins - 1)
    gaps = [
        abs(float(best[part == each].mean() - right[part == each].mean())) * float(np.mean(part == each))
        for each in range(bins)
        if (part == each).any()
    ]
    return float(sum(gaps))
