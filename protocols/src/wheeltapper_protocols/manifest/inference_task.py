"""From windows to the model's input, and from the model's output to scores, for each task.

The score is 1.0 at the warning threshold, whatever the task:

* ``anomaly``: the residual of features that the model reconstructs (``decision.scoring``), or with the section
  ``evidence`` what several detectors say together (``decision.evidence``). Or the root mean square
  residual of raw samples that it reconstructs, over the threshold in the section ``anomaly``. Or a number that the
  model returns, over that threshold.
* ``classification``: the probability that the class is none of ``normal``, over ``threshold``. The label is the
  likeliest class.
* ``remaining_life``: ``warn_at`` over the life that remains, which counts at least :data:`LEAST_LIFE` of ``warn_at``.

Invariants:
    * Pure. The score of a window does not depend on the windows beside it.
    * An output of the wrong shape is refused.
    * Where the manifest allows channels to be missing (``missing_channels``), their features count as usual for the
      model, and the score is that of the other features alone (with ``evidence``: of the detectors that look at
      others). With more missing it is NaN.
    * Where a model overflows on complete input, the anomaly is the greatest score (:data:`SCORE_LIMIT`): the loudest
      fault is not silent. Anything else that is not finite, such as NaN or a life without end, gives a NaN score.

What this module does not do: run the model, decide (``decision.decision``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from wheeltapper_protocols.decision.baseline import BaselineState, adapted, adapted_condition
from wheeltapper_protocols.decision.condition import UNKNOWN, Conditions
from wheeltapper_protocols.decision.decision import SCORE_LIMIT
from wheeltapper_protocols.decision.evidence import Evidence
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import Manifest, RawInput

__all__ = ["LEAST_LIFE", "InferenceTask", "Prediction", "raw_input", "with_baseline"]

LEAST_LIFE: Final = 1e-3
"""Least remaining life, as a share of ``warn_at``: the score is at most 1,000."""

_PROBABILITY_SLACK: Final = 0.05
"""Probabilities may be off by this much, as those of quantised models are."""

Floats = npt.NDArray[np.float64]


class Prediction(Struct, frozen=True):
    """The scores of some windows, with what else the task gives."""

    score: Floats
    """[window] float64; 1.0 is the warning threshold."""
    labels: list[str | None] | None = None
    """[window], the likeliest class, for ``classification``; None where the window has no score."""
    values: Floats | None = None
    """[window] float64, the life that remains in the manifest's unit, for ``remaining_life``."""


