"""A device's own baseline: its level and spread, learnt in its first healthy windows, within limits that are signed.

A release carries what a fleet of machines taught: ``center`` and ``scale`` of the section ``scoring``. One machine is
always somewhat louder or steadier than the fleet. The device learns by how much, and from then on standardises with its
own values. Everything here is in the model's input, ``z = (transform(feature) - center) / scale``: 0 is the fleet's
usual value, 1 is one ``scale``.

* While it learns, scores are those of the fleet's values.
* A window counts as outside where a feature is farther from 0 than ``shift + tolerance * widest * spread``, or where
  the caller says that it is not healthy. It is not learnt: a machine that is already faulty does not become its own
  normal.
* After ``windows`` learnt windows the baseline is learned. After ``outside_windows`` windows outside it is refused, and
  the fleet's values stay.
* What was learnt is applied within the limits: the center moves by at most ``shift``, the scale changes by a factor
  from ``narrowest`` to ``widest``.

Invariants:
    * Pure. It counts windows and knows no time: a clock that jumps and a restart change nothing.
    * Windows one by one and in batches give the same state, whatever the batches are.
    * Once learned or refused, a state never changes.
    * A window with a feature that is no number is neither learnt nor outside.
    * Nothing that a device learns moves a center or a scale beyond the manifest's limits.

Mean and variance are updated one window at a time (Welford, Technometrics 4 (1962) 419-420).

Example:
    >>> spec = BaselineSpec(windows=8, outside_windows=8, shift=[2.0], spread=[1.0], narrowest=[0.5], widest=[2.0])
    >>> state = BaselineState()
    >>> for value in (1.0, 1.2, 0.8, 1.0, 1.2, 0.8, 1.0, 1.0):
    ...     state = learn(spec, state, np.array([value]))
    >>> state.phase, adjustment(spec, state).shift.round(3).tolist()
    ('learned', [1.0])

What this module does not do: keep the state (the agent's ``pipeline.baseline``), decide which windows are healthy.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from msgspec.structs import replace

from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec

__all__ = [
    "Adjustment",
    "BaselineSpec",
    "BaselineState",
    "Phase",
    "adapted",
    "adapted_condition",
    "adjustment",
    "carried_over",
    "learn",
    "windows_left",
]

Phase = Literal["learning", "learned", "refused"]
Limits = Annotated[list[float], Meta(min_length=1, max_length=512)]
Windows = Annotated[int, Meta(ge=8, le=1_000_000)]


class BaselineSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``baseline``. Every list has one entry for each feature, in the manifest's order."""

    windows: Windows
    """Windows that are learnt."""
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """One window in so many is looked at: windows that follow each other closely say the same."""
    outside_windows: Windows
    """After so many windows outside, the baseline is refused."""
    shift: Limits
    """The farthest that the center may move, in units of ``scale``; at least 0."""
    spread: Limits
    """The usual standard deviation of the model's input within one machine of the fleet: it means a factor of 1."""
    narrowest: Limits
    """The least factor on ``scale``; above 0, at most 1. A steady machine must not alert at every small change."""
    widest: Limits
    """The greatest factor on ``scale``; at least 1."""
    tolerance: Annotated[float, Meta(gt=0, le=100)] = 4.0
    """How many spreads beyond ``shift`` a window may be and still be learnt."""

    def __post_init__(self) -> None:
        lists = (self.shift, self.spread, self.narrowest, self.widest)
        if any(len(values) != len(self.shift) for values in lists):
            raise ValueError("shift, spread, narrowest and widest must have one entry a feature")
        if not all(math.isfinite(value) for values in lists for value in values):
            raise ValueError("every number of the section baseline must be finite")
        if min(self.shift) < 0 or min(self.spread) <= 0:
            raise ValueError("shift must be >= 0, and spread > 0")
        if min(self.narrowest) <= 0 or max(self.narrowest) > 1 or min(self.widest) < 1:
            raise ValueError("narrowest must be above 0 and at most 1, and widest at least 1")


class BaselineState(Struct, frozen=True, kw_only=True):
    """What a device has learnt so far. Start with ``BaselineState()``."""

    phase: Phase = "learning"
    seen: int = 0
    """Windows, with those that ``every`` leaves out."""
    learned: int = 0
    """Windows that were learnt."""
    outside: int = 0
    """Windows that were too far away, or not healthy."""
    mean: tuple[float, ...] = ()
    """[feature], of the learnt windows; empty before the first."""
    squares: tuple[float, ...] = ()
    """[feature], the sum of the squared distances from the mean."""


