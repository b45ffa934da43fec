"""How a release and fixed limits are judged on a run to failure, by the same decision.

A fixed limit is what a maintenance engineer would set: ``k`` standard deviations above the mean of RMS, peak or
kurtosis in the healthy part, of the channel that is furthest above.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rig import REPOSITORY

from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.evaluate import compute_features
from wheeltapper_fleet.training.recipe import DECISION
from wheeltapper_protocols.decision.decision import DecisionState, step
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec
from wheeltapper_protocols.signal.recording import Recording, write_recording

__all__ = ["DATA", "LIMITS", "SEEDS", "Judged", "fixed_limits", "judge", "replayed", "trained"]

DATA: Final = Path(os.environ.get("WHEELTAPPER_DATA", REPOSITORY.parent / "shared" / "data"))
SEEDS: Final = (0, 1, 2, 3, 4)
LIMITS: Final = tuple((kind, sigma) for kind in ("rms", "peak", "kurtosis") for sigma in (3, 4, 5, 6))
LEAD_MINUTES: Final = 10.0


@dataclass(frozen=True)
class Judged:
    """One run, judged.

    Args:
        ahead: the minutes from the first alert after the healthy part to the end; None: there was none.
        early: minutes of the healthy part during which an alert was on.
    """

    ahead: float | None
    early: float

    @property
    def warned(self) -> bool:
        """Whether the alert came in time."""
        return self.ahead is not None and self.ahead >= LEAD_MINUTES


def judge(alert: npt.NDArray[np.bool_], t_s: npt.NDArray[np.float64], healthy: int) -> Judged:
    """Judge the alerts of a run, bool [snapshot], of which the first ``healthy`` snapshots are healthy."""
    step_minutes = float(np.median(np.diff(t_s))) / 60
    later = np.flatnonzero(alert[healthy:])
    ahead = float(t_s[-1] - t_s[healthy + later[0]]) / 60 if later.size else None
    return Judged(ahead, float(alert[:healthy].sum()) * step_minutes)


def replayed(bundle: Path, recording: Recording) -> npt.NDArray[np.bool_]:
    """Whether the alert is on at each snapshot, as the agent's own replay says, bool [snapshot]."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.npz")
        write_recording(recording, file)
        return np.array([bool(row["alert"]) for row in score_recording(bundle, file)])


def trained(recordings: Sequence[Recording], fraction: float, seed: int, folder: Path) -> Path:
    """The default recipe's bundle in ``folder``."""
    train_anomaly(recordings, healthy_fraction=fraction, out=folder, seed=seed, warn=lambda text: None, replace=True)
    return folder


def fixed_limits(recording: Recording, fraction: float) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """The alerts of each of :data:`LIMITS` over a run, by name."""
    count = len(recording.channels)
    kinds = ("rms", "peak", "kurtosis")
    specs = [FeatureSpec(name=f"{kind}{i}", kind=kind, channel=i) for kind in kinds for i in range(count)]
    features = FeatureSet(specs, recording.sample_rate_hz, recording.window_samples, count)
    table = compute_features(features, recording).astype(np.float64).reshape(recording.snapshots, len(kinds), count)
    healthy = table[: max(2, int(recording.snapshots * fraction))]
    for kind, sigma in LIMITS:
        at = kinds.index(kind)
        above = (table[:, at] - healthy[:, at].mean(axis=0)) / (sigma * healthy[:, at].std(axis=0) + 1e-12)
        yield f"{kind} at {sigma} sigma", _decided(above.max(axis=1))


def _decided(score: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the alert is on at each window, by the decision of the recipe."""
    state, found = DecisionState(), []
    for value in score:
        state, verdict = step(DECISION, state, float(value))
        found.append(verdict.alert)
    return np.array(found)
