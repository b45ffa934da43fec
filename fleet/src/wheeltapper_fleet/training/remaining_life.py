"""The recipe ``remaining-life``: from run-to-failure recordings to a model of the life that remains, with intervals.

Recordings -> operating regimes -> standardised by regime -> channels that say anything of the life -> their trends at
several scales of time -> nets and boosted trees, by folds of machines -> interval from the machines that each did not
see -> int8 -> golden vectors -> gates -> bundle.

The model is a weighted mean of the folds' nets and of trees. Each machine is new to exactly one fold, which chooses
the nets' weight decay and the trees' share, calibrates the interval and measures the error without a machine being set
aside.

Invariants:
    * Machines are divided, never windows.
    * The same recordings, parameters and seed give the same model bytes on one machine.
    * If anything fails, ``out`` is as it was before.

What this module does not do: features of vibration. The recipe reads samples, one series a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import check_target
from wheeltapper_fleet.training.conformal import covered, fit_interval
from wheeltapper_fleet.training.convnet import ConvNet, Convolution, Fit, fit, side_by_side
from wheeltapper_fleet.training.convnet_onnx import Front, Regimes, Trends, net_layers, quantize, run, to_onnx
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.estimation import with_estimation
from wheeltapper_fleet.training.finishing import PENDING, finish
from wheeltapper_fleet.training.life_windows import Windows, cut, informative, nearing_end, standard_front, trend_shapes
from wheeltapper_fleet.training.quantize import Method, Quantised, chosen
from wheeltapper_fleet.training.recipes import SLOWER, Job, Recipe, Source
from wheeltapper_fleet.training.regimes import find_regimes
from wheeltapper_fleet.training.series import Life, read_lives
from wheeltapper_fleet.training.tflite_nets import nets_to_tflite
from wheeltapper_fleet.training.trees import NO_TREES, Growth, Trees, grow_numbers
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.manifest.inference_task import LEAST_LIFE
from wheeltapper_protocols.manifest.manifest import Budget, Gate, Golden, Input, Manifest, RawInput, RemainingLife

__all__ = ["REMAINING_LIFE", "RemainingLifeParameters"]

Array = npt.NDArray[np.float32]
MIN_MACHINES: Final = 10
_FOLDS: Final = 5
_MAX_WINDOWS: Final = 20_000
"""Windows that are learnt from; of more, every n-th of each machine is taken."""
_GOLDEN: Final = Golden(output_atol=0.02, score_rtol=0.15)
_BUDGET: Final = Budget(latency_p95_ms=20.0, rss_growth_mb=96.0)
_DECISION: Final = DecisionSpec(smooth_windows=5, raise_windows=3, clear_windows=10, critical_level=2.0)
_BETTER_THAN_CONSTANT: Final = 0.8
"""Greatest error, of that of a model that always says the same."""
_QUANTIZATION: Final = 0.2
"""Greatest difference between int8 and float, of the model's own error: it adds 2 % to it (the root of 1 + 0.2²)."""
_COVERAGE_SLACK: Final = 0.05
_LIMIT: Final = 5.0
"""Trends are clipped here, in standard deviations."""
_DECAYS: Final = (1.0, 2.0)
"""Weight decays of nets; that with the smaller error on unseen machines is kept."""
_WIDE: Final = 200
"""Trends from which on a fold has one net, not two from different first weights: the model stays below 100 kB."""
_GROWTH: Final = Growth(trees=60, rate=0.12, leaves=8, leaf_share=0.004)
_TREE_ROWS: Final = 5000
"""Windows that trees learn from, evenly spread: more grow hardly better ones."""
_NETS_DONE: Final = 0.7
"""How much of the training is over with the nets, and"""
_TREES_DONE: Final = 0.9
"""with the trees."""
_GRID: Final = 2
"""Decimals of what trees learn from, so that no split falls between values that differ by rounding only."""
_LEAST_SHARE: Final = 0.05
"""Of the trees or of the nets in the output; less is left out."""


class RemainingLifeParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``remaining-life``. Lives are in ``unit``."""

    unit: Literal["cycles", "seconds", "hours"] = "cycles"
    """A cycle is a sample."""
    cap: Annotated[float, Meta(gt=0, le=1e9)] = 125.0
    """Longer lives count as this: a machine that does not wear yet looks the same however long it will live."""
    warn_at: Annotated[float, Meta(gt=0, le=1e9)] = 20.0
    """The remaining life at which the score is 1."""
    window_samples: Annotated[int, Meta(ge=16, le=4096)] = 64
    least_samples: Annotated[int, Meta(ge=1, le=4096)] = 30
    """Windows begin as early as a machine has so many samples; what lacks before is its first sample."""
    conditions: list[str] | None = None
    """Channels that say the operating condition; None: found in the data; an empty list: there is one condition."""
    coverage: Annotated[float, Meta(ge=0.5, le=0.99)] = 0.9
    model: Literal["auto", "nets", "trees"] = "auto"
    """``auto``: both, as much of each as suits machines that they had not seen."""
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 20

    def __post_init__(self) -> None:
        if self.warn_at >= self.cap:
            raise ValueError("warn_at must be below cap")
        if self.least_samples > self.window_samples:
            raise ValueError("least_samples must not be above window_samples")


@dataclass(frozen=True)
class _Trained:
    """What was learnt from some lives.

    Args:
        raw: how samples become the model's input.
        front, nets, trees, share: the model; see :func:`convnet_onnx.run`.
        decay: of the nets' weights.
        predicted, truth: [window], by what had not seen the window's machine, and what was true.
        fold: [window], in which it was not seen.
        windows: those of the lives.
    """

    raw: RawInput
    front: Front
    nets: list[ConvNet]
    trees: Trees | None
    share: float
    decay: float
    predicted: Array
    truth: Array
    fold: npt.NDArray[np.int64]
    windows: Windows


class _RemainingLife:
    name: Final = "remaining-life"
    parameters: Final = RemainingLifeParameters

    def train(self, recordings: Sequence[Source], parameters: RemainingLifeParameters, job: Job) -> Manifest:
        """Train on recordings that each end with their machine's life, or say in a label what then remained.

        Raises:
            TrainingError: ``training.too_little``, ``training.channel``, ``training.gaps``, ``training.label``,
                ``training.mixed_input``, ``training.repeated``, ``training.out_exists``, ``training.gate_failed``.
        """
        check_target(job.out, job.replace)
        job.progress("recordings")
        lives = read_lives(recordings, parameters.unit)
        if len(lives) < MIN_MACHINES:
            raise TrainingError(
                "training.too_little",
                f"there are {len(lives)} lives; at least {MIN_MACHINES} are needed to say how far a prediction is off",
            )
        trained = _fit(lives, parameters, job)
        job.shown.lives(trained.predicted, trained.truth, parameters.unit)
        job.done(_TREES_DONE)
        job.progress("quantization")
        shape = parameters.window_samples, len(trained.raw.channels)
        exact = to_onnx(trained.nets, trained.front, *shape, trained.trees, trained.share)
        small = _quantised(exact, trained, parameters, job) if trained.nets else None
        model = small.content if small is not None else exact
        lineage = {f"recording-{number}": life.sha256 for number, life in enumerate(lives)}
        if trained.trees is not None and "tflite" in job.formats:
            job.warn(NO_TREES)
            lineage |= {"tflite": NO_TREES}
        lineage |= small.lineage if small is not None else {}
        lineage |= {"trees_share": f"{trained.share:.3f}"} | ({"decay": f"{trained.decay:g}"} if trained.nets else {})
        return finish(
            _estimated(_draft(trained, lives[0], parameters, job), trained),
            model,
            _golden_windows(lives, parameters),
            _quality(trained, model, exact, parameters),
            lineage | {"recipe": "remaining-life-2"},
            job,
            None if trained.trees else lambda: nets_to_tflite(trained.nets, trained.front, *shape, model),
        )


REMAINING_LIFE: Final[Recipe] = _RemainingLife()


def _fit(lives: list[Life], parameters: RemainingLifeParameters, job: Job) -> _Trained:
    """Learn everything: regimes, channels, nets, trees."""
    everything = np.concatenate([life.samples for life in lives])
    mean, deviation = everything.mean(axis=0, dtype=np.float64), everything.std(axis=0, dtype=np.float64)
    moving = [i for i in range(everything.shape[1]) if deviation[i] > 1e-6 * max(1e-3, abs(mean[i]))]
    if not moving:
        raise TrainingError("training.channel", "no channel moves: connect the sensors and record again")
    standard = ((everything[:, moving] - mean[moving]) / deviation[moving]).astype(np.float32)
    job.progress("operating conditions")
    age = np.concatenate([np.linspace(0, 1, len(life.samples), dtype=np.float32) for life in lives])
    regimes = find_regimes(standard, age, _condition_channels(lives[0], parameters, moving), job.seed)
    if parameters.conditions and regimes is None:
        job.warn("the channels in conditions show one operating condition only")
    front = standard_front(standard, regimes, max(1, parameters.window_samples // 8))
    lengths = [len(life.samples) for life in lives]
    remaining = np.minimum(np.concatenate([life.remaining for life in lives]), parameters.cap) / parameters.cap
    used = informative(standard, remaining, lengths, front)
    if not used:
        raise TrainingError("training.channel", "no channel changes with the life that remains: nothing can be learnt")
    front, raw = _lessened(front, used, moving, mean, deviation)
    kept = np.array([moving.index(channel) for channel in raw.channels])
    windows = cut(
        standard[:, kept], remaining.astype(np.float32), lengths, parameters.window_samples,
        parameters.least_samples, _MAX_WINDOWS,
    )  # fmt: skip
    return _fit_folds(raw, front, windows, parameters, job)


def _condition_channels(life: Life, parameters: RemainingLifeParameters, moving: list[int]) -> list[int]:
    """Which of the moving channels may say the operating condition."""
    if parameters.conditions is None:
        return list(range(len(moving)))
    unknown = [name for name in parameters.conditions if name not in life.channels]
    if unknown:
        known = ", ".join(life.channels)
        raise TrainingError("training.channel", f"conditions names the channel {unknown[0]!r}; there are {known}")
    return [i for i, channel in enumerate(moving) if life.channels[channel] in parameters.conditions]


def _lessened(
    front: Front, used: list[int], moving: list[int], mean: npt.NDArray[Any], deviation: npt.NDArray[Any]
) -> tuple[Front, RawInput]:
    """Only the channels that the nets or the regimes need, as the model's input."""
    conditions = front.regimes.channels if front.regimes is not None else ()
    kept = sorted({*used, *conditions})
    regimes = None
    if front.regimes is not None:
        places = tuple(kept.index(channel) for channel in conditions)
        regimes = Regimes(places, front.regimes.centers, front.regimes.reach)
    seen = tuple(kept.index(channel) for channel in used)
    lessened = Front(front.mean[:, used], front.scale[:, used], 1, _LIMIT, seen, regimes)
    channels = [moving[place] for place in kept]
    raw = RawInput(channels=channels, center=mean[channels].tolist(), scale=deviation[channels].tolist())
    return lessened, raw


