"""Which detectors a release has, how they are fitted, and their limits.

The detectors are made of what there is: each level by band, the peak, the impulsiveness (crest and kurtosis) and the
modulation of each channel, the shape (what the autoencoder does not reconstruct) and the density (Mahalanobis; the
covariance by Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
Multivariate Analysis 88 (2004)). None has a weight. The limit of each follows from the budget of false alarms and its
values on healthy windows that its fit did not see (:mod:`budget`): what varies much between machines or in time by
itself has a high limit, and so hardly takes part. Vibration of several machines whose devices learn no baseline is
watched by the shape of its energies alone; where they do, see :mod:`machines`.

Invariants:
    * The same features and seed give the same detectors.
    * No window is scored by a fit that saw its block of time or, with several plants, its plant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from wheeltapper_fleet.training import autoencoder, budget
from wheeltapper_fleet.training.conditions import find_centres, fit_conditions
from wheeltapper_fleet.training.recipe import decision_for, fit_scoring, is_process
from wheeltapper_protocols.decision.baseline import BaselineSpec
from wheeltapper_protocols.decision.condition import Conditions, ConditionSpec
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.evidence import Detector, DetectorKind, Evidence, EvidenceSpec
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = [
    "ALONE",
    "TOGETHER",
    "Fitted",
    "Kept",
    "fit_evidence",
    "folds_of_machines",
    "of_kinds",
    "raised",
    "whitening",
]

TOGETHER: Final = 0.62
"""What two kinds must each reach, as a share of their limits, to warn together."""
ALONE: Final = 2.3
"""What one kind must reach to warn alone, where others could have agreed: a single band of a healthy machine may drift
to twice its limit, by temperature or running-in, and nothing else moves."""
_ALL_FEATURES: Final[dict[DetectorKind, float]] = {"shape": 0.55, "density": 0.6}
"""Factor on the limits of the detectors that look at every feature and so have no other to agree with: they need 1.3
and 1.4 times their limits."""
_ABOVE: Final = 1.01
_MACHINES_LIMIT: Final = 5.2
"""Of several machines: the residual that warns, in healthy deviations, raised by as much as one of the windows. It is
fixed (ADR 6): a machine's healthy start does not say how far it wanders from what others taught."""
_MACHINES_SCALE: Final = (0.1, 0.2)
"""The same: least and greatest healthy deviation on a log scale. With more, ten times the vibration would not warn."""
BLOCKS: Final = 3
"""Blocks of time in the cross-validation of one or two machines."""
_MAX_FOLDS: Final = 5
"""With more machines than this, several are held out together."""
_MACHINES: Final = 3
"""From so many on, machines are held out instead of blocks of time."""
_KINDS: Final[dict[str, DetectorKind]] = {
    "rms": "level", "band_rms": "level", "velocity_rms": "level", "value": "level",
    "peak": "impulsiveness", "crest": "impulsiveness", "kurtosis": "impulsiveness",
    "envelope_rms": "modulation", "bearing_line": "modulation",
}  # fmt: skip
"""What a feature says of the machine. Those that are not here count in shape and density only."""
_ALONE: Final = frozenset({"rms", "band_rms", "velocity_rms", "value", "peak"})
"""Energies and values each have a detector of their own: a rise in one band is not drowned by the others."""
_UNUSED: Final = [Detector(kind="level", features=[0], limit=1.0)]
_MAX_ROWS: Final = 4096
_DRIFT: Final[dict[DetectorKind, float]] = {
    "level": 1.3, "impulsiveness": 1.2, "modulation": 1.4, "shape": 0.7, "density": 0.9,
}  # fmt: skip
"""How far a healthy machine drifts in its later life, in deviations of its windows."""
_PROCESS_DRIFT: Final[dict[DetectorKind, float]] = {
    "level": 0.4, "impulsiveness": 0.4, "modulation": 0.4, "shape": 0.4, "density": 0.0,
}  # fmt: skip
"""The same of process data, whose deviation holds what wanders: the values themselves are looked at."""
_BLOCKS_OF_WANDER: Final = 8
"""Blocks of time of each recording, between which it wanders."""
_WANDER: Final = 30.0
"""How many times the variance between them counts."""
_MAX_DENSITY: Final = 128
"""With more features than this there is no density: its matrix would be longer than a manifest may be."""

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Fitted:
    """A fit of everything that scores, without limits.

    Args:
        scorer: standardises the features.
        layers: the autoencoder.
        spec: the detectors, with a limit of 1 each until limits are found.
        condition: what is usual in which operating condition; None: the scorer's values are, in all.
    """

    scorer: Scorer
    layers: list[autoencoder.Layer]
    spec: EvidenceSpec
    condition: ConditionSpec | None = None

    def rows(self, features: Values) -> npt.NDArray[np.float32]:
        """[window, feature] float32: the model's input for ``features`` [window, feature]."""
        if self.condition is None:
            return self.scorer.model_input(features)
        return Conditions(self.condition, self.scorer).model_input(features)

    def values(self, features: Values) -> npt.NDArray[np.float64]:
        """[window, detector]: the values of ``features`` [window, feature], by the float model."""
        rows = self.rows(features)
        return Evidence(self.spec, self.scorer.spec).values(rows, autoencoder.reconstruct(self.layers, rows))


