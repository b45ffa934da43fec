"""Drift: the distance between the features and scores of now and those of training.

Training writes a :class:`Reference` of each feature (bins at quantiles, counts, moments) into the manifest. A device
sketches its windows over the same bins (:mod:`sketch`). The device, and the fleet with the merged sketches of many
devices, compare them with the reference by three distances:

* **PSI**, the population stability index: ``sum (q - p) ln(q / p)`` over the bins, with p and q the shares of the
  reference and of now (Jeffreys' divergence, Proc. R. Soc. A 186 (1946) 453). Half a count is added to each bin, so
  that an empty bin does not make it infinite. Without drift it is near ``chi2(bins - 1) (1/m + 1/n)`` for m and n
  windows (Yurdakul, "Statistical Properties of Population Stability Index", 2018); :func:`psi_noise` gives that level.
* **KS**, Kolmogorov and Smirnov's ``sup |F - G|``: computed at the edges, where it is exact. Within a bin F and G
  rise by the bin's shares f and g, so the distance between the raw samples is between ``ks`` and ``ks + ks_error``,
  with ``ks_error = max min(f, g)``.
* **Wasserstein-1**, ``integral |F - G| dx``: computed as if values were spread evenly over each bin, and at least the
  difference of the means, which the sketch has exactly. The error of a bin of width w is at most ``w (f + g) / 2``; the
  sum over the bins is ``wasserstein_error``.

Invariants:
    * Pure: the same sketches always give the same distances.
    * The two outermost bins of a reference are empty: a value there is outside of what training saw.

Example:
    >>> trained = np.random.default_rng(0).normal(size=1000)
    >>> reference = fit_reference(trained)
    >>> now = Bins([reference.edges]).sketch(trained[:, None] + 1.0)
    >>> distances([reference], now)[0].psi > 0.25
    True

What this module does not do: detect changes in a stream (the agent's ``pipeline/change.py``).
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
"""Bins between the least and the greatest value of training; each holds 5 % of the windows."""
_WINDOWS_A_BIN: Final = 4
"""Least windows of training in a bin; with fewer windows there are fewer bins."""
_DIGITS: Final = 6
"""Significant digits of an edge."""
_PRIOR: Final = 0.5
"""Count that is added to each bin for the PSI."""
_NOISE_Z: Final = 3.09
"""The 99.9 % quantile of the standard normal distribution."""

Finite = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]


class Reference(Struct, frozen=True, kw_only=True):
    """The distribution of one feature, or of the score, in training."""

    edges: Annotated[list[Finite], Meta(min_length=2, max_length=MAX_BINS - 1)]
    """Strictly rising as float32. The first is below every value of training, the last above."""
    counts: Annotated[list[Annotated[int, Meta(ge=0, le=2**32 - 1)]], Meta(min_length=3, max_length=MAX_BINS)]
    """Windows of training in each bin; one entry more than ``edges`` (see :mod:`sketch`)."""
    mean: Finite
    deviation: Annotated[float, Meta(ge=0, le=3.4e38)]
    """Standard deviation, with divisor n."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError("a reference needs one count more than it has edges")
        if not sum(self.counts) or self.counts[0] or self.counts[-1]:
            raise ValueError("a reference needs counts, and none in its two outermost bins")
        Bins([self.edges])


class ChangeSpec(Struct, frozen=True, kw_only=True):
    """Parameters of the change detector (ADWIN: Bifet and Gavaldà, SDM 2007; the agent's ``pipeline/change.py``)."""

    delta: Annotated[float, Meta(gt=0, lt=1)] = 0.002
    """Greatest probability of a false alarm at one look."""
    look_windows: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """Windows from one look for a change to the next."""
    warm_up_windows: Annotated[int, Meta(ge=10, le=1_000_000)] = 64
    """Windows before the first look."""


class DriftSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``drift``: the references, and when the device reports."""

    features: Annotated[list[Reference], Meta(max_length=MAX_SKETCHED)]
    """One reference for each feature of the manifest, in its order."""
    score: Reference
    period_windows: Annotated[int, Meta(ge=16, le=1_000_000)] = 3600
    """Greatest number of windows in one report."""
    period_seconds: Annotated[float, Meta(ge=1, le=1e7)] = 3600.0
    """A report is also sent so many seconds after its first window, unless it has too few windows by then."""
    psi_limit: Annotated[float, Meta(gt=0, le=100)] = 0.25
    """A feature has drifted when its PSI over a report is above this limit plus ``psi_noise``."""
    change: ChangeSpec = ChangeSpec()


@dataclass(frozen=True)
class Distances:
    """Distances of one feature from its reference. All are 0 where there are no values."""

    n: int
    """Number of finite values that were compared."""
    psi: float = 0.0
    psi_noise: float = 0.0
    """The PSI that chance exceeds once in a thousand times, if windows are independent."""
    ks: float = 0.0
    ks_error: float = 0.0
    """The distance between the raw samples is between ``ks`` and ``ks + ks_error``."""
    wasserstein: float = 0.0
    """In the feature's unit."""
    wasserstein_error: float = 0.0
    """The distance between the raw samples differs from ``wasserstein`` by at most this."""


def fit_drift_spec(features: NDArray[Any], scores: NDArray[Any], period_windows: int = 3600) -> DriftSpec:
    """The section ``drift`` for a model, from healthy windows of its training.

    Args:
        features: [window, feature].
        scores: [window].
        period_windows: greatest number of windows in a report of the device.

    Raises:
        ValueError: a feature or the scores have no finite value.
    """
    return DriftSpec(
        features=[fit_reference(features[:, column]) for column in range(features.shape[1])],
        score=fit_reference(scores),
        period_windows=int(np.clip(period_windows, 16, 1_000_000)),
    )


def fit_reference(values: NDArray[Any], inner_bins: int = INNER_BINS) -> Reference:
    """The reference of one feature: bins that hold equal shares of the values.

    Args:
        values: [window]; values that are not finite are left out.
        inner_bins: number of bins; there are fewer where there are few windows or many equal values.

    Raises:
        ValueError: no value is finite.
    """
    known = np.asarray(values, dtype=np.float32)
    known = known[np.isfinite(known)].astype(np.float64)
    if not len(known):
        raise ValueError("there is no finite value: a reference needs at least one")
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
    """The population stability index of two histograms [bin] over the same bins.

    Args:
        reference: [bin], the counts of training.
        current: [bin], the counts of now.
        prior: added to every count, so that empty bins give finite terms.
    """
    p = np.asarray(reference, dtype=np.float64) + prior
    q = np.asarray(current, dtype=np.float64) + prior
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(bins: int, reference_n: int, current_n: int) -> float:
    """The PSI that chance exceeds once in a thousand times, without drift.

    The quantile of chi-squared is approximated as in Wilson and Hilferty, PNAS 17 (1931) 684-688.

    Args:
        bins: number of bins.
        reference_n: windows of training.
        current_n: windows of now.
    """
    if bins < 2 or not reference_n or not current_n:
        return 0.0
    freedom = bins - 1
    nine = 2.0 / (9.0 * freedom)
    return float(freedom * (1.0 - nine + _NOISE_Z * math.sqrt(nine)) ** 3 * (1.0 / reference_n + 1.0 / current_n))


def distances(references: Sequence[Reference], sketches: Sketches) -> list[Distances]:
    """The distances of each feature from its reference.

    Args:
        references: [feature], of one release's manifest.
        sketches: of the same features, over the bins of ``references``.

    Raises:
        ValueError: the sketches have other bins than the references.
    """
    if [len(reference.counts) for reference in references] != sketches.bins.tolist():
        raise ValueError(
            "the sketches have other bins than the reference: compare sketches and reference of one release"
        )
    return [_distance(reference, sketches, row) for row, reference in enumerate(references)]


def _distance(reference: Reference, sketches: Sketches, row: int) -> Distances:
    theirs = np.asarray(reference.counts, dtype=np.float64)
    ours = sketches.counts[row, : len(theirs)].astype(np.float64)
    m, n = float(theirs.sum()), float(ours.sum())
    if not n:
        return Distances(n=0)
    f, g = theirs / m, ours / n
    # F - G at each edge. Below the least and above the greatest value it is 0.
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
