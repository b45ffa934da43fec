"""What a recipe is: it turns recordings into a gated bundle, with parameters of its own.

Wheeltapper's recipes are in this room. Those of others are found by the entry point group :data:`GROUP`.

Example:
    >>> class Loudness:
    ...     name = "loudness"
    ...     parameters = LoudnessParameters  # a msgspec.Struct whose fields have defaults
    ...
    ...     def train(self, recordings, parameters, job) -> Manifest: ...

Invariants:
    * A recipe is a value: what it makes depends on the recordings, the parameters and the seed only.
    * It writes to ``job.out`` by :func:`wheeltapper_fleet.training.bundles.write_bundle`, after its gates have passed.

What this module does not do: find recipes by name, read recipe files (:mod:`recipe_files`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy.typing as npt

from wheeltapper_fleet.training.crew import ALONE, Crew
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["GROUP", "SLOWER", "Job", "Recipe", "Say", "Shown", "Source", "label"]

GROUP: Final = "wheeltapper.recipes"
"""Entry points of this group are recipes: ``name = "package.module:RECIPE"``."""
SLOWER: Final = 3.0
"""So many times as long as in floating point may a window take in 8 bits: the model has a third of the bytes, and what
a busy computer measures must not decide which model comes out of a recipe."""
_LOG = logging.getLogger(__name__)

Say = Callable[[str], None]
Source = Path | Recording
"""A recording, or the file that holds it: one at a time is in memory."""


class Shown(Protocol):
    """Takes what a recipe measured, beside its gates: a run keeps it as metrics and plots."""

    def metric(self, name: str, value: float) -> None:
        """A number, by name."""

    def loss(self, name: str, values: Sequence[float]) -> None:
        """The loss of a net after each epoch."""

    def classes(self, probabilities: npt.NDArray[Any], classes: npt.NDArray[Any], names: Sequence[str]) -> None:
        """Probabilities [window, class] of windows of machines that were not seen, and their true classes [window]."""

    def lives(self, predicted: npt.NDArray[Any], truth: npt.NDArray[Any], unit: str) -> None:
        """Remaining lives [window] that were predicted of machines that were not seen, and the true ones."""

    def scores(
        self, scores: Mapping[str, npt.NDArray[Any]], step_seconds: float, windows: int, per_1000_hours: float | None
    ) -> None:
        """Scores of healthy windows, by machine.

        Args:
            scores: [window] of each, in order; 1 is the threshold of a warning.
            step_seconds: from one window to the next.
            windows: so many in a row above the threshold raise an alert.
            per_1000_hours: the budget of false alarms; None: there is none.
        """


class _Unshown:
    """Keeps nothing: a recipe that is trained without a run."""

    def metric(self, name: str, value: float) -> None:
        pass

    def loss(self, name: str, values: Sequence[float]) -> None:
        pass

    def classes(self, probabilities: npt.NDArray[Any], classes: npt.NDArray[Any], names: Sequence[str]) -> None:
        pass

    def lives(self, predicted: npt.NDArray[Any], truth: npt.NDArray[Any], unit: str) -> None:
        pass

    def scores(
        self, scores: Mapping[str, npt.NDArray[Any]], step_seconds: float, windows: int, per_1000_hours: float | None
    ) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every recipe is told beside its parameters.

    Args:
        out: the bundle's folder.
        model: the model's name.
        seed: seeds everything random.
        replace: whether an older bundle at ``out`` may be replaced.
        formats: of the model; ONNX is always one of them.
        lineage: what the manifest's lineage says beside what the recipe knows.
        progress: is called with a few words at each step.
        done: is called with how much of the training is over, 0 to 1, before the words that belong to it.
        warn: is called with a sentence for each thing that was left out, or that so little data cannot show.
        shown: takes what was measured, for the run's metrics and plots.
        crew: the processes that execute this job together, and fit its nets so.
    """

    out: Path
    model: str
    seed: int = 0
    replace: bool = False
    formats: tuple[str, ...] = ("onnx",)
    lineage: tuple[tuple[str, str], ...] = ()
    progress: Say = lambda text: None
    done: Callable[[float], None] = lambda share: None
    warn: Say = _LOG.warning
    shown: Shown = field(default_factory=_Unshown)
    crew: Crew = ALONE


@runtime_checkable
class Recipe(Protocol):
    """How a model is trained."""

    @property
    def name(self) -> str:
        """What recipe files call it: small letters, digits and hyphens."""

    @property
    def parameters(self) -> type[Any]:
        """A ``msgspec.Struct``: the section ``[parameters]`` of a recipe file, checked before anything is read."""

    def train(self, recordings: Sequence[Source], parameters: Any, job: Job) -> Manifest:
        """Train, run the gates, write the bundle; the manifest says what they measured.

        Raises:
            TrainingError: nothing was written.
        """


def label(recording: Recording, name: str) -> Any:
    """What ``meta["labels"]`` of a recording says of ``name``; None where it says nothing.

    Labels are a list of ``{"name": …, "value": …}``, as datasets give them, or an object by name.
    """
    labels = recording.meta.get("labels", {})
    if isinstance(labels, dict):
        return labels.get(name)
    found = [each.get("value") for each in labels if isinstance(each, dict) and each.get("name") == name]
    return found[0] if found else None