@dataclass(frozen=True)
class Kept:
    """Detectors with their limits, and how healthy windows score.

    Args:
        fitted: the fit on all healthy windows, its detectors with their limits.
        held_out: for each recording the scores of its healthy windows in order, each by a fit that did not see it.
        own: for each recording the fit with its machine's own values, as its device learns them; empty: they have none.
        baseline: how far a device may go from the fleet's values; None: training has not looked.
    """

    fitted: Fitted
    held_out: tuple[npt.NDArray[np.float64], ...]
    own: tuple[Fitted, ...] = ()
    baseline: BaselineSpec | None = None

    def rows(self, number: int, features: Values) -> npt.NDArray[np.float32]:
        """[window, feature] float32: the model's input for ``features`` [window, feature] of a recording's machine."""
        return (self.own[number] if self.own else self.fitted).rows(features)


def fit_evidence(
    specs: Sequence[FeatureSpec],
    groups: Sequence[Values],
    seed: int,
    windows_per_hour: float,
    per_1000_hours: float,
    said: int | None = None,
) -> Kept:
    """Fit the detectors and find their limits.

    Args:
        specs: the features.
        groups: for each recording its healthy features, [window, feature].
        seed: seeds every fit.
        windows_per_hour: how many windows a machine gives in an hour.
        per_1000_hours: the budget of false alarms.
        said: index of the feature that says the operating condition; None: there is one condition.
    """
    if said is None and len(groups) >= _MACHINES and not is_process(specs):
        return _fit_machines(specs, groups, seed, 3600.0 / windows_per_hour)
    known = find_centres(np.concatenate([group[:, said] for group in groups])) if said is not None else None
    fitted = _fit(specs, groups, seed, said, known)
    values = [np.zeros((len(group), len(fitted.spec.detectors))) for group in groups]
    for spans in _folds(groups, said is None):
        rest = [np.delete(group, np.r_[span], axis=0) for group, span in zip(groups, spans, strict=True)]
        apart = _fit(specs, [group for group in rest if len(group)], seed, said, known)
        for found, group, span in zip(values, groups, spans, strict=True):
            if span.stop > span.start:
                found[span] = apart.values(group[span])
    decision = decision_for(3600.0 / windows_per_hour, specs)
    calm = [budget.smoothed(found, decision.smooth_windows) for found in values]
    kinds = [each.kind for each in fitted.spec.detectors]
    drifts = _PROCESS_DRIFT if is_process(specs) else _DRIFT
    drift = np.array([drifts[kind] for kind in kinds])
    limit = budget.limits(calm, windows_per_hour, per_1000_hours, decision.raise_windows, drift)
    if fitted.spec.alone > 1:
        limit *= [_ALL_FEATURES.get(kind, 1.0) for kind in kinds]
    limit *= raised(Evidence(fitted.spec, fitted.scorer.spec), [found / limit for found in values], decision)
    detectors = [replace(each, limit=float(one)) for each, one in zip(fitted.spec.detectors, limit, strict=True)]
    threshold = float(limit[kinds.index("shape")]) * fitted.spec.alone
    scorer = Scorer(replace(fitted.scorer.spec, threshold=threshold), fitted.scorer.names)
    spec = replace(fitted.spec, detectors=detectors)
    evidence = Evidence(spec, scorer.spec)
    held_out = tuple(evidence.combined(found / limit) for found in values)
    return Kept(replace_field(fitted, scorer=scorer, spec=spec), held_out)


