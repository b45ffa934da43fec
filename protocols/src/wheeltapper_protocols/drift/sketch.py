"""Mergeable sketches of features: of each, a histogram over fixed bins, and moments.

Sketches merge by addition, in any order: blocks of windows to a device's period, devices to a site, sites to the fleet.
The bins are quantiles of the training data in the manifest (:mod:`drift`) and never change, so only sketches of one
release can be merged.

Feature ``f`` has edges ``e[0] < e[1] < … < e[k-1]`` and k + 1 bins: bin 0 holds ``x < e[0]``, bin i holds
``e[i-1] <= x < e[i]``, bin k holds ``x >= e[k-1]``. Values are compared as float32, the type of features. Values that
are not finite are counted as ``missing`` and nowhere else.

The moments (mean, and ``m2``, the sum of squared deviations from it) merge as in Chan, Golub and LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", STAN-CS-79-773 (1979), equation 2.1.

Wire form (:func:`encode_sketches`), little endian: the byte 1 (the version) and the number of features as a varint
(LEB128). Then for each feature, as varints: the number of bins, the number of missing values, and the count of each
bin. Where some count is above 0, mean and m2 follow as float64, and the least and greatest value as float32. A feature
with b bins takes at most 2 + 5 (b + 1) + 24 bytes.

Invariants:
    * Merging is associative and commutative: exactly for counts, missing, least and greatest value, and up to rounding
      (float64) for mean and m2.
    * Whatever the bytes, :func:`decode_sketches` returns complete and consistent sketches within the caps, or raises
      :class:`ValueError`.

Example:
    >>> bins = Bins([[0.0, 1.0]])
    >>> both = bins.sketch(np.array([[-1.0], [0.5]])).merged(bins.sketch(np.array([[7.0]])))
    >>> both.counts.tolist()
    [[1, 1, 1]]
    >>> decode_sketches(encode_sketches(both)).counts.tolist()
    [[1, 1, 1]]

What this module does not do: compare with a reference (:mod:`drift`), name the features.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MAX_BINS",
    "MAX_SKETCHED",
    "MAX_SKETCH_BYTES",
    "Bins",
    "Sketches",
    "decode_sketches",
    "encode_sketches",
]

MAX_SKETCHED: Final = 512
"""Greatest number of features in one block of encoded sketches."""
MAX_BINS: Final = 40
"""Greatest number of bins: 512 features with the greatest counts stay below :data:`MAX_SKETCH_BYTES`."""
MAX_SKETCH_BYTES: Final = 150 * 1024
"""Greatest size of encoded sketches."""
_MAX_COUNT: Final = 2**32 - 1
_VERSION: Final = 1
_MOMENTS: Final = struct.Struct("<ddff")

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sketches:
    """The sketches of some features. The first axis of every array is the feature.

    Rows of ``counts`` are padded with zeros to the greatest number of bins.
    """

    counts: Counts
    """[feature, bin]: number of values in each bin."""
    bins: Counts
    """[feature]: number of its bins."""
    missing: Counts
    """[feature]: number of values that were not finite."""
    mean: Floats
    """[feature]: mean of the finite values; 0 where there are none."""
    m2: Floats
    """[feature]: sum of squared deviations from the mean."""
    low: Floats
    """[feature]: least value; infinity where there are none."""
    high: Floats
    """[feature]: greatest value; minus infinity where there are none."""

    @property
    def n(self) -> Counts:
        """[feature]: number of finite values."""
        total: Counts = self.counts.sum(axis=1)
        return total

    def __len__(self) -> int:
        return len(self.counts)

    def part(self, features: slice) -> Sketches:
        """The sketches of the features in the slice ``features``."""
        return Sketches(
            self.counts[features], self.bins[features], self.missing[features], self.mean[features],
            self.m2[features], self.low[features], self.high[features],
        )  # fmt: skip

    def merged(self, other: Sketches) -> Sketches:
        """The sketches of the windows of both.

        Raises:
            ValueError: the features or their numbers of bins differ.
        """
        if not np.array_equal(self.bins, other.bins):
            raise ValueError("the sketches have other bins: merge sketches of one release only")
        ours, theirs = self.n, other.n
        total = ours + theirs
        part = theirs / np.maximum(total, 1)
        delta = other.mean - self.mean
        return Sketches(
            counts=self.counts + other.counts,
            bins=self.bins,
            missing=self.missing + other.missing,
            mean=self.mean + delta * part,
            m2=self.m2 + other.m2 + delta * delta * ours * part,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )


class Bins:
    """The fixed bins of some features; sketches blocks of windows.

    Args:
        edges: for each feature, 1 to 39 edges, strictly rising as float32.

    Raises:
        ValueError: edges are not finite or do not rise, or there are too few or too many.
    """

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        width = max((len(one) for one in edges), default=1)
        # Nothing finite reaches a padded edge, so its bin stays empty.
        self._edges = np.full((len(edges), width), np.inf, dtype=np.float32)
        for row, one in enumerate(edges):
            with np.errstate(over="ignore"):
                values = np.asarray(one, dtype=np.float32)
            if not 1 <= len(values) < MAX_BINS or not np.all(np.isfinite(values)) or not np.all(np.diff(values) > 0):
                raise ValueError(f"1 to {MAX_BINS - 1} edges, finite and rising as float32, are needed a feature")
            self._edges[row, : len(values)] = values
        self._bins = np.array([len(one) + 1 for one in edges], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._edges)

    def empty(self) -> Sketches:
        """Sketches without any window; merging them changes nothing."""
        features, width = self._edges.shape
        return Sketches(
            counts=np.zeros((features, width + 1), dtype=np.int64),
            bins=self._bins,
            missing=np.zeros(features, dtype=np.int64),
            mean=np.zeros(features),
            m2=np.zeros(features),
            low=np.full(features, np.inf),
            high=np.full(features, -np.inf),
        )

    def sketch(self, values: NDArray[Any]) -> Sketches:
        """The sketches of a block of windows.

        Counts are computed for all features and windows at once: the number of values at or above each edge, and the
        differences between these numbers.

        Args:
            values: [window, feature], compared as float32.

        Raises:
            ValueError: ``values`` has another number of features.
        """
        if values.ndim != 2 or values.shape[1] != len(self):
            raise ValueError(f"values must be [window, {len(self)}], not {list(values.shape)}")
        if not len(values):
            return self.empty()
        with np.errstate(over="ignore"):
            columns = np.ascontiguousarray(values.T, dtype=np.float32)
        finite = np.isfinite(columns)
        complete = bool(finite.all())
        if not complete:
            columns = np.where(finite, columns, np.float32(np.nan))  # NaN reaches no edge
        n = np.full(len(self), columns.shape[1]) if complete else finite.sum(axis=1)
        counts = np.empty((len(self), self._edges.shape[1] + 1), dtype=np.int64)
        reached = (columns[:, None, :] >= self._edges[:, :, None]).sum(axis=2)
        counts[:, 0] = n - reached[:, 0]
        counts[:, 1:-1] = reached[:, :-1] - reached[:, 1:]
        counts[:, -1] = reached[:, -1]
        wide = columns.astype(np.float64)
        if not complete:
            wide[~finite] = 0.0
        mean = wide.sum(axis=1) / np.maximum(n, 1)
        wide -= mean[:, None]
        if not complete:
            wide[~finite] = 0.0
        return Sketches(
            counts=counts,
            bins=self._bins,
            missing=columns.shape[1] - n,
            mean=mean,
            m2=np.einsum("ij,ij->i", wide, wide),
            low=np.fmin.reduce(columns, axis=1, initial=np.inf).astype(np.float64),
            high=np.fmax.reduce(columns, axis=1, initial=-np.inf).astype(np.float64),
        )


def encode_sketches(sketches: Sketches) -> bytes:
    """The wire form of ``sketches``; see the module.

    Raises:
        ValueError: there are more features or greater counts than a reader accepts.
    """
    greatest = max(sketches.counts.max(initial=0), sketches.missing.max(initial=0))
    if len(sketches) > MAX_SKETCHED or greatest > _MAX_COUNT:
        raise ValueError(
            f"there are too many features (at most {MAX_SKETCHED}) or too great counts (at most {_MAX_COUNT})"
        )
    out = bytearray((_VERSION,))
    _put(out, len(sketches))
    for row, total in enumerate(sketches.n):
        bins = int(sketches.bins[row])
        _put(out, bins)
        _put(out, int(sketches.missing[row]))
        for count in sketches.counts[row, :bins].tolist():
            _put(out, count)
        if total:
            out += _MOMENTS.pack(sketches.mean[row], sketches.m2[row], sketches.low[row], sketches.high[row])
    return bytes(out)


def decode_sketches(payload: bytes) -> Sketches:
    """The sketches in ``payload``, which :func:`encode_sketches` made.

    Raises:
        ValueError: ``payload`` is too long, cut short, of another version, beyond a cap, or inconsistent.
    """
    if len(payload) > MAX_SKETCH_BYTES:
        raise ValueError(f"the sketches have {len(payload)} bytes; the cap is {MAX_SKETCH_BYTES}")
    if not payload or payload[0] != _VERSION:
        raise ValueError("these are not sketches of version 1")
    features, at = _get(payload, 1)
    if features > MAX_SKETCHED:
        raise ValueError(f"{features} features; the cap is {MAX_SKETCHED}")
    rows: list[tuple[int, list[int], tuple[float, float, float, float]]] = []
    for _ in range(features):
        row, at = _feature(payload, at)
        rows.append(row)
    if at != len(payload):
        raise ValueError("there are bytes after the last sketch")
    counts = np.zeros((features, max((len(row[1]) for row in rows), default=2)), dtype=np.int64)
    for number, (_, found, _) in enumerate(rows):
        counts[number, : len(found)] = found
    moments = np.array([row[2] for row in rows], dtype=np.float64).reshape(features, 4)
    return Sketches(
        counts=counts,
        bins=np.array([len(row[1]) for row in rows], dtype=np.int64),
        missing=np.array([row[0] for row in rows], dtype=np.int64),
        mean=moments[:, 0].copy(),
        m2=moments[:, 1].copy(),
        low=moments[:, 2].copy(),
        high=moments[:, 3].copy(),
    )


def _feature(payload: bytes, at: int) -> tuple[tuple[int, list[int], tuple[float, float, float, float]], int]:
    bins, at = _get(payload, at)
    if not 2 <= bins <= MAX_BINS:
        raise ValueError(f"{bins} bins; 2 to {MAX_BINS} are possible")
    missing, at = _get(payload, at)
    counts = []
    for _ in range(bins):
        count, at = _get(payload, at)
        counts.append(count)
    if not sum(counts):
        return (missing, counts, (0.0, 0.0, np.inf, -np.inf)), at
    if at + _MOMENTS.size > len(payload):
        raise ValueError("the sketches are cut short")
    mean, m2, low, high = _MOMENTS.unpack_from(payload, at)
    # Rounding may put the mean of float32 values just outside of them.
    slack = 1e-6 * max(abs(low), abs(high))
    if not (np.isfinite([mean, m2, low, high]).all() and m2 >= 0 and low - slack <= mean <= high + slack):
        raise ValueError(
            "the moments of a sketch are inconsistent: m2 < 0, or the mean is not between the least and greatest value"
        )
    return (missing, counts, (mean, m2, low, high)), at + _MOMENTS.size


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get(payload: bytes, at: int) -> tuple[int, int]:
    """The varint at position ``at`` (at most :data:`_MAX_COUNT`), and the position after it."""
    value = shift = 0
    while True:
        if at >= len(payload) or shift > 28:
            raise ValueError("the sketches are cut short, or a count is too great")
        byte = payload[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if value > _MAX_COUNT:
        raise ValueError("a count is too great")
    return value, at
