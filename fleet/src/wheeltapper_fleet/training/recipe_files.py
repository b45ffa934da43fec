"""Recipe files (TOML): which recipe, on which data, with which parameters and seed; and recipes by their names.

    recipe = "remaining-life"
    model = "turbofan-life"
    seed = 0

    [data]
    recordings = ["engines/train-*.npz"]   # beside the recipe file; * stands for any text

    [parameters]
    unit = "cycles"

Invariants:
    * Everything is checked before the first recording is read: an unknown key, recipe or parameter is refused.
    * Recordings are taken in the order of their names, so that the same files give the same model.
    * The manifest's lineage holds recipe, parameters and seed: it can be trained again from its recordings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.runs.recipe_text import MAX_RECIPE_BYTES, Data, RecipeFile, read_recipe
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.fault_classifier import FAULT_CLASSIFIER
from wheeltapper_fleet.training.recipes import GROUP, Job, Recipe, Source
from wheeltapper_fleet.training.remaining_life import REMAINING_LIFE
from wheeltapper_fleet.training.slow_signal import SLOW_SIGNAL
from wheeltapper_fleet.training.variants import formats_for
from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = [
    "Data",
    "Job",
    "RecipeFile",
    "default_parameters",
    "find_recipe",
    "formats_for",
    "open_data",
    "parameters_of",
    "read_recipe_file",
    "recipe_names",
    "recordings_of",
    "train_recipe",
]


class AnomalyParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``anomaly``."""

    healthy_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """How much of each recording, from its start, is healthy."""
    false_alarms: Annotated[float, Meta(ge=0)] = 1.0
    """False alarms that are accepted in 1,000 machine-hours."""
    condition: Annotated[str, Meta(max_length=64)] = ""
    """The channel that says the operating condition; empty: there is one; ``auto``: the channel is found."""
    baseline: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Each device learns its own machine in so many windows; 0: it learns nothing. By default it does where there is
    vibration of two machines or more."""


class _Anomaly:
    """Learns healthy windows; everything else is an anomaly."""

    name: Final = "anomaly"
    parameters: Final = AnomalyParameters

    def train(self, recordings: Sequence[Source], parameters: AnomalyParameters, job: Job) -> Manifest:
        """Train an autoencoder of the windows' features; see :mod:`wheeltapper_fleet.training.anomaly`."""
        return train_anomaly(
            recordings,
            healthy_fraction=parameters.healthy_fraction,
            false_alarms=parameters.false_alarms,
            condition=parameters.condition,
            baseline_windows=parameters.baseline,
            out=job.out,
            formats=job.formats,
            origin=dict(job.lineage),
            model=job.model,
            seed=job.seed,
            replace=job.replace,
            progress=job.progress,
            done=job.done,
            warn=job.warn,
            shown=job.shown,
        )


_BUILT_IN: Final[tuple[Recipe, ...]] = (_Anomaly(), FAULT_CLASSIFIER, REMAINING_LIFE, SLOW_SIGNAL)


def recipe_names() -> list[str]:
    """The names of all recipes, those of other packages included."""
    return sorted({recipe.name for recipe in _BUILT_IN} | {point.name for point in entry_points(group=GROUP)})


def find_recipe(name: str) -> Recipe:
    """The recipe that is called ``name``; one of Wheeltapper's own goes first.

    Raises:
        TrainingError: ``recipe.unknown``: no recipe has this name; ``recipe.load``: another package's cannot be used.
    """
    for recipe in _BUILT_IN:
        if recipe.name == name:
            return recipe
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        known = ", ".join(recipe_names())
        raise TrainingError("recipe.unknown", f"there is no recipe {name!r}; choose of {known}, or install its package")
    try:
        found = points[0].load()
    except Exception as error:  # a package of others may fail in any way
        why = f"the recipe {name!r} of {points[0].value} cannot be loaded: {error}; reinstall its package"
        raise TrainingError("recipe.load", why) from error
    if not isinstance(found, Recipe) or found.name != name:
        why = f"{points[0].value} is no recipe that is called {name!r}: it needs name, parameters and train()"
        raise TrainingError("recipe.load", why)
    return found


