"""Adds to a draft what the fleet needs to estimate the quality of a release without labels.

The sections ``drift`` (of the score alone, for a model of raw samples) and ``estimation``
(:mod:`wheeltapper_protocols.drift.estimation`), both from windows whose machine the scoring net had not seen. Devices
report sketches of the score as for every release with the section ``drift``; they need to know nothing new.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from wheeltapper_protocols.drift.drift import DriftSpec, Reference, fit_reference
from wheeltapper_protocols.drift.estimation import fit_estimation
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["with_estimation"]

_HOUR_SECONDS = 3600.0


def with_estimation(
    draft: Manifest,
    scores: npt.NDArray[Any],
    machines: npt.NDArray[Any],
    healthy: npt.NDArray[Any],
    *,
    right: npt.NDArray[Any] | None = None,
    faults: npt.NDArray[Any] | None = None,
    error: npt.NDArray[Any] | None = None,
) -> Manifest:
    """The draft with the sections ``drift`` and ``estimation``.

    Args:
        draft: of a model of raw samples, without these sections.
        scores: [window], held out; 1.0 is the warning threshold, which becomes an edge between two bins.
        machines: [window].
        healthy: [window] bool: the reference of drift is of these, or of all where there are none, since most of a
            fleet is healthy while classes of a training set are balanced.
        right, faults: [window] bool, of a classifier.
        error: [window], of remaining life.
    """
    reference = _score_reference(scores, healthy if healthy.any() else np.ones(len(scores), dtype=bool))
    windows_an_hour = _HOUR_SECONDS * draft.input.sample_rate_hz / draft.input.window_samples
    drift = DriftSpec(features=[], score=reference, period_windows=int(np.clip(round(windows_an_hour), 16, 1_000_000)))
    section = fit_estimation(reference.edges, scores, machines, right=right, faults=faults, error=error)
    return replace(draft, drift=drift, estimation=section)


def _score_reference(scores: npt.NDArray[Any], healthy: npt.NDArray[Any]) -> Reference:
    """Bins at quantiles of all scores and at the threshold; counts and moments of the healthy ones."""
    found = fit_reference(scores)
    edges = found.edges
    if edges[0] < 1.0 < edges[-1]:
        edges = sorted({*(edge for edge in edges if np.float32(edge) != np.float32(1.0)), 1.0})
    chosen = np.asarray(scores, dtype=np.float32)[healthy].astype(np.float64)
    counts = Bins([edges]).sketch(chosen[:, None]).counts[0]
    return Reference(
        edges=edges, counts=counts.tolist(), mean=float(f"{chosen.mean():.8g}"), deviation=float(f"{chosen.std():.8g}")
    )
