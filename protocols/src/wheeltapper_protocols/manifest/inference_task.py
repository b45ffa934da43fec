"""From a window to the network's input and from its output to a score, for each task: the one place that knows.

The score is 1.0 at the warning threshold, whatever the task:

* ``anomaly``: features that the network reconstructs (:mod:`scoring`); raw samples that it reconstructs (root mean
  square residual over the section ``anomaly``'s threshold); or a number that it gives itself, over that threshold.
* ``classification``: the probability of no ``normal`` class, over ``threshold``; the label is the likeliest class.
* ``remaining_life``: ``warn_at`` over what remains, never more than what :data:`LEAST_LIFE` gives.

Invariants:
    * Pure; a window's score does not depend on the windows beside it.
    * An output of another form than the task asks for is refused; one that is not finite gives a NaN score.

What this module does not do: run the network, decide (:mod:`decision`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import Manifest, RawInput

__all__ = ["LEAST_LIFE", "InferenceTask", "Prediction", "raw_input"]

LEAST_LIFE: Final = 1e-3
"""Remaining lives below this share of ``warn_at`` count as this much: the score ends at 1,000."""

_PROBABILITY_SLACK: Final = 0.05

Floats = npt.NDArray[np.float64]


class Prediction(Struct, frozen=True):
    """What the network said of some windows."""

    score: Floats
    """[window]."""
    labels: list[str | None] | None = None
    """[window], of a classification; None where the window has no score."""
    values: Floats | None = None
    """[window], of a remaining life, in the manifest's unit."""


class InferenceTask:
    """The task of a manifest, precomputed.

    Args:
        manifest: of the bundle.

    Raises:
        ValueError: the manifest cannot be run.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.names = tuple(spec.name for spec in manifest.features)
        self.scorer = Scorer(manifest.scoring, self.names) if manifest.scoring is not None and self.names else None
        if manifest.raw is None and self.scorer is None:
            raise ValueError("features need the section scoring")
        self._raw = manifest.raw
        self._manifest = manifest
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
        """[feature], what is usual for each; empty for raw samples."""
        return self.scorer.usual if self.scorer is not None else np.zeros(0)

    def model_input(self, features: npt.NDArray[np.float32], samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """What the network reads of some windows, float32 [window, …].

        Args:
            features: [window, feature]; not read where the network reads samples.
            samples: [window, sample, channel], physical.
        """
        if self._raw is not None:
            return raw_input(self._raw, samples)
        assert self.scorer is not None  # checked when this was made
        return self.scorer.model_input(features)

    def read(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        """What the network's output says.

        Args:
            model_input: as above.
            output: [window, …] as the task has it.

        Raises:
            ValueError: the output has another form.
        """
        found = self._read(model_input, output)
        finite = np.isfinite(found.score)
        if finite.all():
            return found
        return Prediction(np.where(finite, found.score, np.nan), found.labels, found.values)

    def _anomaly(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        section = self._manifest.anomaly
        if section is not None and section.output == "score":
            return Prediction(_column(output, len(model_input)) / section.threshold)
        if output.shape != model_input.shape:
            raise ValueError(f"the network answers {list(output.shape)} to {list(model_input.shape)}")
        if section is None:
            assert self.scorer is not None  # the manifest has either
            return Prediction(self.scorer.score(model_input, output).score)
        residual = np.subtract(model_input, output, dtype=np.float64).reshape(len(model_input), -1)
        return Prediction(np.sqrt(np.mean(residual * residual, axis=1)) / section.threshold)

    def _classification(self, model_input: npt.NDArray[np.float32], output: npt.NDArray[Any]) -> Prediction:
        section = self._manifest.classification
        assert section is not None  # the manifest sees to it
        wanted = (len(model_input), len(section.classes))
        if output.shape != wanted:
            raise ValueError(f"the network answers {list(output.shape)}; {wanted[1]} classes need {list(wanted)}")
        values = np.array(output, dtype=np.float64)
        if section.output == "logits":
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
        assert section is not None  # the manifest sees to it
        given = _column(output, len(model_input)) * section.scale
        values = np.where(np.isfinite(given), np.clip(given, 0.0, section.cap), np.nan)
        return Prediction(section.warn_at / np.maximum(values, LEAST_LIFE * section.warn_at), values=values)


def raw_input(section: RawInput, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Samples [window, sample, channel] as the network reads them: float32, laid out as ``section`` says."""
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
    """Refuse what cannot be probabilities, as of a network without its softmax; 8-bit steps are tolerated."""
    slack = _PROBABILITY_SLACK + values.shape[1] / 512
    if ((values < -_PROBABILITY_SLACK) | (values > 1 + _PROBABILITY_SLACK)).any() or (abs(total - 1) > slack).any():
        raise ValueError(
            "the network's outputs are no probabilities (0 to 1, together 1): say output: logits, or export its softmax"
        )


def _column(output: npt.NDArray[Any], windows: int) -> Floats:
    """One number a window."""
    if output.shape not in ((windows,), (windows, 1)):
        raise ValueError(f"the network answers {list(output.shape)}; need one number for each of {windows} windows")
    return np.asarray(output, dtype=np.float64).reshape(windows)