def _fit_folds(
    raw: RawInput, front: Front, windows: Windows, parameters: RemainingLifeParameters, job: Job
) -> _Trained:
    """Fit nets and trees for each fold of machines on the others, and trees on all."""
    order = np.random.default_rng(job.seed).permutation(windows.machines)
    fold_of = np.empty(windows.machines, dtype=np.int64)
    for number, machines in enumerate(np.array_split(order, _FOLDS)):
        fold_of[machines] = number
    fold = fold_of[windows.machine]
    front = _with_trends(front, windows.samples)
    seen, _ = front.apply(windows.samples)
    nets, predicted, decay, share, trees = list[ConvNet](), np.zeros(len(seen)), 0.0, 0.0, None
    if parameters.model != "trees":
        nets, predicted, decay = _best_nets(seen, windows.remaining, fold, parameters.epochs, job)
    if parameters.model != "nets":
        trees, grown = _grow(seen[:, 0], windows.remaining, fold, job)
        share = _share(predicted, grown, windows.remaining) if nets else 1.0
        predicted = (1 - share) * predicted + share * grown
        nets, trees = (nets if share < 1 else []), (trees if share else None)
    cap = np.float32(parameters.cap)
    lives = np.asarray(cap * np.clip(predicted, 0, 1), dtype=np.float32)
    return _Trained(raw, front, nets, trees, share, decay, lives, windows.remaining * cap, fold, windows)


def _with_trends(front: Front, windows: Array) -> Front:
    """The front with trends in place of blocks, standardised over the windows."""
    shapes = trend_shapes(windows.shape[1])
    width = len(front.channels) * len(shapes)
    plain = Trends(shapes, np.zeros(width, np.float32), np.ones(width, np.float32))
    found, _ = changed(front, trends=plain, limit=np.inf).apply(windows)
    mean, scale = found[:, 0].mean(axis=0, dtype=np.float64), found[:, 0].std(axis=0, dtype=np.float64)
    trends = Trends(shapes, mean.astype(np.float32), np.maximum(scale, 1e-6).astype(np.float32))
    return changed(front, trends=trends)


