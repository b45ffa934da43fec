"""Drift: how far the features and scores of now are from those of training.

Training freezes a :class:`Reference` a feature (bins at quantiles, counts, moments) into the manifest. A device
sketches its windows over the same bins (:mod:`sketch`); whoever holds sketches, of a device or of a fleet, compares:

* **PSI**, the population stability index: ``sum (q - p) ln(q / p)`` over the bins, with p and q the shares of the
  reference and of now (Jeffreys' divergence, Proc. R. Soc. A 186 (1946) 453). Half a count is added to each bin, so
  that an empty one is not infinitely strange. Without drift it is near ``chi2(bins - 1) (1/m + 1/n)`` for m and n
  windows (Yurdakul, "Statistical Properties of Population Stability Index", 2018); :func:`psi_noise` gives that level.
* **KS**, Kolmogorov and Smirnov's ``sup |F - G|``: exact at the edges. Between two edges F and G rise by the bin's
  shares f and g, so the distance of the raw samples is at most ``ks_error = max min(f, g)`` greater, and never less.
* **Wasserstein-1**, ``integral |F - G| dx``: as if each bin were filled evenly, and never less than the difference of
  the means, which the sketch has exactly. A bin of width w is off by at most ``w (f + g) / 2``; the sum is
  ``wasserstein_error``.

Invariants:
    * Pure; the same sketches always give the same distances.
    * The reference has nothing in its two outermost bins: what is there now, training has not seen.

What this module does not do: watch a stream for changes (the agent's ``core/change``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from wheeltapper_protocols.drift.sketch import MAX_BINS, MAX_SKETCHED, Bins, Sketches

__all__ = [
    "ChangeSpec",
    "Distances",
    "DriftSpec",
    "Reference",
    "distances",
    "fit_drift_spec",
    "fit_reference",
    "psi",
    "psi_noise",
]

INNER_BINS: Final = 20
"""Bins between the least and the greatest value of training: of 5 % each."""
_WINDOWS_A_BIN: Final = 4
"""Fewer windows than this a bin and there are fewer bins."""
_DIGITS: Final = 6
_PRIOR: Final = 0.5
_NOISE_Z: Final = 3.09
"""Of the standard normal: one in a thousand lies above it."""

Finite = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]


class Reference(Struct, frozen=True, kw_only=True):
    """What training saw of one feature, or of the score."""

    edges: Annotated[list[Finite], Meta(min_length=2, max_length=MAX_BINS - 1)]
    """Rising strictly as float32; the first is below all that training saw, the last above it."""
    counts: Annotated[list[Annotated[int, Meta(ge=0, le=2**32 - 1)]], Meta(min_length=3, max_length=MAX_BINS)]
    """One more than edges; see :mod:`sketch` for the bins."""
    mean: Finite
    deviation: Annotated[float, Meta(ge=0, le=3.4e38)]
    """Standard deviation, over n."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError("a reference has one count more than edges")
        if not sum(self.counts) or self.counts[0] or self.counts[-1]:
            raise ValueError("a reference has some counts, and none in its two outermost bins")
        Bins([self.edges])


class ChangeSpec(Struct, frozen=True, kw_only=True):
    """The change detector's parameters (ADWIN; the agent's ``core/change``)."""

    delta: Annotated[float, Meta(gt=0, lt=1)] = 0.002
    """How probable a false alarm may be at one look."""
    look_windows: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """It looks for a change every so many windows."""
    warm_up_windows: Annotated[int, Meta(ge=10, le=1_000_000)] = 64


class DriftSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``drift``."""

    features: Annotated[list[Reference], Meta(max_length=MAX_SKETCHED)]
    """One a feature of the manifest, in its order."""
    score: Reference
    period_windows: Annotated[int, Meta(ge=16, le=1_000_000)] = 3600
    """A report at least every so many windows."""
    period_seconds: Annotated[float, Meta(ge=1, le=1e7)] = 3600.0
    """And so many seconds after the first, where there are :data:`MIN_REPORT_WINDOWS` by then."""
    psi_limit: Annotated[float, Meta(gt=0, le=100)] = 0.25
    """A feature has moved when its PSI of a period is above this and the noise together."""
    change: ChangeSpec = ChangeSpec()


@dataclass(frozen=True)
class Distances:
    """One feature's distance from its reference; all 0 where nothing was seen."""

    n: int
    psi: float = 0.0
    psi_noise: float = 0.0
    """What chance alone exceeds once in a thousand, were the windows independent."""
    ks: float = 0.0
    ks_error: float = 0.0
    """The raw samples' distance is between ``ks`` and ``ks + ks_error``."""
    wasserstein: float = 0.0
    """In the feature's unit."""
    wasserstein_error: float = 0.0
    """The raw samples' distance is within this of ``wasserstein``."""


