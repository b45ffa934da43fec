"""What a recipe file says, read and checked without anything that trains. Pure.

The service reads a recipe this way before it queues a run; training reads the same and checks its parameters too.

Example:
    >>> read_recipe('recipe = "slow-signal"\nmodel = "coolant"\n[data]\ndataset = "coolant@1"\n').data.dataset
    'coolant@1'
"""

from __future__ import annotations

import math
import tomllib
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.learning.errors import TrainingError

__all__ = ["MAX_RECIPE_BYTES", "Data", "Gates", "Mlflow", "Range", "RecipeFile", "Search", "Train", "read_recipe"]

MAX_RECIPE_BYTES: Final = 1024 * 1024


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[data]`` of a recipe file."""

    recordings: Annotated[list[str], Meta(max_length=100_000)] = []
    """Files beside the recipe file, or patterns of their names."""
    dataset: Annotated[str, Meta(max_length=100)] = ""
    """Instead of them: ``NAME`` or ``NAME@VERSION`` of a dataset."""
    side: Annotated[str, Meta(max_length=40)] = ""
    """Of the dataset; by default its side ``train``, or all of it where it has none."""
    only: dict[str, str] = {}
    """Of the dataset: values that a label or the condition of an item must have."""
    store: Annotated[str, Meta(max_length=1000)] = ""
    """Where the dataset is; by default where ``wheeltapper dataset list`` looks."""

    def __post_init__(self) -> None:
        if bool(self.recordings) == bool(self.dataset):
            raise ValueError("data names either recordings or a dataset")
        if self.recordings and (self.side or self.only or self.store):
            raise ValueError("side, only and store belong to a dataset")


class Range(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values of a parameter that a search may try: from ``low`` to ``high``, or one of ``choice``."""

    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choice: Annotated[list[Any], Meta(max_length=100)] = []

    def __post_init__(self) -> None:
        if any(each is not None and not math.isfinite(each) for each in (self.low, self.high, self.step)):
            raise ValueError("low, high and step are finite numbers")
        between = self.low is not None and self.high is not None
        if between == bool(self.choice) or (self.choice and (self.low, self.high, self.step) != (None, None, None)):
            raise ValueError("a range has either low and high, or choice")
        if between and not self.low <= self.high:  # type: ignore[operator]  # between says that neither is None
            raise ValueError("low must not be above high")
        if self.log and (not between or self.low <= 0 or self.step is not None):  # type: ignore[operator]  # as above
            raise ValueError("log needs low above 0, and no step")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")


class Search(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[search]`` of a recipe file: parameters that are chosen by trying."""

    metric: Annotated[str, Meta(min_length=1, max_length=100)]
    """A gate's or a metric's name."""
    direction: Literal["minimize", "maximize"]
    trials: Annotated[int, Meta(ge=1, le=500)] = 20
    seconds: Annotated[float, Meta(gt=0, le=1e6)] = 3600.0
    """The budget of time: what is under way then is ended and counts as pruned, and nothing new begins."""
    parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    """Trials that are chosen together, before any of them is known; they may run at once."""
    seeds: Annotated[int, Meta(ge=1, le=20)] = 1
    """Each trial is trained with so many seeds, from the run's own upward, and judged by their mean."""
    parameters: dict[str, Range] = {}

    def __post_init__(self) -> None:
        if self.trials > 1 and not self.parameters:
            raise ValueError("a search of several trials needs [search.parameters]")


class Train(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[train]`` of a recipe file: how it is trained."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """Processes that fit the nets of a recipe together, each on a part of every batch."""


class Mlflow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[mlflow]`` of a recipe file: where its runs are logged."""

    uri: Annotated[str, Meta(max_length=1000)] = ""
    """Of the tracking server; by default ``MLFLOW_TRACKING_URI``."""
    experiment: Annotated[str, Meta(max_length=200)] = ""
    """By default ``MLFLOW_EXPERIMENT_NAME``, else ``wheeltapper``."""
    register: bool = False
    """Whether a bundle becomes a version of the model in MLflow's registry."""


class Gates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[gates]`` of a recipe file: what is judged on a side of the dataset that nothing was trained on."""

    champion: Annotated[str, Meta(max_length=63)] = ""
    """An alias or the number of a release of the model that the bundle must not be worse than; empty: none."""
    worse: Annotated[float, Meta(ge=0, le=1)] = 0.02
    """How much worse than the champion it may be, with 95 % confidence: in accuracy, AUROC or share of time with a
    false alert, or as a share of the error of always saying the median."""
    worst: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """The worst site, machine or condition keeps at least this share of what the whole has beyond chance; where only
    false alerts are known, it has at most the whole's time with one, over this share, or a tenth of its time."""
    side: Annotated[str, Meta(max_length=40)] = ""
    """Of the dataset; by default ``test``, else ``validation``."""
    label: Annotated[str, Meta(max_length=64)] = ""
    """The label that says what is true; by default the one that the recipe learns, else ``fault``."""
    required: Annotated[list[Literal["champion", "site", "machine", "condition"]], Meta(max_length=4)] = []
    """What fails the run where the data does not allow to judge it."""


class RecipeFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe file, read and checked."""

    recipe: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
    model: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    formats: Annotated[list[Literal["onnx", "tflite"]], Meta(max_length=2)] = []
    """Of the model; by default ONNX, and TFLite where a board of ``boards`` prefers a runtime of it."""
    boards: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=20)] = []
    """Names of board profiles that the model is for."""
    data: Data
    parameters: dict[str, Any] = {}
    gates: Gates | None = None
    train: Train = Train()
    search: Search | None = None
    mlflow: Mlflow | None = None

    def __post_init__(self) -> None:
        if self.search is not None and self.train.workers > 1:
            raise ValueError("trials of a [search] run at once already: leave out workers of [train]")
        if self.formats and "onnx" not in self.formats:
            raise ValueError("formats must name onnx: golden outputs of other formats are compared with those of it")
        if self.gates is not None and self.data.recordings:
            raise ValueError("[gates] needs a dataset: one side of it is trained on, another one judges")
        if self.gates is not None and self.gates.side and self.gates.side == self.data.side:
            raise ValueError("[gates] judges on the side that is trained on: name another one")


def read_recipe(text: str, name: str = "this text") -> RecipeFile:
    """Read the text of a recipe file; ``name`` is what the error calls it.

    Raises:
        TrainingError: ``recipe.malformed``.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise TrainingError("recipe.malformed", f"{name} is too large to be a recipe")
    try:
        return msgspec.convert(tomllib.loads(text), RecipeFile)
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise TrainingError("recipe.malformed", f"{name} is no recipe: {error}") from error
