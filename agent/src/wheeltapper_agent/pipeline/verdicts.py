"""What a model says of an observed window, and what it means when it says nothing."""

from __future__ import annotations

import math
from typing import TypeAlias

from msgspec.structs import replace

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import Bundle, Evaluation
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_protocols.decision.condition import UNKNOWN
from wheeltapper_protocols.decision.decision import SCORE_LIMIT, DecisionState, count_window
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.quality import is_complete

__all__ = ["Row", "counted", "with_verdict"]

Row: TypeAlias = tuple[Evaluation, int, float, int]
"""One window of an evaluation: the evaluation, the row, the milliseconds that the window took, the number of the call.
"""


def counted(
    state: DecisionState, observation: Observation, manifest: Manifest, form: tuple[int, ...] | None
) -> DecisionState:
    """Return the decision after the window is counted as one with or without a score.

    Windows with missing samples are not counted, nor those that have another shape than ``form`` or are of an operating
    condition that the release does not know: none of them is the model's fault.
    """
    if observation.unknown_condition:
        return state
    scored = observation.score is not None
    if scored:
        known = not state.no_score and not state.counted_windows
        return state if known else count_window(manifest.decision, state, scored)
    samples = observation.window.samples
    if (form is None or samples.shape == form) and is_complete(samples):
        return count_window(manifest.decision, state, scored)
    return state


def with_verdict(
    observation: Observation, bundle: Bundle, state: DecisionState, row: Row
) -> tuple[DecisionState, Observation]:
    """Return the decision after the window, and the observation with features, score and verdict.

    A window without a score is returned as it was. Where its ISO 20816 zone decides all the same, it has a verdict and
    no score.

    Raises:
        AgentError: ``probation.not_finite``: the remaining life is no number.
    """
    evaluation, place, latency_ms, call = row
    following, verdict = bundle.decide(state, evaluation, place)
    score = float(evaluation.scores.score[place])
    known = not math.isnan(score)
    if known and verdict.value is not None and not math.isfinite(verdict.value):
        raise AgentError("probation.not_finite", "the remaining life is not a finite number")
    if not verdict.valid:
        labels = evaluation.scores.labels
        unknown = labels is not None and labels[place] == UNKNOWN
        return state, replace(observation, unknown_condition=True) if unknown else observation
    if not known and verdict.value is not None:
        verdict = replace(verdict, value=None)
    return following, Observation(
        observation.pipeline,
        observation.index,
        observation.window,
        observation.manifest,
        evaluation.features[place],
        max(-SCORE_LIMIT, min(score, SCORE_LIMIT)) if known else None,
        verdict,
        latency_ms,
        call,
        evaluation.missing is not None and bool(evaluation.missing[place].any()),
    )