def fit_drift_spec(features: NDArray[Any], scores: NDArray[Any], period_windows: int = 3600) -> DriftSpec:
    """The reference of healthy ``features`` [window, feature] and ``scores`` [window].

    Raises:
        ValueError: a feature or the scores have no finite value.
    """
    return DriftSpec(
        features=[fit_reference(features[:, column]) for column in range(features.shape[1])],
        score=fit_reference(scores),
        period_windows=int(np.clip(period_windows, 16, 1_000_000)),
    )


def fit_reference(values: NDArray[Any], inner_bins: int = INNER_BINS) -> Reference:
    """The reference of ``values`` [window]: bins of equal shares, as many as the windows are good for.

    Raises:
        ValueError: none of them is finite.
    """
    known = np.asarray(values, dtype=np.float32)
    known = known[np.isfinite(known)].astype(np.float64)
    if not len(known):
        raise ValueError("there is no finite value to take a reference from")
    bins = int(np.clip(len(known) // _WINDOWS_A_BIN, 1, inner_bins))
    middle = [_rounded(value) for value in np.quantile(known, np.arange(1, bins) / bins).tolist()]
    low, high = _outside(float(known.min()), -1), _outside(float(known.max()), 1)
    inner = sorted({float(np.float32(value)): value for value in middle if low < value < high}.items())
    edges = [low, *(value for single, value in inner if np.float32(low) < single < np.float32(high)), high]
    counts = Bins([edges]).sketch(known[:, None]).counts[0]
    return Reference(
        edges=edges,
        counts=counts.tolist(),
        mean=float(f"{known.mean():.8g}"),
        deviation=float(f"{known.std():.8g}"),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _outside(value: float, side: int) -> float:
    """A short number that is beyond ``value`` as float32 too."""
    step = 10.0 ** (math.floor(math.log10(abs(value))) - _DIGITS + 1) if value else 10.0**-_DIGITS
    found = _rounded(value)
    while not side * np.float32(found) > side * np.float32(value):
        found = _rounded(found + side * step)
        step *= 2
    return found


def psi(reference: Sequence[int] | NDArray[Any], current: Sequence[int] | NDArray[Any], prior: float = _PRIOR) -> float:
    """The population stability index of two rows of counts; ``prior`` is added to each."""
    p = np.asarray(reference, dtype=np.float64) + prior
    q = np.asarray(current, dtype=np.float64) + prior
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(bins: int, reference_n: int, current_n: int) -> float:
    """The PSI that chance alone exceeds once in a thousand; Wilson and Hilferty's form of chi square's quantile."""
    if bins < 2 or not reference_n or not current_n:
        return 0.0
    freedom = bins - 1
    nine = 2.0 / (9.0 * freedom)
    return float(freedom * (1.0 - nine + _NOISE_Z * math.sqrt(nine)) ** 3 * (1.0 / reference_n + 1.0 / current_n))


def distances(references: Sequence[Reference], sketches: Sketches) -> list[Distances]:
    """How far each feature is from its reference.

    Raises:
        ValueError: the sketches are not over the references' bins.
    """
    if [len(reference.counts) for reference in references] != sketches.bins.tolist():
        raise ValueError("the sketches have other bins than the reference: they are of another release")
    return [_distance(reference, sketches, row) for row, reference in enumerate(references)]


def _distance(reference: Reference, sketches: Sketches, row: int) -> Distances:
    theirs = np.asarray(reference.counts, dtype=np.float64)
    ours = sketches.counts[row, : len(theirs)].astype(np.float64)
    m, n = float(theirs.sum()), float(ours.sum())
    if not n:
        return Distances(n=0)
    f, g = theirs / m, ours / n
    # F - G just below each edge; before the first and after the last value it is 0.
    gap = np.concatenate([[0.0], np.cumsum(f - g)])
    edges = np.asarray(reference.edges, dtype=np.float32).astype(np.float64)
    low, high = float(sketches.low[row]), float(sketches.high[row])
    ends = np.concatenate([[min(low, edges[0])], edges, [max(high, edges[-1])]])
    widths = np.diff(ends)
    off = float(np.sum(widths * (f + g)) / 2)
    evenly = float(np.sum(widths * _mean_absolute(gap[:-1], gap[1:])))
    return Distances(
        n=int(n),
        psi=psi(theirs, ours),
        psi_noise=psi_noise(len(theirs), int(m), int(n)),
        ks=float(np.max(np.abs(gap))),
        ks_error=float(np.max(np.minimum(f, g))),
        wasserstein=max(evenly, abs(float(sketches.mean[row]) - reference.mean)),
        wasserstein_error=off,
    )


def _mean_absolute(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of ``|x|`` along the straight line from ``a`` to ``b``."""
    crossing = a * b < 0
    span = np.where(crossing, np.abs(a - b), 1.0)
    found: NDArray[np.float64] = np.where(crossing, (a * a + b * b) / (2 * span), np.abs(a + b) / 2)
    return found