def _best_nets(
    seen: Array, remaining: Array, fold: npt.NDArray[np.int64], epochs: int, job: Job
) -> tuple[list[ConvNet], npt.NDArray[np.float64], float]:
    """Nets, what those that had not seen a window's machine say of it, and the weight decay with the least error."""
    repeats = 1 if seen.shape[2] > _WIDE else 2
    found = []
    for decay in _DECAYS:
        how = Fit(epochs=epochs, rate=5e-3, decay=decay)
        predicted = np.zeros(len(seen))
        nets: list[list[ConvNet]] = [[] for _ in range(repeats)]
        for number, repeat in np.ndindex(_FOLDS, repeats):
            rest, mine = fold != number, fold == number
            net = ConvNet(1, seen.shape[2], [Convolution(16, 1)], hidden=32, outputs=1)
            for epoch in fit(
                net, seen[rest], remaining[rest][:, None], how, job.seed + number + _FOLDS * repeat, job.crew
            ):
                place = f"net {number * repeats + repeat + 1} of {_FOLDS * repeats}, weight decay {decay:g}"
                part = (number * repeats + repeat + epoch / epochs) / (_FOLDS * repeats)
                job.done(_NETS_DONE * (_DECAYS.index(decay) + part) / len(_DECAYS))
                job.progress(f"{place}: {epoch} of {epochs} epochs")
            if not repeat:
                job.shown.loss(f"decay {decay:g}, fold {number + 1}", net.losses)
            predicted[mine] += net.predict(seen[mine])[:, 0] / repeats
            nets[repeat].append(net)
        found.append((float(np.mean((np.clip(predicted, 0, 1) - remaining) ** 2)), decay, nets, predicted))
    _, decay, nets, predicted = min(found, key=lambda each: each[0])
    return [side_by_side(each) for each in nets], predicted, decay


