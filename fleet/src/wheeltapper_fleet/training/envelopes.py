"""The spectrum of a vibration's envelope as numbers that boosted trees can read, computed within the ONNX graph.

    samples -> carrier bands (FIR) -> squared -> mean of some samples: the squared envelope -> over its mean -> its
    spectrum in groups of bins, as logarithms; beside it the level of each carrier band, and the fourth moment

A fault that is hit again and again shows as lines in it, whatever resonance rings (Randall and Antoni, MSSP 25 (2011)
485-520).

Invariants:
    * The graph computes what :meth:`Envelopes.apply` computes, up to the rounding of floats.
    * The tables of sines are made when the graph is loaded, so they are no bytes of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin

from wheeltapper_fleet.training.onnx_graph import Graph

__all__ = ["Envelopes", "add_envelopes", "plan_envelopes"]

Array = npt.NDArray[np.float32]
_TAPS: Final = 31
_CARRIERS: Final = ((1 / 8, 1 / 2), (1 / 2, 0.999))
"""Bands of resonances, as shares of half of the sample rate."""
_POOL: Final = 4
"""Samples of which the squared envelope is the mean, at least."""
_MOST_POINTS: Final = 512
"""Of the envelope."""
_HIGHEST: Final = 1 / 4
"""Of the envelope's sample rate: the end of the spectrum that is looked at."""
_GROUPS: Final = 20
_TINY: Final = 1e-6
_ROWS: Final = 256


@dataclass(frozen=True)
class Envelopes:
    """How windows of one length become numbers.

    Args:
        taps: [carrier, tap] of the filters.
        pool: samples of one point of the envelope.
        points: of the envelope.
        bins: [bin] of its spectrum, rising.
        groups: [bin, group]: what each group is the mean of.
    """

    taps: Array
    pool: int
    points: int
    bins: Array
    groups: Array

    @property
    def tables(self) -> tuple[Array, Array]:
        """Cosines and sines [point, bin]."""
        turns = np.arange(self.points, dtype=np.float32)[:, None] * (self.bins * np.float32(2 * np.pi / self.points))
        return np.cos(turns), np.sin(turns)

    def apply(self, windows: Array) -> Array:
        """[window, channel * carrier * (group + 1) + channel] of windows [window, sample, channel] of unit size."""
        return np.concatenate([self._part(windows[i : i + _ROWS]) for i in range(0, len(windows), _ROWS)])

    def _part(self, windows: Array) -> Array:
        x = np.ascontiguousarray(windows.transpose(0, 2, 1))
        length = x.shape[2] - self.taps.shape[1] + 1
        band = np.zeros((*x.shape[:2], len(self.taps), length), np.float32)
        for number, tap in enumerate(self.taps.T):
            band += x[:, :, None, number : number + length] * tap[:, None]
        band *= band
        cut = band[..., : self.points * self.pool]
        envelope = cut.reshape(*cut.shape[:3], self.points, self.pool).mean(axis=4) + np.float32(_TINY)
        level = envelope.mean(axis=3, keepdims=True)
        shape = envelope / level
        cosines, sines = self.tables
        power = (shape @ cosines) ** 2 + (shape @ sines) ** 2
        spectrum = np.log(power @ self.groups + np.float32(_TINY))
        lines = np.concatenate([spectrum, np.log(level)], axis=3).reshape(len(x), -1)
        fourth = np.log((x**4).mean(axis=2) + np.float32(_TINY))
        return np.concatenate([lines, fourth], axis=1).astype(np.float32)


def plan_envelopes(samples: int) -> Envelopes:
    """What suits windows of so many samples; at least 256."""
    taps = np.array([firwin(_TAPS, band, pass_zero=False) for band in _CARRIERS], dtype=np.float32)
    length = samples - _TAPS + 1
    pool = max(_POOL, -(-length // _MOST_POINTS))
    points = length // pool
    last = max(3, int(points * _HIGHEST))
    edges = np.unique(np.round(np.geomspace(2, last + 1, _GROUPS + 1)).astype(int))
    bins = np.arange(2, last + 1)
    groups = np.array([(bins >= low) & (bins < high) for low, high in pairwise(edges.tolist())], np.float32)
    groups /= groups.sum(axis=1, keepdims=True)
    return Envelopes(taps, pool, points, bins.astype(np.float32), np.ascontiguousarray(groups.T))


def add_envelopes(graph: Graph, plan: Envelopes, value: str, channels: int, samples: int) -> str:
    """Add what gives the numbers for ``value`` [window, channel, sample]; returns the name of its output.

    Convolutions that stay float are called ``…_output``.
    """
    graph.constant("envelope_taps", plan.taps[:, None, :])
    graph.constant("envelope_tiny", _TINY)
    graph.constant("envelope_one", [-1, 1, samples], np.int64)
    graph.constant("envelope_groups", plan.groups)
    graph.constant("envelope_points", np.arange(plan.points)[:, None])
    graph.constant("envelope_bins", plan.bins[None] * np.float32(2 * np.pi / plan.points))
    graph.add("Mul", ["envelope_points", "envelope_bins"], "envelope_turns")
    graph.add("Reshape", [value, "envelope_one"], "envelope_each")
    graph.add("Conv", ["envelope_each", "envelope_taps"], "envelope_band_output", kernel_shape=[plan.taps.shape[1]])
    graph.add("Mul", ["envelope_band_output", "envelope_band_output"], "envelope_square")
    graph.add("AveragePool", ["envelope_square"], "envelope_mean", kernel_shape=[plan.pool], strides=[plan.pool])
    graph.add("Add", ["envelope_mean", "envelope_tiny"], "envelope")
    graph.add("ReduceMean", ["envelope"], "envelope_level", axes=[2], keepdims=1)
    graph.add("Div", ["envelope", "envelope_level"], "envelope_shape")
    for kind in ("Cos", "Sin"):
        graph.add(kind, ["envelope_turns"], f"envelope_{kind}")
        graph.add("MatMul", ["envelope_shape", f"envelope_{kind}"], f"envelope_{kind}_part")
        graph.add("Mul", [f"envelope_{kind}_part"] * 2, f"envelope_{kind}_square")
    graph.add("Add", ["envelope_Cos_square", "envelope_Sin_square"], "envelope_power")
    graph.add("MatMul", ["envelope_power", "envelope_groups"], "envelope_grouped")
    graph.add("Add", ["envelope_grouped", "envelope_tiny"], "envelope_grouped_up")
    graph.add("Log", ["envelope_grouped_up"], "envelope_spectrum")
    graph.add("Log", ["envelope_level"], "envelope_loudness")
    graph.add("Concat", ["envelope_spectrum", "envelope_loudness"], "envelope_lines", axis=2)
    width = channels * len(plan.taps) * (plan.groups.shape[1] + 1)
    graph.constant("envelope_wide", [-1, width], np.int64)
    graph.add("Reshape", ["envelope_lines", "envelope_wide"], "envelope_row")
    graph.add("Mul", [value, value], "envelope_second")
    graph.add("Mul", ["envelope_second", "envelope_second"], "envelope_fourth_each")
    graph.add("ReduceMean", ["envelope_fourth_each"], "envelope_fourth", axes=[2], keepdims=0)
    graph.add("Add", ["envelope_fourth", "envelope_tiny"], "envelope_fourth_up")
    graph.add("Log", ["envelope_fourth_up"], "envelope_peaked")
    return graph.add("Concat", ["envelope_row", "envelope_peaked"], "envelopes", axis=1)
