"""The recipe ``slow-signal``: a detector for what is sampled every few seconds to hours: temperatures, pressures.

The newest samples of a window are compared with the window's own past, at three scales of time: their mean against
earlier means, their change against earlier changes. Where the healthy data show a daily or weekly season that fits the
window twice, the differences to the sample one season ago are compared, too. The score is the greatest deviation, in
standard deviations of the window's past, over the limit.

The window moves by one sample (``hop_samples = 1`` of the source), so the detector follows the series and keeps no
state of its own: what it knows is in the window. What is learnt from healthy data is the season, the least deviation
that counts, and the limit.

Invariants:
    * The same recordings and parameters give the same bytes.
    * A window that does not move has the score 0.
    * If anything fails, ``out`` is as it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import check_target
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.finishing import PENDING, finish
from wheeltapper_fleet.training.onnx_graph import Graph
from wheeltapper_fleet.training.recipes import Job, Recipe, Source
from wheeltapper_fleet.training.series import Life, read_lives
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.manifest.manifest import Anomaly, Budget, Gate, Golden, Input, Manifest, RawInput

__all__ = ["SLOW_SIGNAL", "SlowSignalParameters", "detector", "season_of"]

Array = npt.NDArray[np.float32]
_MAX_WINDOW: Final = 768
_MIN_WINDOW: Final = 96
_SCALES: Final = (96, 24)
"""Beside single samples, means over the window's length divided by these."""
_LEAST: Final = 0.05
"""Least deviation that counts, in those of the healthy data: a signal that stood still may move a little."""
_SEASONS_S: Final = (86_400.0, 604_800.0)
_SEASONAL: Final = 0.5
"""Share of the variance that a season explains, from which on it is used."""
_HEALTHY_ABOVE: Final = 0.1
"""Share of healthy windows above the limit, at most: else the limit is raised."""
_MOST_RAISED: Final = 3.0
"""How far the limit may be raised, as a multiple."""
_SCORED: Final = 4000
"""Healthy windows that are scored to find the limit."""
_GOLDEN: Final = Golden(output_atol=0.05, score_rtol=0.02)
_BUDGET: Final = Budget(latency_p95_ms=20.0, rss_growth_mb=96.0)
_DECISION: Final = DecisionSpec(
    smooth_windows=1, raise_windows=1, clear_windows=50, critical_level=2.0, clear_level=0.8
)


class SlowSignalParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``slow-signal``."""

    healthy_fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """How much of each recording, from its start, is healthy."""
    window_samples: Annotated[int, Meta(ge=0, le=16_384)] = 0
    """0: two thirds of the shortest healthy series, at most 768 samples."""
    sigma: Annotated[float, Meta(gt=0, le=100)] = 3.75
    """The deviation at which the score is 1, in standard deviations of the window's past."""

    def __post_init__(self) -> None:
        if 0 < self.window_samples < _MIN_WINDOW:
            raise ValueError(f"window_samples must be 0 or at least {_MIN_WINDOW}")


