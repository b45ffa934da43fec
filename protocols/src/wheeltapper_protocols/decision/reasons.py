"""Why a score is what it is, found by intervention: undo one thing, ask the network again, see how far the score falls.

* A feature is undone by setting it to what is usual for it.
* A band of raw samples is undone by bringing its root mean square to what is usual for it, with its phases as they are.

``share`` is a reason's part of all falls, greatest first. Where undoing no single thing helps (several say the same, or
a probability is saturated), each is tried the other way round: everything usual but this one, and how far the score
rises by it.

What a reason is worth is therefore checked by construction: it is not a heuristic beside the network. It costs one call
of the network for all of them together (or one each, for a network that takes one window at a time), and is asked for
when an alert changes, not for each window.

Invariants: pure, but for the ``score`` that is handed in; at most as many reasons as asked for; shares are above 0 and
sum to at most 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_protocols.wire.messages import Reason

__all__ = ["UsualBand", "band_levels", "band_reasons", "feature_reasons", "rank_reasons", "undo_bands"]

Floats = npt.NDArray[np.float64]
ScoreOf: TypeAlias = Callable[[npt.NDArray[np.float32]], Floats]


class UsualBand(Struct, frozen=True, kw_only=True):
    """How strong a band of one channel usually is: the manifest's section ``bands``."""

    channel: Annotated[int, Meta(ge=0, le=63)]
    low_hz: Annotated[float, Meta(ge=0, le=1e9)]
    high_hz: Annotated[float, Meta(gt=0, le=1e9)]
    rms: Annotated[float, Meta(gt=0, le=1e30)]

    def __post_init__(self) -> None:
        if self.low_hz >= self.high_hz:
            raise ValueError("low_hz of a band must be below high_hz")


def feature_reasons(
    row: npt.NDArray[np.float32],
    values: npt.NDArray[Any],
    names: tuple[str, ...],
    usual: npt.NDArray[Any],
    score_of: ScoreOf,
    count: int,
) -> tuple[Reason, ...]:
    """The features that a window's score is due to.

    Args:
        row: [feature] float32, the network's input; 0 is usual.
        values: [feature], the features themselves.
        names: the features' names.
        usual: [feature], what is usual for them.
        score_of: scores [n] of inputs [n, feature].
        count: how many to name at most.
    """
    undone = np.repeat(row[None], len(row) + 1, axis=0)
    undone[np.arange(len(row)), np.arange(len(row))] = 0.0
    scores = score_of(undone)
    falls = scores[-1] - scores[:-1]
    if not np.nanmax(falls, initial=0.0) > 1e-6 * abs(scores[-1]):
        alone = np.zeros_like(undone)
        alone[np.arange(len(row)), np.arange(len(row))] = row
        scores = score_of(alone)
        falls = scores[:-1] - scores[-1]
    return rank_reasons(falls, values, names, usual, count)


def band_reasons(
    window: npt.NDArray[np.float32],
    bands: list[UsualBand],
    rate_hz: float,
    channels: list[str],
    score_of: ScoreOf,
    count: int,
) -> tuple[Reason, ...]:
    """The bands that a window's score is due to.

    Args:
        window: [sample, channel], physical.
        bands: with their usual levels.
        rate_hz: sample rate.
        channels: their names.
        score_of: scores [n] of windows [n, sample, channel].
        count: how many to name at most.
    """
    if not bands:
        return ()
    scores = score_of(np.concatenate([undo_bands(window, bands, rate_hz), window[None]]))
    names = tuple(f"{channels[band.channel]} {band.low_hz:.0f}-{band.high_hz:.0f} Hz" for band in bands)
    usual = np.array([band.rms for band in bands])
    return rank_reasons(scores[-1] - scores[:-1], band_levels(window, bands, rate_hz), names, usual, count)


def rank_reasons(
    falls: Floats, values: npt.NDArray[Any], names: tuple[str, ...], usual: npt.NDArray[Any], count: int
) -> tuple[Reason, ...]:
    """The reasons for some falls of the score [n], the greatest first."""
    falls = np.where(np.isfinite(falls) & np.isfinite(values) & (falls > 0), falls, 0.0)
    total = float(falls.sum())
    if not total > 0:
        return ()
    order = np.argsort(-falls, kind="stable")[:count]
    return tuple(
        Reason(feature=names[i][:120], value=float(values[i]), usual=float(usual[i]), share=float(falls[i]) / total)
        for i in order
        if falls[i] > 0
    )


def band_levels(window: npt.NDArray[np.float32], bands: list[UsualBand], rate_hz: float) -> Floats:
    """Root mean square of each band in a window [sample, channel], by Parseval, without the mean."""
    spectrum = np.fft.rfft(window.astype(np.float64), axis=0)
    return np.array(
        [np.sqrt(_power(spectrum[_bins(band, len(window), rate_hz), band.channel], len(window))) for band in bands]
    )


def undo_bands(window: npt.NDArray[np.float32], bands: list[UsualBand], rate_hz: float) -> npt.NDArray[np.float32]:
    """The window [sample, channel], once for each band with that band at its usual level: [band, sample, channel].

    A band that has no power at all stays as it is: there is nothing to scale.
    """
    spectrum = np.fft.rfft(window.astype(np.float64), axis=0)
    result = np.repeat(window[None], len(bands), axis=0)
    for number, band in enumerate(bands):
        bins = _bins(band, len(window), rate_hz)
        one = spectrum[:, band.channel].copy()
        level = np.sqrt(_power(one[bins], len(window)))
        if level > 0:
            one[bins] *= band.rms / level
            result[number, :, band.channel] = np.fft.irfft(one, n=len(window))
    return result


def _bins(band: UsualBand, samples: int, rate_hz: float) -> slice:
    hz = rate_hz / samples
    start = max(1, int(np.ceil(band.low_hz / hz - 1e-9)))
    return slice(start, max(start, int(np.ceil(band.high_hz / hz - 1e-9))))


def _power(bins: npt.NDArray[np.complex128], samples: int) -> float:
    return float(np.sum(bins.real**2 + bins.imag**2)) * 2.0 / samples**2