def _fit_machines(specs: Sequence[FeatureSpec], groups: Sequence[Values], seed: int, step_seconds: float) -> Kept:
    """Fit what watches several machines of different loudness: the shape of their energies alone.

    A level says little there: between machines it differs more than it rises before a failure. The autoencoder learns
    how machines differ; its residual is held against a fixed level, as :data:`_MACHINES_LIMIT` says.
    """
    energies = [index for index, spec in enumerate(specs) if spec.kind in _ALONE]

    def fit(parts: Sequence[Values]) -> Fitted:
        spec = fit_scoring(specs, parts)
        log = np.array([kind == "log" for kind in spec.transform])
        scale = np.where(log, np.clip(spec.scale, *_MACHINES_SCALE), spec.scale)
        scorer = Scorer(replace(spec, scale=scale.tolist()), tuple(each.name for each in specs))
        rows = np.concatenate([scorer.model_input(part) for part in parts])
        detectors = [Detector(kind="shape", features=energies, limit=1.0)]
        return Fitted(scorer, autoencoder.fit(rows, seed), EvidenceSpec(detectors=detectors))

    fitted = fit(groups)
    values = [np.zeros((len(group), 1)) for group in groups]
    for spans in _folds(groups, by_machine=False):
        apart = fit([np.delete(group, np.r_[span], axis=0) for group, span in zip(groups, spans, strict=True)])
        for found, group, span in zip(values, groups, spans, strict=True):
            found[span] = apart.values(group[span])
    decision = decision_for(step_seconds, specs)
    limit = _MACHINES_LIMIT * (1 + 1 / sum(map(len, groups)))
    limit *= raised(Evidence(fitted.spec, fitted.scorer.spec), [found / limit for found in values], decision)
    scorer = Scorer(replace(fitted.scorer.spec, threshold=limit), fitted.scorer.names)
    spec = EvidenceSpec(detectors=[replace(fitted.spec.detectors[0], limit=limit)])
    held_out = tuple(found[:, 0] / limit for found in values)
    return Kept(replace_field(fitted, scorer=scorer, spec=spec), held_out)


def raised(evidence: Evidence, values: list[npt.NDArray[np.float64]], decision: DecisionSpec) -> float:
    """How many times as high the limits must be so that no held-out window raises an alert; at least 1."""
    least = 1.0
    for scores in map(evidence.combined, values):
        calm = budget.smoothed(scores, decision.smooth_windows)
        least = max(least, _ABOVE * float(budget.sustained(calm, decision.raise_windows).max()) / decision.raise_level)
        if decision.fast_windows:
            fast = float(budget.sustained(scores, decision.fast_windows).max()) / decision.fast_level
            least = max(least, _ABOVE * fast)
    return least


def _folds(groups: Sequence[Values], by_machine: bool) -> list[list[slice]]:
    """The windows that each fold holds out of each recording: machines, or blocks of time where there are few.

    Recordings of several operating conditions are not machines: blocks of time are held out of each.
    """
    if by_machine and len(groups) >= _MACHINES:
        return [
            [slice(0, len(group) if number in fold else 0) for number, group in enumerate(groups)]
            for fold in folds_of_machines(len(groups))
        ]
    cuts = [np.linspace(0, len(group), BLOCKS + 1).astype(int).tolist() for group in groups]
    return [[slice(cut[block], cut[block + 1]) for cut in cuts] for block in range(BLOCKS)]


