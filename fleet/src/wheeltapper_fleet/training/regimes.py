"""Finds the operating regimes of machines in their own data: a few settings between which all of them switch.

Samples are clustered. What is found counts only where the clusters are far apart and are there in every third of the
machines' lives: clusters that follow wear are no regimes. Otherwise there is one regime.

Invariants:
    * The same samples and seed give the same regimes.
    * A sample's regime is known by channels that do not change within a regime, so wear moves no sample to another.

Source: Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20 (1987) 53-65, for how far apart clusters are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from wheeltapper_fleet.training.convnet_onnx import Regimes

__all__ = ["find_regimes"]

Array = npt.NDArray[np.float32]
_MOST: Final = 12
"""Regimes that are looked for."""
_ROWS: Final = 2000
_APART: Final = 0.6
"""Least silhouette: 1 where clusters are points far from one another. Clusters of gradual wear have 0.2 to 0.45."""
_SHARE_OF_THIRD: Final = 0.2
"""A regime's share of the third of life where it is rarest, of its share where it is most frequent."""
_SETTING: Final = 0.98
"""Share of a channel's variance that the regimes explain, from which on the channel says the regime."""
_EXACT: Final = 1e-4
"""Share of its variance within regimes up to which a channel is a setting; else only the ten times purest are."""
_REACH: Final = 3.0
"""How many times farther than any training sample a sample of a known regime may be."""
_REACH_OF_GAP: Final = 0.1
"""And at least this share of the way from a regime to its nearest neighbour."""


def find_regimes(samples: Array, age: Array, channels: Sequence[int], seed: int) -> Regimes | None:
    """Find the regimes.

    Args:
        samples: [sample, channel], standardised.
        age: [sample], the age of its machine at each sample as a share of its life, 0 to 1.
        channels: those to look at: what states the condition, or all that move.
        seed: of the clustering.

    Returns:
        The regimes, whose ``channels`` are among those given; None where there is one.
    """
    if not channels:
        return None
    random = np.random.default_rng(seed)
    picked = np.sort(random.choice(len(samples), min(_ROWS, len(samples)), replace=False))
    rows = np.asarray(samples[picked][:, list(channels)], dtype=np.float64)
    best: tuple[float, Any] = (_APART, None)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters: the next number of clusters is no better
        for count in range(2, min(_MOST, len(np.unique(rows, axis=0)) - 1) + 1):
            labels = KMeans(count, n_init=8, random_state=seed).fit(rows).labels_
            if len(set(labels.tolist())) < count:
                break
            score = float(silhouette_score(rows, labels))
            if score > best[0] and _whole_life(labels, age[picked]):
                best = (score, labels)
    if best[1] is None:
        return None
    return _settled(samples, picked, best[1], channels)


def _whole_life(labels: npt.NDArray[Any], age: Array) -> bool:
    """Whether every cluster is there in each third of life."""
    third = np.minimum((age * 3).astype(int), 2)
    shares = np.array([np.bincount(labels[third == each], minlength=labels.max() + 1) for each in range(3)], float)
    shares /= np.maximum(1.0, shares.sum(axis=1, keepdims=True))
    return bool((shares.min(axis=0) >= _SHARE_OF_THIRD * shares.max(axis=0)).all())


def _settled(
    samples: Array, picked: npt.NDArray[Any], labels: npt.NDArray[Any], channels: Sequence[int]
) -> Regimes | None:
    """The regimes by the channels that say them."""
    rows = samples[picked]
    total = rows.var(axis=0)
    regimes = range(labels.max() + 1)
    within = np.sum([rows[labels == each].var(axis=0) * np.mean(labels == each) for each in regimes], axis=0)
    share = np.where(total > 0, within / np.maximum(total, 1e-30), 1.0)[list(channels)]
    least = max(_EXACT, 10 * float(share.min()))
    settings = [each for each, left in zip(channels, share, strict=True) if left <= min(1 - _SETTING, least)]
    if not settings:
        return None
    centers = np.array([rows[labels == each][:, settings].mean(axis=0) for each in regimes], dtype=np.float32)
    away = samples[:, None, settings] - centers
    farthest = float(np.sqrt((away * away).sum(axis=2).min(axis=1)).max())
    apart = np.sqrt(((centers[:, None] - centers) ** 2).sum(axis=2))
    nearest = float(apart[~np.eye(len(apart), dtype=bool)].min())
    return Regimes(tuple(settings), centers, max(_REACH * farthest, _REACH_OF_GAP * nearest))