def _grow(
    rows: Array, remaining: Array, fold: npt.NDArray[np.int64], job: Job
) -> tuple[Trees, npt.NDArray[np.float64]]:
    """Trees of all machines, and what trees that had not seen a window's machine say of it."""
    rounded = np.round(rows, _GRID)
    predicted = np.zeros(len(rows))

    def grown(usable: npt.NDArray[np.int64]) -> Trees:
        picked = usable[:: max(1, -(-len(usable) // _TREE_ROWS))]
        return grow_numbers(rounded[picked], remaining[picked], _GROWTH, job.seed)

    for number in range(_FOLDS):
        job.done(_NETS_DONE + (_TREES_DONE - _NETS_DONE) * number / (_FOLDS + 1))
        job.progress(f"trees {number + 1} of {_FOLDS + 1}")
        mine = fold == number
        predicted[mine] = grown(np.flatnonzero(~mine)).predict(rows[mine])[:, 0]
    job.progress(f"trees {_FOLDS + 1} of {_FOLDS + 1}")
    return grown(np.arange(len(rows))), predicted


def _share(nets: npt.NDArray[Any], trees: npt.NDArray[Any], truth: Array) -> float:
    """The trees' share in the weighted mean with the least square error, 0 to 1."""
    apart = trees - nets
    share = float(np.clip((apart * (truth - nets)).sum() / max(1e-12, float((apart * apart).sum())), 0, 1))
    return 0.0 if share < _LEAST_SHARE else 1.0 if share > 1 - _LEAST_SHARE else share


def _draft(trained: _Trained, life: Life, parameters: RemainingLifeParameters, job: Job) -> Manifest:
    """The manifest, without files, gates and lineage."""
    near = nearing_end(trained.windows)
    return Manifest(
        model=job.model,
        task="remaining_life",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=PENDING,
        input=Input(
            sample_rate_hz=life.sample_rate_hz,
            window_samples=parameters.window_samples,
            channels=list(life.channels),
            units=list(life.units),
        ),
        features=[],
        raw=trained.raw,
        remaining_life=RemainingLife(
            unit=parameters.unit,
            scale=parameters.cap,
            cap=parameters.cap,
            warn_at=parameters.warn_at,
            interval=fit_interval(
                trained.predicted[near], trained.truth[near], parameters.coverage, trained.windows.machine[near]
            ),
        ),
        decision=_DECISION,
        golden=_GOLDEN,
        budget=_BUDGET,
    )


def _estimated(draft: Manifest, trained: _Trained) -> Manifest:
    """The draft with what the fleet needs to estimate its error, from nets that had not seen the machine."""
    section = draft.remaining_life
    assert section is not None  # the draft has it
    scores = section.warn_at / np.maximum(trained.predicted, LEAST_LIFE * section.warn_at)
    error = trained.predicted - trained.truth
    healthy = trained.truth >= 0.999 * section.cap
    return with_estimation(draft, scores, trained.windows.machine, healthy, error=error)


def _golden_windows(lives: list[Life], parameters: RemainingLifeParameters) -> Array:
    """Windows of all channels for the golden vectors, at different ages; the life that remains is not tiny."""
    found = []
    for life, share in zip(lives[:8], np.linspace(0.3, 1.0, 8), strict=False):
        usable = int(np.sum(life.remaining >= parameters.warn_at / 2))
        stop = max(parameters.least_samples, round(share * usable))
        window = life.samples[max(0, stop - parameters.window_samples) : stop]
        lacking = parameters.window_samples - len(window)
        found.append(np.concatenate([np.repeat(window[:1], lacking, axis=0), window]))
    return np.asarray(found, dtype=np.float32)


def _rows(trained: _Trained) -> Array:
    """Windows on which 8 bits are compared with float."""
    picked = np.linspace(0, len(trained.windows.samples) - 1, 2000).astype(int)
    found: Array = trained.windows.samples[np.unique(picked)]
    return found


def _apart(model: bytes, wanted: Array, rows: Array, cap: float) -> float:
    """How far a model's lives are from those of the outputs ``wanted``: root mean square."""
    output = open_session(model).run(["output"], {"input": rows})[0]
    return cap * float(np.sqrt(np.mean((np.clip(output, 0, 1) - np.clip(wanted, 0, 1)) ** 2)))


def _quantised(exact: bytes, trained: _Trained, parameters: RemainingLifeParameters, job: Job) -> Quantised:
    """The model in 8 bits, as far as that adds little to its error."""
    rows = _rows(trained)
    wanted = open_session(exact).run(["output"], {"input": rows})[0]
    rmse = float(np.sqrt(np.mean((trained.predicted - trained.truth) ** 2)))
    method = Method(
        net_layers(exact),
        lambda kept: quantize(exact, trained.windows.samples, kept),
        lambda model: _apart(model, wanted, rows, parameters.cap) / rmse,
    )
    return chosen(exact, method, rows[:1], limit=_QUANTIZATION, slower=SLOWER, say=job.progress)


def _quality(trained: _Trained, model: bytes, exact: bytes, parameters: RemainingLifeParameters) -> list[Gate]:
    """Gates on the error, the interval and the quantization."""
    miss = trained.predicted - trained.truth
    rmse = float(np.sqrt(np.mean(miss * miss)))
    limit = _BETTER_THAN_CONSTANT * float(trained.truth.std())
    shares, near = [], nearing_end(trained.windows)
    for number in range(_FOLDS):
        rest, mine = (trained.fold != number) & near, (trained.fold == number) & near
        whose = trained.windows.machine[rest]
        interval = fit_interval(trained.predicted[rest], trained.truth[rest], parameters.coverage, whose)
        shares.append(covered(interval, trained.predicted[mine], trained.truth[mine], parameters.cap))
    share, few = float(np.mean(shares)), 1 / max(1, trained.windows.machines * (_FOLDS - 1) // _FOLDS)
    off = max(0.0, parameters.coverage - share, share - parameters.coverage - few)
    rows = _rows(trained)
    exact_output = open_session(exact).run(["output"], {"input": rows})[0]
    apart = _apart(model, exact_output, rows, parameters.cap)
    wanted = run(trained.nets, trained.front, rows, trained.trees, trained.share)
    computed = float(np.quantile(np.abs(exact_output - wanted), 0.99))
    return [
        Gate(
            name="rmse", value=rmse, limit=limit, passed=rmse <= limit,
            detail=f"in {parameters.unit}, each machine by what had not seen it; the limit is "
            f"{_BETTER_THAN_CONSTANT:g} of the error of always saying the same",
        ),
        Gate(
            name="interval_coverage", value=off, limit=_COVERAGE_SLACK, passed=off <= _COVERAGE_SLACK,
            detail=f"{share:.3f} of unseen machines' lives near their end, {parameters.coverage:g} wanted; of so few "
            f"machines up to {few:.2g} more is no fault",
        ),
        Gate(
            name="int8_agreement", value=apart / rmse, limit=_QUANTIZATION, passed=apart <= _QUANTIZATION * rmse,
            detail="root mean square difference of int8 and float, of the model's error",
        ),
        Gate(name="float_agreement", value=computed, limit=1e-3, passed=computed <= 1e-3, detail="numpy and ONNX"),
    ]  # fmt: skip
