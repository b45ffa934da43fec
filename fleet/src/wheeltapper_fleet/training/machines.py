"""Several machines of a kind: each is measured by its own baseline, and limits come from what all of them do.

A machine's loudness says little: between machines it differs by more than it rises before a failure. So each device
learns the level and spread of its own machine in its first windows (:mod:`wheeltapper_protocols.decision.baseline`).
Training does the same with each machine's healthy beginning, by the same pure functions; detectors, limits and network
are fitted to what is left when the machines' own values are taken away. Each machine is scored by a fit that did not
see it, and the limits follow from the spread that all machines show around their own baselines.

While a device learns, the fleet's values count. They are so wide that no machine of training alerts by them, and half
as much again: a machine which is only louder than others does not alert, one that is far from all of them does.

Invariants:
    * The same features and seed give the same detectors.
    * The healthy windows of training score as on a device that has learnt its baseline.
    * A scale is never less than the fleet's usual deviation within one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from wheeltapper_fleet.training import autoencoder, budget
from wheeltapper_fleet.training.evidence import Fitted, Kept, folds_of_machines, of_kinds, raised, whitening
from wheeltapper_fleet.training.recipe import decision_for, fit_scoring, patient
from wheeltapper_protocols.decision.baseline import BaselineSpec, BaselineState, adapted, learn
from wheeltapper_protocols.decision.evidence import Detector, DetectorKind, Evidence, EvidenceSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec, transformed
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = ["LEAST_BASELINE", "MOST_BASELINE", "fit_machines"]

LEAST_BASELINE: Final = 16
"""Fewer windows of a machine do not say what is usual for it."""
MOST_BASELINE: Final = 300
"""Windows that a device learns unless training says otherwise: more teach little, and take longer."""
TOGETHER: Final = 0.76
ALONE: Final = 3.3
"""As of one machine (:mod:`evidence`), with limits that all machines share."""
_ALL_FEATURES: Final[dict[DetectorKind, float]] = {"shape": 1.8 / ALONE, "density": 1.5 / ALONE}
"""Factor on the limits of the detectors that have no other to agree with: they need 1.8 and 1.5 times theirs.

With less, machines that training has not seen alerted: 14 of 84 instead of 3 before the onset."""
_DRIFT: Final[dict[DetectorKind, float]] = {
    "level": 0.78, "impulsiveness": 0.72, "modulation": 0.84, "shape": 0.42, "density": 0.54,
}  # fmt: skip
"""How far a healthy machine drifts in its later life, in deviations of its windows: less than is presumed of one
machine alone, because the spread of several is known better."""
_MARGIN: Final = 1.5
"""A machine may differ half as much again as those of training."""
_LEAST_SHIFT: Final = 2.0
"""In deviations within one machine: what machines that happen to be alike cannot show."""
_WIDTH: Final = 0.25
"""The fleet's scale, as a share of how far its machines are apart."""
_TOLERANCE: Final = 4.0
"""How many of the fleet's scales beyond what machines differ by a window may be and still be learnt."""

Values = npt.NDArray[Any]


def fit_machines(
    specs: Sequence[FeatureSpec],
    groups: Sequence[Values],
    seed: int,
    windows_per_hour: float,
    per_1000_hours: float,
    windows: int,
) -> Kept:
    """Fit the detectors and the limits that several machines of a kind share, and what a device may learn of its own.

    Args:
        specs: the features.
        groups: for each machine its healthy features in order, [window, feature]; two or more machines.
        seed: seeds every fit.
        windows_per_hour: how many windows a machine gives in an hour.
        per_1000_hours: the budget of false alarms.
        windows: how many windows a device learns.
    """
    names = tuple(spec.name for spec in specs)
    scoring, baseline = _fleet_values(specs, groups, windows)
    own = [_own_scorer(scoring, baseline, names, group) for group in groups]
    parts = [scorer.model_input(group) for scorer, group in zip(own, groups, strict=True)]
    fitted = _fit(specs, parts, scoring, names, seed)
    held_out = _held_out(specs, parts, scoring, names, seed)
    decision = patient(decision_for(3600.0 / windows_per_hour, specs))
    kinds = [each.kind for each in fitted.spec.detectors]
    drift = np.array([_DRIFT[kind] for kind in kinds])
    limit = budget.shared_limits(held_out, windows_per_hour, per_1000_hours, decision.raise_windows, drift)
    limit *= [_ALL_FEATURES.get(kind, 1.0) for kind in kinds]
    limit *= raised(Evidence(fitted.spec, scoring), [found / limit for found in held_out], decision)
    detectors = [replace(each, limit=float(one)) for each, one in zip(fitted.spec.detectors, limit, strict=True)]
    threshold = float(limit[kinds.index("shape")]) * ALONE
    evidence = Evidence(replace(fitted.spec, detectors=detectors), scoring)
    kept = replace_field(fitted, spec=evidence.spec)
    # While a device learns, none of the machines may alert by the fleet's values, also not slowly.
    scores = [evidence.score(*_in_and_out(kept, group)) for group in groups]
    calm = [budget.sustained(each, decision.fast_windows or decision.raise_windows) for each in scores]
    factor = max(1.0, _MARGIN * float(max(each.max() for each in calm)) / budget.SLOW_REFERENCE)
    scoring = replace(scoring, scale=[value * factor for value in scoring.scale], threshold=threshold)
    baseline = replace(
        baseline,
        shift=[value / factor for value in baseline.shift],
        narrowest=[value / factor for value in baseline.narrowest],
        tolerance=baseline.tolerance / factor,
    )
    kept = replace_field(kept, scorer=Scorer(scoring, names))
    machines = tuple(replace_field(kept, scorer=_own_scorer(scoring, baseline, names, group)) for group in groups)
    scored = tuple(evidence.combined(found / limit) for found in held_out)
    return Kept(kept, scored, machines, baseline)


