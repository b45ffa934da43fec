"""Mergeable sketches of features: for each a histogram over frozen bins, and moments.

A sketch of many windows is the sum of the sketches of its parts, in any order: from a block of windows to a device's
period, from devices to a site, from sites to the fleet. Bins never move: they are the quantiles of the training data,
frozen in the manifest (:mod:`drift`), so only sketches of one release can be merged.

Feature ``f`` has edges ``e[0] < e[1] < … < e[k-1]`` and k + 1 bins: bin 0 holds ``x < e[0]``, bin i holds
``e[i-1] <= x < e[i]``, bin k holds ``x >= e[k-1]``. Values are compared as float32, as features are. What is not finite
is counted as ``missing`` and nowhere else.

The moments (mean, and ``m2``, the sum of squared deviations from it) merge as in Chan, Golub and LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", STAN-CS-79-773 (1979), equation 2.1.

Wire form (:func:`encode_sketches`), all little endian: the byte 1, the number of features as a varint, and a feature:
the number of bins, the missing, and a count a bin, as varints (LEB128); where some count is above 0 also mean and m2 as
float64 and least and greatest value as float32. With b bins a feature takes at most 2 + 5 (b + 1) + 24 bytes.

Invariants:
    * Merging is associative and commutative: exactly for counts, missing, least and greatest, and to rounding
      (float64) for mean and m2.
    * :func:`decode_sketches` accepts nothing that is not whole, within the caps and consistent; nothing but
      :class:`ValueError` escapes it.

What this module does not do: compare with a reference (:mod:`drift`), know which feature is which.
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
"""Features in one encoded block of sketches."""
MAX_BINS: Final = 40
"""So that 512 features with the greatest counts stay below :data:`MAX_SKETCH_BYTES`."""
MAX_SKETCH_BYTES: Final = 150 * 1024
_MAX_COUNT: Final = 2**32 - 1
_VERSION: Final = 1
_MOMENTS: Final = struct.Struct("<ddff")

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sketches:
    """The sketches of some features; the first axis of everything is the feature.

    Rows of ``counts`` are padded with zeros to the feature with the most bins.
    """

    counts: Counts
    """[feature, bin]"""
    bins: Counts
    """[feature]: how many bins it has."""
    missing: Counts
    """[feature]: values that were not finite."""
    mean: Floats
    m2: Floats
    """Sum of squared deviations from the mean."""
    low: Floats
    """The least value; infinite where there was none. ``high`` likewise."""
    high: Floats

    @property
    def n(self) -> Counts:
        """[feature]: finite values."""
        total: Counts = self.counts.sum(axis=1)
        return total

    def __len__(self) -> int:
        return len(self.counts)

    def part(self, features: slice) -> Sketches:
        """The sketches of some of the features."""
        return Sketches(
            self.counts[features], self.bins[features], self.missing[features], self.mean[features],
            self.m2[features], self.low[features], self.high[features],
        )  # fmt: skip

    def merged(self, other: Sketches) -> Sketches:
        """The sketches of both.

        Raises:
            ValueError: the features or their numbers of bins differ.
        """
        if not np.array_equal(self.bins, other.bins):
            raise ValueError("the sketches have other bins: they are of different releases")
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
    """The frozen edges of some features, ready to sketch blocks of windows.

    Args:
        edges: of each feature, rising strictly as float32, 1 to 39 of them.

    Raises:
        ValueError: edges are not finite, do not rise, or are too few or too many.
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
        """Sketches of nothing: the neutral element of merging."""
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
        """The sketches of ``values`` [window, feature], compared as float32.

        All features and windows at once: how many values reach each edge, then differences.

        Raises:
            ValueError: the number of features is another.
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
    """The wire form.

    Raises:
        ValueError: more features or greater counts than a reader accepts.
    """
    greatest = max(sketches.counts.max(initial=0), sketches.missing.max(initial=0))
    if len(sketches) > MAX_SKETCHED or greatest > _MAX_COUNT:
        raise ValueError("the sketches have too many features or too great counts")
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
    """Read the wire form.

    Raises:
        ValueError: it is too long, cut short, of another version, beyond a cap, or contradicts itself.
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
        raise ValueError("there is something after the last sketch")
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
    # The mean of float32 values, rounded, may lie outside them by a rounding.
    slack = 1e-6 * max(abs(low), abs(high))
    if not (np.isfinite([mean, m2, low, high]).all() and m2 >= 0 and low - slack <= mean <= high + slack):
        raise ValueError("the moments of a sketch contradict themselves")
    return (missing, counts, (mean, m2, low, high)), at + _MOMENTS.size


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get(payload: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, and where it ends; at most :data:`_MAX_COUNT`."""
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
