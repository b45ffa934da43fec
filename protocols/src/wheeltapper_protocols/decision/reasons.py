"""The reasons for a score, by ablation: set one input to its usual value, score again, and see how far the score drops.

* A feature is set to its usual value.
* A band of raw samples is scaled to its usual root mean square; its phases stay as they are.

The ``share`` of a reason is its part of the sum of all drops; the greatest come first. Where no single input lowers the
score (several say the same, or a probability is saturated), features are tried the other way round: all features are
usual but one, and the share is how far that one raises the score.

Reasons therefore come from the model itself. They take one call of the model for all inputs together (or one call each,
for a model that takes one window at a time), and are computed when an alert changes, not for each window.

Invariants:
    * Pure, but for the function ``score_of`` that the caller passes.
    * There are at most as many reasons as asked for. Shares are above 0 and sum to at most 1.
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
    """One entry of the manifest's section ``bands``: the usual root mean square of a band of one channel."""

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
    """The features that explain the score of a window.

    Args:
        row: [feature] float32, the model's input; 0 is usual.
        values: [feature], the features before they are standardised.
        names: [feature], their names.
        usual: [feature], their usual values.
        score_of: function from model inputs [n, feature] to scores [n].
        count: greatest number of reasons.
    """
    undone = np.repeat(row[None], len(row) + 1, axis=0)
    undone[np.arange(len(row)), np.arange(len(row))] = 0.0
    scores = score_of(undone)
    drops = scores[-1] - scores[:-1]
    if not np.nanmax(drops, initial=0.0) > 1e-6 * abs(scores[-1]):
        alone = np.zeros_like(undone)
        alone[np.arange(len(row)), np.arange(len(row))] = row
        scores = score_of(alone)
        drops = scores[:-1] - scores[-1]
    return rank_reasons(drops, values, names, usual, count)


def band_reasons(
    window: npt.NDArray[np.float32],
    bands: list[UsualBand],
    rate_hz: float,
    channels: list[str],
    score_of: ScoreOf,
    count: int,
) -> tuple[Reason, ...]:
    """The bands of raw samples that explain the score of a window.

    Args:
        window: [sample, channel] in physical units.
        bands: the bands and their usual levels.
        rate_hz: sample rate, in Hz.
        channels: [channel], the names.
        score_of: function from windows [n, sample, channel] to scores [n].
        count: greatest number of reasons.
    """
    if not bands:
        return ()
    scores = score_of(np.concatenate([undo_bands(window, bands, rate_hz), window[None]]))
    names = tuple(f"{channels[band.channel]} {band.low_hz:.0f}-{band.high_hz:.0f} Hz" for band in bands)
    usual = np.array([band.rms for band in bands])
    return rank_reasons(scores[-1] - scores[:-1], band_levels(window, bands, rate_hz), names, usual, count)


def rank_reasons(
    drops: Floats, values: npt.NDArray[Any], names: tuple[str, ...], usual: npt.NDArray[Any], count: int
) -> tuple[Reason, ...]:
    """The reasons with the greatest drops of the score; drops that are not above 0 give none.

    Args:
        drops: [n], how far the score drops without each input.
        values: [n], the inputs' values.
        names: [n], their names.
        usual: [n], their usual values.
        count: greatest number of reasons.
    """
    drops = np.where(np.isfinite(drops) & np.isfinite(values) & (drops > 0), drops, 0.0)
    total = float(drops.sum())
    if not total > 0:
        return ()
    order = np.argsort(-drops, kind="stable")[:count]
    return tuple(
        Reason(feature=names[i][:120], value=float(values[i]), usual=float(usual[i]), share=float(drops[i]) / total)
        for i in order
        if drops[i] > 0
    )


def band_levels(window: npt.NDArray[np.float32], bands: list[UsualBand], rate_hz: float) -> Floats:
    """[band]: the root mean square of each band in a window [sample, channel], without the mean (by Parseval)."""
    spectrum = np.fft.rfft(window.astype(np.float64), axis=0)
    return np.array(
        [np.sqrt(_power(spectrum[_bins(band, len(window), rate_hz), band.channel], len(window))) for band in bands]
    )


def undo_bands(window: npt.NDArray[np.float32], bands: list[UsualBand], rate_hz: float) -> npt.NDArray[np.float32]:
    """[band, sample, channel]: the window [sample, channel] once for each band, with that band at its usual level.

    A band without power stays as it is.
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