def parameters_of(recipe: Recipe, given: dict[str, Any]) -> Any:
    """The parameters of a recipe, those that are not given by default.

    Raises:
        TrainingError: ``recipe.parameters``.
    """
    fields = {field.encode_name for field in msgspec.structs.fields(recipe.parameters)}
    unknown = sorted(set(given) - fields)
    if unknown:
        known = ", ".join(sorted(fields)) or "none"
        why = f"the recipe {recipe.name!r} has no parameter {unknown[0]!r}; it has {known}"
        raise TrainingError("recipe.parameters", why)
    try:
        return msgspec.convert(given, recipe.parameters)
    except (msgspec.ValidationError, ValueError) as error:
        raise TrainingError("recipe.parameters", f"parameters of {recipe.name!r}: {error}") from error


def default_parameters(recipe: Recipe) -> dict[str, str]:
    """The parameters of a recipe, each with its default as JSON; ``required`` where there is none."""
    found = {}
    for field in msgspec.structs.fields(recipe.parameters):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        required = default is msgspec.NODEFAULT
        found[field.encode_name] = "required" if required else msgspec.json.encode(default).decode()
    return found


def read_recipe_file(path: Path) -> RecipeFile:
    """Read a recipe file.

    Raises:
        TrainingError: ``recipe.malformed``, and those of :func:`find_recipe` and :func:`parameters_of`.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise TrainingError("recipe.malformed", f"{path.name} is too large to be a recipe")
    try:
        made = read_recipe(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise TrainingError("recipe.malformed", f"{path.name} is no recipe: {error}") from error
    recipe = find_recipe(made.recipe)
    parameters_of(recipe, made.parameters)
    if made.search is not None and (unknown := sorted(set(made.search.parameters) - set(default_parameters(recipe)))):
        why = f"[search.parameters] names {unknown[0]!r}, which the recipe {recipe.name!r} does not have"
        raise TrainingError("recipe.parameters", why)
    return made


def open_data(data: Data, folder: Path) -> tuple[list[Source], dict[str, str]]:
    """What to train on, and what the lineage says of it.

    Raises:
        TrainingError: ``recipe.data``.
        DatasetError: ``dataset.*``.
    """
    if not data.dataset:
        return list(recordings_of(data, folder)), {}
    found = open_dataset(data.dataset, data.store or None)
    side = data.side or found.training_side
    recordings: list[Source] = list(found.recordings(side, data.only))
    if not recordings:
        raise TrainingError("recipe.data", f"the dataset {found.manifest.ref} has no such recordings; see [data]")
    only = ", ".join(f"{name}={value}" for name, value in sorted(data.only.items()))
    return recordings, {**found.lineage, "dataset_side": side or "all"} | ({"dataset_only": only} if only else {})


def recordings_of(data: Data, folder: Path) -> list[Path]:
    """The files that the section ``[data]`` names, each once, in the order of the patterns and then of their names.

    Args:
        data: the section.
        folder: that of the recipe file.

    Raises:
        TrainingError: ``recipe.data``: a pattern matches no file.
    """
    found: list[Path] = []
    for text in data.recordings:
        path = Path(text)
        root = Path(path.anchor) if path.is_absolute() else folder
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else text
        matched = sorted(each for each in root.glob(pattern) if each.is_file())
        if not matched:
            raise TrainingError("recipe.data", f"{text!r} names no file below {root}; correct recordings in [data]")
        found += [each for each in matched if each not in found]
    return found


def train_recipe(name: str, given: dict[str, Any], recordings: Sequence[Source], job: Job) -> Manifest:
    """Train the recipe ``name`` with the parameters ``given``.

    Raises:
        TrainingError: ``recipe.*``, and what the recipe raises; nothing was written.
    """
    recipe = find_recipe(name)
    parameters = parameters_of(recipe, given)
    written = msgspec.json.encode(msgspec.to_builtins(parameters), order="deterministic").decode()
    if len(written) > 10_000:
        written = f"sha256 {hashlib.sha256(written.encode()).hexdigest()}"
    job = replace(job, lineage=(*job.lineage, ("parameters", written)))
    made = recipe.train(recordings, parameters, job)
    if "tflite" in job.formats and made.variants is None and "tflite" not in made.lineage:
        job.warn(f"the recipe {name!r} makes no TFLite file: the release is in ONNX only")
    return made