def folds_of_machines(count: int) -> list[range]:
    """The machines that each fold holds out together."""
    folds = min(_MAX_FOLDS, count)
    return [range(fold, count, folds) for fold in range(folds)]


def _fit(
    specs: Sequence[FeatureSpec],
    groups: Sequence[Values],
    seed: int,
    said: int | None,
    known: tuple[npt.NDArray[np.float64], float] | None,
) -> Fitted:
    """Fit scoring, conditions, autoencoder and density to healthy features."""
    scorer = Scorer(fit_scoring(specs, groups), tuple(spec.name for spec in specs))
    condition = fit_conditions(specs, groups, said, *known) if said is not None and known is not None else None
    plain = Fitted(scorer, [], EvidenceSpec(detectors=_UNUSED), condition)
    parts = [plain.rows(group) for group in groups]
    layers = autoencoder.fit(np.concatenate(parts), seed)
    every = list(range(len(specs)))
    detectors = of_kinds(specs, said)
    detectors.append(Detector(kind="shape", features=every, limit=1.0))
    axes = whitening(parts, scorer, seed)
    if axes is not None:
        detectors.append(Detector(kind="density", features=every, limit=1.0, axes=axes))
    several = len({each.kind for each in detectors if each.kind not in _ALL_FEATURES}) > 1
    spec = EvidenceSpec(detectors=detectors, together=TOGETHER, alone=ALONE if several else 1.0)
    return Fitted(scorer, layers, spec, condition)


def of_kinds(specs: Sequence[FeatureSpec], said: int | None) -> list[Detector]:
    """A detector for each energy, and one for each channel's impulsiveness and modulation."""
    found: dict[tuple[DetectorKind, int, int], list[int]] = {}
    for index, spec in enumerate(specs):
        kind = _KINDS.get(spec.kind)
        if kind is not None and index != said:
            found.setdefault((kind, spec.channel, index + 1 if spec.kind in _ALONE else 0), []).append(index)
    return [Detector(kind=kind, features=features, limit=1.0) for (kind, _, _), features in found.items()]


def whitening(parts: Sequence[Values], scorer: Scorer, seed: int) -> list[list[float]] | None:
    """[axis, feature]: the whitening of healthy rows, for each recording [window, feature]; None where there are too
    many features.

    The covariance is that within blocks of time, and :data:`_WANDER` times that between them: a direction in which a
    healthy beginning already wanders, as by warmth, is one in which the rest of its life wanders farther (compare von
    Buenau et al., "Finding stationary subspaces in multivariate time series", Phys. Rev. Lett. 103 (2009)).
    """
    if len(scorer.names) > _MAX_DENSITY:
        return None
    within, between = [], []
    for rows in parts:
        z = rows.astype(np.float64)
        z = np.where(z < 0, z * np.array(scorer.spec.down), z)
        blocks = np.array_split(z, max(1, min(_BLOCKS_OF_WANDER, len(z) // 3)))
        means = np.array([block.mean(axis=0) for block in blocks])
        within += [block - mean for block, mean in zip(blocks, means, strict=True)]
        between.append(means - means.mean(axis=0))
    away = np.concatenate(within)
    if len(away) > _MAX_ROWS:
        away = away[np.sort(np.random.default_rng(seed).choice(len(away), _MAX_ROWS, replace=False))]
    wander = np.concatenate(between)
    with threadpool_limits(1):
        covariance = LedoitWolf(assume_centered=True).fit(away).covariance_
        covariance = covariance + _WANDER * (wander.T @ wander) / max(1, len(wander) - len(between))
        variance, axes = np.linalg.eigh(covariance)
    # Seven digits say more than any window does, and keep the manifest short.
    return [[float(f"{value:.7g}") for value in axis] for axis in (axes / np.sqrt(np.maximum(variance, 1e-6))).T]
