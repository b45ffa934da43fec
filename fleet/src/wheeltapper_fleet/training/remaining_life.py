"""The recipe ``remaining-life``: from run-to-failure recordings to a model of the life that remains, with intervals.

Recordings -> operating regimes -> standardised by regime -> channels that say anything of the life -> convolution nets,
one a fold of machines -> interval from the machines that each net did not see -> int8 -> golden vectors -> gates ->
bundle.

The model is the mean of the folds' nets: each machine is new to exactly one of them, which calibrates the interval and
measures the error without a machine being set aside.

Invariants:
    * Machines are divided, never windows.
    * The same recordings, parameters and seed give the same model bytes on one machine.
    * If anything fails, ``out`` is as it was before.

What this module does not do: features of vibration. The recipe reads samples, one series a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import check_target
from wheeltapper_fleet.training.conformal import covered, fit_interval
from wheeltapper_fleet.training.convnet import ConvNet, Convolution, Fit, fit, side_by_side
from wheeltapper_fleet.training.convnet_onnx import Front, Regimes, quantize, run, to_onnx
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.finishing import PENDING, finish
from wheeltapper_fleet.training.life_windows import Windows, cut, informative, standard_front
from wheeltapper_fleet.training.recipes import Job, Recipe, Source
from wheeltapper_fleet.training.regimes import find_regimes
from wheeltapper_fleet.training.series import Life, read_lives
from wheeltapper_protocols.decision.decision import DecisionSpec
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


class RemainingLifeParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``remaining-life``. Lives are in ``unit``."""

    unit: Literal["cycles", "seconds", "hours"] = "cycles"
    """A cycle is a sample."""
    cap: Annotated[float, Meta(gt=0, le=1e9)] = 125.0
    """Longer lives count as this: a machine that does not wear yet looks the same however long it will live."""
    warn_at: Annotated[float, Meta(gt=0, le=1e9)] = 20.0
    """The remaining life at which the score is 1."""
    window_samples: Annotated[int, Meta(ge=16, le=4096)] = 64
    block_samples: Annotated[int, Meta(ge=1, le=256)] = 8
    """So many samples become their mean before the net sees them; a divisor of ``window_samples``."""
    least_samples: Annotated[int, Meta(ge=1, le=4096)] = 30
    """Windows begin as early as a machine has so many samples; what lacks before is its first sample."""
    conditions: list[str] | None = None
    """Channels that say the operating condition; None: found in the data; an empty list: there is one condition."""
    coverage: Annotated[float, Meta(ge=0.5, le=0.99)] = 0.9
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 40

    def __post_init__(self) -> None:
        if self.warn_at >= self.cap:
            raise ValueError("warn_at must be below cap")
        if self.window_samples % self.block_samples or self.least_samples > self.window_samples:
            raise ValueError("block_samples must divide window_samples, and least_samples must not be above it")


@dataclass(frozen=True)
class _Trained:
    """What was learnt from some lives.

    Args:
        raw: how samples become the model's input.
        front, nets: the model.
        predicted, truth: [window], by nets that had not seen the window's machine, and what was true.
        fold: [window], the number of that net.
        windows: those of the lives.
    """

    raw: RawInput
    front: Front
    nets: list[ConvNet]
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
        job.progress("quantization")
        exact = to_onnx(trained.nets, trained.front, parameters.window_samples, len(trained.raw.channels))
        model = quantize(exact, trained.windows.samples)
        lineage = {f"recording-{number}": life.sha256 for number, life in enumerate(lives)}
        return finish(
            _draft(trained, lives[0], parameters, job),
            model,
            _golden_windows(lives, parameters),
            _quality(trained, model, exact, parameters),
            lineage | {"recipe": "remaining-life-1"},
            job,
        )


REMAINING_LIFE: Final[Recipe] = _RemainingLife()


def _fit(lives: list[Life], parameters: RemainingLifeParameters, job: Job) -> _Trained:
    """Learn everything: regimes, channels, nets."""
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
    front = standard_front(standard, regimes, parameters.block_samples)
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
    lessened = Front(front.mean[:, used], front.scale[:, used], front.block, front.limit, seen, regimes)
    channels = [moving[place] for place in kept]
    raw = RawInput(channels=channels, center=mean[channels].tolist(), scale=deviation[channels].tolist())
    return lessened, raw