class _SlowSignal:
    name: Final = "slow-signal"
    parameters: Final = SlowSignalParameters

    def train(self, recordings: Sequence[Source], parameters: SlowSignalParameters, job: Job) -> Manifest:
        """Train on series without gaps, whose first ``healthy_fraction`` is healthy.

        Raises:
            TrainingError: ``training.too_little``, ``training.channel``, ``training.gaps``, ``training.mixed_input``,
                ``training.repeated``, ``training.out_exists``, ``training.gate_failed``.
        """
        check_target(job.out, job.replace)
        job.progress("recordings")
        lives = read_lives(recordings, "cycles")
        series = [life.samples[: max(1, round(len(life.samples) * parameters.healthy_fraction))] for life in lives]
        shortest = min((len(one) for one in series), default=0)
        window = parameters.window_samples or min(_MAX_WINDOW, shortest * 2 // 3)
        if window < _MIN_WINDOW or shortest <= window:
            needed = max(_MIN_WINDOW * 3 // 2, window + 1)
            why = f"the shortest healthy series has {shortest} samples; at least {needed} are needed: record longer"
            raise TrainingError("training.too_little", why)
        everything = np.concatenate(series).astype(np.float64)
        center, scale = everything.mean(axis=0), everything.std(axis=0)
        still = [name for name, deviation in zip(lives[0].channels, scale, strict=True) if deviation <= 0]
        if still:
            why = f"the channel {still[0]!r} never moves: connect its sensor, or leave it out"
            raise TrainingError("training.channel", why)
        standard = [((one - center) / scale).astype(np.float32) for one in series]
        season = season_of(standard, lives[0].sample_rate_hz, window)
        job.done(0.2)
        job.progress("limit")
        model = detector(window, standard[0].shape[1], season)
        by_series, step = _scores(model, standard, window)
        healthy = np.concatenate(by_series)
        limit = _limit(healthy, parameters.sigma, job)
        share = float(np.mean(healthy >= limit))
        scores = {f"recording {number}": each / limit for number, each in enumerate(by_series, start=1)}
        job.shown.scores(scores, step / lives[0].sample_rate_hz, _DECISION.raise_windows, None)
        gate = Gate(
            name="healthy_above", value=share, limit=_HEALTHY_ABOVE, passed=share <= _HEALTHY_ABOVE,
            detail=f"share of {len(healthy)} healthy windows above the limit of {limit:.3g} standard deviations",
        )  # fmt: skip
        windows = np.stack([one[stop - window : stop] for one in series[:8] for stop in (window, len(one))])
        lineage = {f"recording-{number}": life.sha256 for number, life in enumerate(lives)}
        lineage |= {"recipe": "slow-signal-1", "season_samples": str(season)}
        draft = _draft(lives[0], window, center, scale, limit, job)
        return finish(draft, model, windows.astype(np.float32), [gate], lineage, job)


SLOW_SIGNAL: Final[Recipe] = _SlowSignal()


def season_of(series: Sequence[Array], rate_hz: float, window: int) -> int:
    """The season, in samples, that explains most; 0 where none does, or none fits the window twice.

    Args:
        series: [sample, channel] each, standardised.
        rate_hz: of the samples.
        window: samples of a window.
    """
    best = (_SEASONAL, 0)
    for lag in (round(seconds * rate_hz) for seconds in _SEASONS_S):
        if lag < 4 or 2 * lag > window or min(len(one) for one in series) < 2 * lag:
            continue
        left = np.mean([(one[lag:] - one[:-lag]).var() / (2 * max(1e-12, float(one.var()))) for one in series])
        best = max(best, (1 - float(left), lag))
    return best[1]


def detector(window: int, channels: int, season: int) -> bytes:
    """The model: from a window [n, sample, channel], standardised, to its greatest deviation [n, 1]."""
    graph = Graph()
    graph.constant("least", _LEAST**2)
    graph.add("Transpose", ["input"], "signal", perm=[0, 2, 1])
    found = _add_scales(graph, "signal", window)
    if season:
        newer = _slice(graph, "signal", season, window, "season_newer")
        older = _slice(graph, "signal", 0, window - season, "season_older")
        found += _add_scales(graph, graph.add("Sub", [newer, older], "seasonal"), window - season, changes=False)
    graph.add("Concat", found, "deviations", axis=1)
    graph.add("ReduceMax", ["deviations"], "output", axes=[1], keepdims=1)
    return graph.model(["n", window, channels], ["n", 1])


def _add_scales(graph: Graph, signal: str, length: int, changes: bool = True) -> list[str]:
    """Add the deviations of a signal [n, channel, length] at each scale; returns their names, each [n, channel]."""
    found = []
    for width in sorted({1, *(max(2, length // part) for part in _SCALES)}):
        name = f"{signal}_{width}"
        means = graph.add("AveragePool", [signal], f"{name}_means", kernel_shape=[width], strides=[1])
        count = length - width + 1
        found.append(_deviation(graph, means, count, width, name))
        if changes:
            newer = _slice(graph, means, width, count, f"{name}_newer")
            older = _slice(graph, means, 0, count - width, f"{name}_older")
            change = graph.add("Sub", [newer, older], f"{name}_changes")
            found.append(_deviation(graph, change, count - width, width, f"{name}_change"))
    return found


def _deviation(graph: Graph, values: str, count: int, gap: int, name: str) -> str:
    """Add how far the last of ``count`` values is from those that share no sample with it; returns its name."""
    past = _slice(graph, values, 0, count - gap, f"{name}_past")
    last = _slice(graph, values, count - 1, count, f"{name}_last")
    usual = graph.add("ReduceMean", [past], f"{name}_usual", axes=[2], keepdims=1)
    around = graph.add("Sub", [past, usual], f"{name}_around")
    power = graph.add("Mul", [around, around], f"{name}_power")
    spread = graph.add("ReduceMean", [power], f"{name}_spread", axes=[2], keepdims=1)
    least = graph.add("Add", [spread, "least"], f"{name}_least")
    unit = graph.add("Sqrt", [least], f"{name}_unit")
    off = graph.add("Sub", [last, usual], f"{name}_off")
    size = graph.add("Abs", [off], f"{name}_size")
    ratio = graph.add("Div", [size, unit], f"{name}_ratio")
    return graph.add("Flatten", [ratio], f"{name}_deviation", axis=1)


def _slice(graph: Graph, values: str, first: int, stop: int, name: str) -> str:
    """Add a part of [n, channel, sample] along its samples; returns ``name``."""
    ends = [graph.constant(f"{name}_{what}", [at], np.int64) for what, at in (("from", first), ("to", stop), ("ax", 2))]
    return graph.add("Slice", [values, *ends], name)


def _scores(model: bytes, series: Sequence[Array], window: int) -> tuple[list[npt.NDArray[np.float64]], int]:
    """The deviations of healthy windows of each series, evenly spread, and the samples from one to the next."""
    session, found = open_session(model), []
    step = max(1, sum(len(one) - window + 1 for one in series) // _SCORED)
    for one in series:
        cuts = np.lib.stride_tricks.sliding_window_view(one, window, axis=0)[::step].transpose(0, 2, 1)
        parts = [np.ascontiguousarray(cuts[first : first + 256]) for first in range(0, len(cuts), 256)]
        outputs = [session.run(["output"], {"input": rows})[0][:, 0] for rows in parts]
        found.append(np.concatenate(outputs).astype(np.float64))
    return found, step


def _limit(healthy: npt.NDArray[np.float64], sigma: float, job: Job) -> float:
    """The limit, raised where healthy windows would be above it too often."""
    often = float(np.quantile(healthy, 1 - _HEALTHY_ABOVE)) * 1.01
    if often <= sigma:
        return sigma
    limit = min(often, _MOST_RAISED * sigma)
    job.warn(
        f"healthy windows deviate by {often:.3g} standard deviations in {_HEALTHY_ABOVE:.0%} of the time: the limit is "
        f"{limit:.3g} instead of {sigma:g}; look whether the series is healthy, or give a longer one"
    )
    return limit


def _draft(
    life: Life, window: int, center: npt.NDArray[Any], scale: npt.NDArray[Any], limit: float, job: Job
) -> Manifest:
    """The manifest, without files, gates and lineage."""
    return Manifest(
        model=job.model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=PENDING,
        input=Input(
            sample_rate_hz=life.sample_rate_hz, window_samples=window, channels=list(life.channels),
            units=list(life.units),
        ),
        features=[],
        raw=RawInput(channels=list(range(len(life.channels))), center=center.tolist(), scale=scale.tolist()),
        anomaly=Anomaly(output="score", threshold=limit),
        decision=_DECISION,
        golden=_GOLDEN,
        budget=_BUDGET,
    )  # fmt: skip