def _fleet_values(
    specs: Sequence[FeatureSpec], groups: Sequence[Values], windows: int
) -> tuple[ScoringSpec, BaselineSpec]:
    """The fleet's values, and how far a device may go from them."""
    within = fit_scoring(specs, groups)
    log = np.array([kind == "log" for kind in within.transform])
    deviation, center = np.array(within.scale), np.array(within.center)
    values = [transformed(group, log) for group in groups]
    apart = np.abs([np.median(each, axis=0) - center for each in values]).max(axis=0)
    restless = np.max([each.std(axis=0, ddof=1) for each in values], axis=0)
    scale = np.max([deviation, _MARGIN * restless, _WIDTH * apart], axis=0)
    count = len(specs)
    baseline = BaselineSpec(
        windows=windows,
        outside_windows=windows,
        shift=(np.maximum(_MARGIN * apart, _LEAST_SHIFT * deviation) / scale).tolist(),
        spread=[1.0] * count,
        narrowest=(deviation / scale).tolist(),
        widest=[1.0] * count,
        tolerance=_TOLERANCE,
    )
    return replace(within, scale=scale.tolist()), baseline


def _own_scorer(scoring: ScoringSpec, baseline: BaselineSpec, names: tuple[str, ...], group: Values) -> Scorer:
    """What a device has after its machine's first windows, [window, feature]; after all where so many are outside that
    they do not suffice."""
    state = BaselineState()
    for row in Scorer(scoring, names).model_input(group):
        state = learn(baseline, state, row)
        if state.phase != "learning":
            break
    if state.learned >= LEAST_BASELINE // 2:
        state = replace(state, phase="learned")
    return Scorer(adapted(baseline, scoring, state), names)


def _fit(
    specs: Sequence[FeatureSpec],
    parts: Sequence[npt.NDArray[np.float32]],
    scoring: ScoringSpec,
    names: tuple[str, ...],
    seed: int,
) -> Fitted:
    """Fit autoencoder and density to rows of the model's input, [window, feature] for each machine."""
    every = list(range(len(specs)))
    detectors = [*of_kinds(specs, None), Detector(kind="shape", features=every, limit=1.0)]
    scorer = Scorer(scoring, names)
    axes = whitening(parts, scorer, seed)
    if axes is not None:
        detectors.append(Detector(kind="density", features=every, limit=1.0, axes=axes))
    layers = autoencoder.fit(np.concatenate(parts), seed)
    return Fitted(scorer, layers, EvidenceSpec(detectors=detectors, together=TOGETHER, alone=ALONE))


def _held_out(
    specs: Sequence[FeatureSpec],
    parts: Sequence[npt.NDArray[np.float32]],
    scoring: ScoringSpec,
    names: tuple[str, ...],
    seed: int,
) -> list[npt.NDArray[np.float64]]:
    """For each machine the values of its windows, [window, detector], by a fit that did not see the machine."""
    found: list[npt.NDArray[np.float64]] = [np.zeros((0, 0))] * len(parts)
    for fold in folds_of_machines(len(parts)):
        apart = _fit(specs, [part for number, part in enumerate(parts) if number not in fold], scoring, names, seed)
        detectors = Evidence(apart.spec, scoring)
        for number in fold:
            found[number] = detectors.values(parts[number], autoencoder.reconstruct(apart.layers, parts[number]))
    return found


def _in_and_out(fitted: Fitted, features: Values) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rows = fitted.rows(features)
    return rows, autoencoder.reconstruct(fitted.layers, rows)