class InferenceTask:
    """The task of a manifest, ready to be computed.

    Args:
        manifest: the manifest of a bundle.

    Raises:
        ValueError: the manifest lacks a section that the task needs.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.names = tuple(spec.name for spec in manifest.features)
        self.scorer = Scorer(manifest.scoring, self.names) if manifest.scoring is not None and self.names else None
        if manifest.raw is None and self.scorer is None:
            raise ValueError("features need the section scoring")
        self.evidence: Evidence | None = None
        if manifest.evidence is not None and manifest.scoring is not None:
            self.evidence = Evidence(manifest.evidence, manifest.scoring)
        self.conditions: Conditions | None = None
        if manifest.condition is not None and self.scorer is not None:
            self.conditions = Conditions(manifest.condition, self.scorer)
        self._raw = manifest.raw
        self._manifest = manifest
        self._channel_of = np.array([spec.channel for spec in manifest.features], dtype=np.intp)
        self._read = {
            "anomaly": self._anomaly,
            "classification": self._classification,
            "remaining_life": self._remaining_life,
        }[manifest.task]
        section = manifest.classification
        if section is not None:
            self._abnormal = np.array([name not in section.normal for name in section.classes])

    @property
    def usual(self) -> Floats:
        """[feature] float64, the usual value of each; empty for raw samples."""
        return self.scorer.usual if self.scorer is not None else np.zeros(0)

    def model_input(self, features: npt.NDArray[np.float32], samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The model's input for some windows, [window, …] float32.

        Args:
            features: [window, feature] float32; not used where the model's input is raw samples.
            samples: [window, sample, channel] in physical units.
        """
        if self._raw is not None:
            return raw_input(self._raw, samples)
        assert self.scorer is not None  # __init__ checks it
        if self.conditions is not None:
            return self.conditions.model_input(features)
        return self.scorer.model_input(features)

    def usual_of(self, features: npt.NDArray[Any]) -> Floats:
        """[feature], the usual values in the condition of one window, of ``features`` [feature]."""
        return self.usual if self.conditions is None else self.conditions.usual(features)

    def in_known_conditions(self, found: Prediction, features: npt.NDArray[Any]) -> Prediction:
        """``found`` without the scores of windows in a condition that the release does not know; they are labelled so.

        Args:
            found: from :meth:`read`.
            features: [window, feature] of the same windows.
        """
        if self.conditions is None:
            return found
        said = features[:, self.conditions.spec.features]
        unknown = (self.conditions.find(features) < 0) & np.isfinite(said).all(axis=1)
        if not unknown.any():
            return found
        labels = [UNKNOWN if one else None for one in unknown]
        return Prediction(np.where(unknown, np.nan, found.score), labels, found.values)

    def set_missing_to_usual(self, model_input: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_] | None:
        """Set the features of channels that are missing to their usual value, in windows that may do without them.

        Args:
            model_input: [window, feature], from :meth:`model_input`; changed in place.

        Returns:
            [window, feature], which were set; None if none was.
        """
        allowed = self._manifest.missing_channels
        if not allowed:
            return None
        missing = np.isnan(model_input)
        if not missing.any():
            return None
        for row in np.flatnonzero(missing.any(axis=1)):
            if len(np.unique(self._channel_of[missing[row]])) > allowed or missing[row].all():
                missing[row] = False
        if not missing.any():
            return None
        model_input[missing] = 0.0
        return missing

    def read(
        self,
        model_input: npt.NDArray[np.float32],
        output: npt.NDArray[Any],
        missing: npt.NDArray[np.bool_] | None = None,
    ) -> Prediction:
        """The scores in the model's output.

        Args:
            model_input: [window, …], from :meth:`model_input`.
            output: [window, …], the model's output for it.
            missing: [window, feature], from :meth:`set_missing_to_usual`.

        Raises:
            ValueError: the output has not the shape that the task needs, or its values are no probabilities.
        """
        if missing is not None and output.shape == model_input.shape:
            output = np.where(missing, model_input, output)  # no residual, and so no part of the score
        found = self._read(model_input, output)
        if missing is not None and self.scorer is not None and self.evidence is None:
            found = replace(found, score=found.score * self._scale_of_others(missing))
        finite = np.isfinite(found.score)
        if finite.all():
            return found
        score = np.where(finite, found.score, np.nan)
        if self._manifest.task == "anomaly":
            score[~finite & self._overflows(model_input, output)] = SCORE_LIMIT
        return Prediction(score, found.labels, found.values)

    def _scale_of_others(self, missing: npt.NDArray[np.bool_]) -> Floats:
        """[window], what the score of the features that are there is to be multiplied by, to be a mean over them."""
        assert self.scorer is not None  # the caller has looked
        weight = np.array(self.scorer.spec.weight) / sum(self.scorer.spec.weight)
        there = np.where(missing, 0.0, weight).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(there > 0, 1.0 / np.sqrt(there), np.nan)

    def _overflows(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each window, bool [window], is complete and its anomaly is beyond every number.

        A reconstruction that is infinite anywhere is infinitely far away, whatever its other values are.
        """
        given, found = (values.reshape(len(values), -1) for values in (model_input, output))
        section = self._manifest.anomaly
        beyond = np.isposinf(found) if section is not None and section.output == "score" else np.isinf(found)
        return np.asarray(beyond.any(axis=1) & ~np.isnan(given).any(axis=1))

    def _anomaly(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        section = self._manifest.anomaly
        if section is not None and section.output == "score":
            return Prediction(_column(output, len(model_input)) / section.threshold)
        if output.shape != model_input.shape:
            raise ValueError(
                f"the model's output is {list(output.shape)}; it must have its input's shape {list(model_input.shape)}"
            )
        if self.evidence is not None:
            return Prediction(self.evidence.score(model_input, output))
        if section is None:
            assert self.scorer is not None  # the manifest has one of the two sections
            return Prediction(self.scorer.score(model_input, output).score)
        with np.errstate(over="ignore", invalid="ignore"):
            residual = np.subtract(model_input, output, dtype=np.float64).reshape(len(model_input), -1)
            return Prediction(np.sqrt(np.mean(residual * residual, axis=1)) / section.threshold)

    def _classification(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        section = self._manifest.classification
        assert section is not None  # the manifest checks it
        wanted = (len(model_input), len(section.classes))
        if output.shape != wanted:
            raise ValueError(
                f"the model's output has the shape {list(output.shape)}; {wanted[1]} classes need {list(wanted)}"
            )
        values = np.array(output, dtype=np.float64)
        if section.output == "logits":
            certain = np.isposinf(values)
            alone = (certain.sum(axis=1) == 1) & ~np.isnan(values).any(axis=1)
            values[alone] = np.where(certain[alone], 0.0, -np.inf)  # the limit of the softmax: one class is certain
            with np.errstate(invalid="ignore"):
                values -= values.max(axis=1, keepdims=True)
            np.exp(values, out=values)
            values /= values.sum(axis=1, keepdims=True)
        total = values.sum(axis=1)
        valid = np.isfinite(total)
        if section.output == "probabilities":
            _check_probabilities(values[valid], total[valid])
        score = np.where(valid, values @ self._abnormal, np.nan) / section.threshold
        best = values.argmax(axis=1)
        labels = [section.classes[i] if good else None for i, good in zip(best, valid, strict=True)]
        return Prediction(score, labels=labels)

    def _remaining_life(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        section = self._manifest.remaining_life
        assert section is not None  # the manifest checks it
        given = _column(output, len(model_input)) * section.scale
        values = np.where(np.isfinite(given), np.clip(given, 0.0, section.cap), np.nan)
        return Prediction(section.warn_at / np.maximum(values, LEAST_LIFE * section.warn_at), values=values)


def with_baseline(manifest: Manifest, state: BaselineState) -> Manifest:
    """The manifest with a device's own center and scale, as its section ``baseline`` allows; the same one where nothing
    is learned."""
    spec, scoring, condition = manifest.baseline, manifest.scoring, manifest.condition
    if spec is None or scoring is None or state.phase != "learned":
        return manifest
    if condition is not None:
        condition = adapted_condition(spec, condition, state)
    return replace(manifest, scoring=adapted(spec, scoring, state), condition=condition)


def raw_input(section: RawInput, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The model's input from ``samples`` [window, sample, channel]: standardised, float32, in the section's layout."""
    if section.channels != list(range(samples.shape[2])):
        samples = samples[:, :, section.channels]
    x: npt.NDArray[np.float32] = np.asarray(samples, dtype=np.float32)
    if any(section.center):
        x = np.subtract(x, np.array(section.center, dtype=np.float32))
    if any(scale != 1.0 for scale in section.scale):
        x = np.divide(x, np.array(section.scale, dtype=np.float32))
    if section.layout == "flat":
        return np.ascontiguousarray(x.reshape(len(x), -1))
    if section.layout == "channel_sample":
        x = x.transpose(0, 2, 1)
    return np.ascontiguousarray(x)


def _check_probabilities(values: Floats, total: Floats) -> None:
    """Refuse outputs that cannot be probabilities, as those of a model without a softmax. 8-bit steps are tolerated."""
    slack = _PROBABILITY_SLACK + values.shape[1] / 512
    if ((values < -_PROBABILITY_SLACK) | (values > 1 + _PROBABILITY_SLACK)).any() or (abs(total - 1) > slack).any():
        raise ValueError(
            "the model's outputs are no probabilities (0 to 1, sum 1): set output to logits, or export its softmax"
        )


def _column(output: npt.NDArray[Any], windows: int) -> Floats:
    """[window] float64: ``output`` [window] or [window, 1]."""
    if output.shape not in ((windows,), (windows, 1)):
        raise ValueError(
            f"the model's output has the shape {list(output.shape)}; need one number for each of {windows} windows"
        )
    return np.asarray(output, dtype=np.float64).reshape(windows)
