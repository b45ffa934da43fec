"""What recipes measured on data that the model had not seen becomes metrics and plots of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.plots import (
    budget_plot,
    confusion_plot,
    life_plot,
    loss_plot,
    reliability_plot,
    roc_plot,
    score_plot,
)

__all__ = ["Measured"]


class Measured:
    """Implements what recipes call :class:`~wheeltapper_fleet.training.recipes.Shown`.

    Args:
        folder: of the run, which receives the plots.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._losses: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}

    def metric(self, name: str, value: float) -> None:
        """A number; one that is not finite is none."""
        if np.isfinite(value):
            self.metrics[name] = float(value)

    def loss(self, name: str, values: Sequence[float]) -> None:
        """The loss of a net after each epoch."""
        self._losses[name] = [float(value) for value in values]
        self._folder.write_plot("loss", loss_plot(self._losses))

    def classes(self, probabilities: npt.NDArray[Any], classes: npt.NDArray[Any], names: Sequence[str]) -> None:
        """Probabilities [window, class] of windows of machines that were not seen, and their true classes [window]."""
        chosen = probabilities.argmax(axis=1)
        self.metric("accuracy", float(np.mean(chosen == classes)))
        likely = probabilities[np.arange(len(classes)), classes]
        self.metric("log_loss", float(-np.mean(np.log(np.maximum(likely, 1e-12)))))
        self._folder.write_plot("confusion", confusion_plot(chosen, classes, names))
        self._folder.write_plot("roc", roc_plot(probabilities, classes, names))
        self._folder.write_plot("reliability", reliability_plot(probabilities, classes))

    def lives(self, predicted: npt.NDArray[Any], truth: npt.NDArray[Any], unit: str) -> None:
        """Remaining lives [window] that were predicted of machines that were not seen, and the true ones."""
        self.metric("mean_absolute_error", float(np.mean(np.abs(predicted - truth))))
        self.metric("mean_error", float(np.mean(predicted - truth)))
        self._folder.write_plot("remaining-life", life_plot(predicted, truth, unit))

    def scores(
        self, scores: Mapping[str, npt.NDArray[Any]], step_seconds: float, windows: int, per_1000_hours: float | None
    ) -> None:
        """Scores of healthy windows, by machine; see :class:`~wheeltapper_fleet.training.recipes.Shown`."""
        found = {name: np.asarray(each, dtype=float) for name, each in scores.items() if len(each)}
        if not found:
            return
        self.metric("healthy_above", float(np.mean(np.concatenate([*found.values()]) >= 1)))
        self._folder.write_plot("scores", score_plot(found, step_seconds))
        if per_1000_hours is not None:
            self._folder.write_plot("alarm-budget", budget_plot(found, step_seconds, windows, per_1000_hours))