def _fit_folds(
    raw: RawInput, front: Front, windows: Windows, parameters: RemainingLifeParameters, job: Job
) -> _Trained:
    """Fit a net for each fold of machines, on the others."""
    order = np.random.default_rng(job.seed).permutation(windows.machines)
    fold_of = np.empty(windows.machines, dtype=np.int64)
    for number, machines in enumerate(np.array_split(order, _FOLDS)):
        fold_of[machines] = number
    fold = fold_of[windows.machine]
    seen, _ = front.apply(windows.samples)
    predicted = np.zeros(len(seen), np.float32)
    nets = []
    for number in range(_FOLDS):
        rest, mine = fold != number, fold == number
        net = ConvNet(seen.shape[1], seen.shape[2], _convolutions(seen.shape[1]), hidden=32, outputs=1)
        how = Fit(epochs=parameters.epochs, rate=1e-2, decay=0.5)
        for epoch in fit(net, seen[rest], windows.remaining[rest][:, None], how, job.seed + number):
            job.progress(f"net {number + 1} of {_FOLDS}: {epoch} of {parameters.epochs} epochs")
        predicted[mine] = np.clip(net.predict(seen[mine])[:, 0], 0, 1)
        nets.append(net)
    cap = np.float32(parameters.cap)
    return _Trained(raw, front, [side_by_side(nets)], predicted * cap, windows.remaining * cap, fold, windows)


def _convolutions(blocks: int) -> list[Convolution]:
    """The net's form for so many blocks."""
    return [Convolution(16, max(1, blocks))]


def _draft(trained: _Trained, life: Life, parameters: RemainingLifeParameters, job: Job) -> Manifest:
    """The manifest, without files, gates and lineage."""
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
            interval=fit_interval(trained.predicted, trained.truth, parameters.coverage),
        ),
        decision=_DECISION,
        golden=_GOLDEN,
        budget=_BUDGET,
    )


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


def _quality(trained: _Trained, model: bytes, exact: bytes, parameters: RemainingLifeParameters) -> list[Gate]:
    """Gates on the error, the interval and the quantization."""
    miss = trained.predicted - trained.truth
    rmse = float(np.sqrt(np.mean(miss * miss)))
    limit = _BETTER_THAN_CONSTANT * float(trained.truth.std())
    shares = []
    for number in range(_FOLDS):
        rest, mine = trained.fold != number, trained.fold == number
        interval = fit_interval(trained.predicted[rest], trained.truth[rest], parameters.coverage)
        shares.append(covered(interval, trained.predicted[mine], trained.truth[mine], parameters.cap))
    off = abs(float(np.mean(shares)) - parameters.coverage)
    picked = np.linspace(0, len(trained.windows.samples) - 1, 2000).astype(int)
    rows = trained.windows.samples[np.unique(picked)]
    int8 = open_session(model).run(["output"], {"input": rows})[0]
    exact_output = open_session(exact).run(["output"], {"input": rows})[0]
    apart = parameters.cap * float(np.sqrt(np.mean((np.clip(int8, 0, 1) - np.clip(exact_output, 0, 1)) ** 2)))
    computed = float(np.max(np.abs(exact_output - run(trained.nets, trained.front, rows))))
    return [
        Gate(
            name="rmse", value=rmse, limit=limit, passed=rmse <= limit,
            detail=f"in {parameters.unit}, each machine by a net that had not seen it; the limit is "
            f"{_BETTER_THAN_CONSTANT:g} of the error of always saying the same",
        ),
        Gate(
            name="interval_coverage", value=off, limit=_COVERAGE_SLACK, passed=off <= _COVERAGE_SLACK,
            detail=f"{np.mean(shares):.3f} of unseen machines' lives, {parameters.coverage:g} wanted",
        ),
        Gate(
            name="int8_agreement", value=apart / rmse, limit=_QUANTIZATION, passed=apart <= _QUANTIZATION * rmse,
            detail="root mean square difference of int8 and float, of the model's error",
        ),
        Gate(name="float_agreement", value=computed, limit=1e-3, passed=computed <= 1e-3, detail="numpy and ONNX"),
    ]  # fmt: skip