class Adjustment(NamedTuple):
    """How a device's values differ from the fleet's, within the limits."""

    shift: npt.NDArray[np.float64]
    """[feature], of the center, in units of the fleet's ``scale``."""
    ratio: npt.NDArray[np.float64]
    """[feature], factor on the fleet's ``scale``."""
    limited: npt.NDArray[np.bool_]
    """[feature], whether the shift would be greater without its limit."""


def learn(spec: BaselineSpec, state: BaselineState, z: npt.NDArray[Any], healthy: bool = True) -> BaselineState:
    """Take one window into account.

    Args:
        spec: the manifest's section ``baseline``.
        state: the state that the last call returned.
        z: [feature], the model's input for the window, standardised with the fleet's values.
        healthy: False where something else says that the machine is not well, such as its vibration velocity.

    Returns:
        The next state; the same one where it is learned or refused.
    """
    if state.phase != "learning":
        return state
    looked_at = state.seen % spec.every == 0
    state = replace(state, seen=state.seen + 1)
    z = np.asarray(z, dtype=np.float64)
    if not looked_at or not np.isfinite(z).all():
        return state
    reach = np.array(spec.shift) + spec.tolerance * np.array(spec.widest) * np.array(spec.spread)
    if not healthy or (np.abs(z) > reach).any():
        outside = state.outside + 1
        return replace(state, outside=outside, phase="refused" if outside >= spec.outside_windows else "learning")
    count = state.learned + 1
    before = np.array(state.mean or (0.0,) * len(z))
    mean = before + (z - before) / count
    squares = np.array(state.squares or (0.0,) * len(z)) + (z - before) * (z - mean)
    return replace(
        state,
        learned=count,
        mean=tuple(mean.tolist()),
        squares=tuple(squares.tolist()),
        phase="learned" if count >= spec.windows else "learning",
    )


def windows_left(spec: BaselineSpec, state: BaselineState) -> int:
    """The least number of windows until the baseline is learned; 0 where it is learned or refused."""
    return spec.windows - state.learned if state.phase == "learning" else 0


def adjustment(spec: BaselineSpec, state: BaselineState) -> Adjustment:
    """How the device's values differ from the fleet's: not at all unless the baseline is learned."""
    if state.phase != "learned":
        count = len(spec.shift)
        return Adjustment(np.zeros(count), np.ones(count), np.zeros(count, dtype=np.bool_))
    limit, mean = np.array(spec.shift), np.array(state.mean)
    deviation = np.sqrt(np.maximum(np.array(state.squares), 0.0) / max(1, state.learned - 1))
    ratio = np.clip(deviation / np.array(spec.spread), spec.narrowest, spec.widest)
    return Adjustment(np.clip(mean, -limit, limit), ratio, np.abs(mean) > limit)


def adapted(spec: BaselineSpec, scoring: ScoringSpec, state: BaselineState) -> ScoringSpec:
    """The section ``scoring`` with the device's own center and scale; the same one unless the baseline is learned."""
    if state.phase != "learned":
        return scoring
    found = adjustment(spec, state)
    scale = np.array(scoring.scale)
    center = np.array(scoring.center) + found.shift * scale
    return replace(scoring, center=center.tolist(), scale=(scale * found.ratio).tolist())


def adapted_condition(spec: BaselineSpec, section: ConditionSpec, state: BaselineState) -> ConditionSpec:
    """The section ``condition`` with the device's own center and scale in each condition; the same one unless the
    baseline is learned. What a machine differs by is taken for the same in every condition, in units of its scale."""
    if state.phase != "learned":
        return section
    found, scale = adjustment(spec, state), np.array(section.scale)
    center = np.array(section.center) + found.shift * scale
    return replace(section, center=center.tolist(), scale=(scale * found.ratio).tolist())


def carried_over(
    spec: BaselineSpec, scoring: ScoringSpec, state: BaselineState, learned_with: ScoringSpec
) -> BaselineState:
    """What was learnt with one release, for another release with the same features and transforms.

    A refused baseline is not carried over: the limits of the other release may be wider.

    Args:
        spec: the section ``baseline`` of the other release.
        scoring: its section ``scoring``.
        state: what was learnt.
        learned_with: the section ``scoring`` of the release that it was learnt with.

    Raises:
        ValueError: the transforms differ.
    """
    if scoring.transform != learned_with.transform:
        raise ValueError("the releases transform their features in different ways")
    if state.phase == "refused" or not state.learned:
        return BaselineState()
    factor = np.array(learned_with.scale) / np.array(scoring.scale)
    offset = (np.array(learned_with.center) - np.array(scoring.center)) / np.array(scoring.scale)
    return replace(
        state,
        mean=tuple((np.array(state.mean) * factor + offset).tolist()),
        squares=tuple((np.array(state.squares) * factor**2).tolist()),
        phase="learned" if state.learned >= spec.windows else "learning",
    )
