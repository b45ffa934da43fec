"""``wheeltapper train``: train a model on recordings, and import public data sets as recordings. Needs no service.

The options of ``train anomaly --recording … --healthy-fraction … --out …`` are kept stable, because evaluations by
others run this command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheeltapper_fleet.cli.support import BAD_INPUT, fail, failures, parse_tags, print_json, printable
from wheeltapper_fleet.cli.table_options import (
    Channels,
    Decimal,
    Delimiter,
    Header,
    Missing,
    SampleRateHz,
    Scale,
    SkipRows,
    TimeColumn,
    TimeFormat,
    TimeUnit,
    Units,
    WindowSamples,
)

if TYPE_CHECKING:
    from wheeltapper_protocols.manifest.manifest import Manifest
    from wheeltapper_protocols.signal.recording import Recording

__all__ = ["train_app"]

train_app = typer.Typer(help="Train models; needs no fleet service.", no_args_is_help=True)


@train_app.callback()
def _train() -> None:
    """Train models; needs no fleet service."""


@train_app.command("anomaly")
def anomaly(
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    recording: Annotated[
        list[Path] | None,
        typer.Option(help="A recording (.npz, .csv, .tsv, .parquet, .wav), or with --import its source; repeatable."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Instead of recordings: NAME[@VERSION] of a dataset; its side train, if it has one."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Of a dataset: only items with the label or condition NAME=VALUE; repeatable."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Of a dataset: where it is; see `wheeltapper dataset list`.")
    ] = None,
    healthy_fraction: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="How much of each recording, from its start, is healthy.")
    ] = 0.1,
    false_alarms: Annotated[
        float, typer.Option(min=0.0, help="False alarms that are accepted in 1,000 machine-hours; limits follow.")
    ] = 1.0,
    condition: Annotated[
        str, typer.Option(help="The channel that says the operating condition, e.g. speed, or auto: it is found.")
    ] = "",
    baseline: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Each device learns its own machine in so many windows; 0: in none. Default: of two machines or more, "
            "as many windows as each has, at most 300.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model's name.")] = "bearing-anomaly",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same model.")] = 0,
    tflite: Annotated[
        bool, typer.Option("--tflite", help="Also as TFLite, for boards without ONNX Runtime; needs a runtime of it.")
    ] = False,
    source: Annotated[str | None, typer.Option("--import", help="What the sources are, e.g. femto.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    sample_rate_hz: SampleRateHz = 0.0,
    window_samples: WindowSamples = 0,
    channels: Channels = "",
    units: Units = "",
    scale: Scale = "",
    time_column: TimeColumn = "",
    time_unit: TimeUnit = "s",
    time_format: TimeFormat = "",
    delimiter: Delimiter = "auto",
    decimal: Decimal = ".",
    skip_rows: SkipRows = 0,
    header: Header = True,
    missing: Missing = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Train an autoencoder on healthy data; quantize it; run the gates; write the bundle.

    This function is long because each option is a parameter.
    """
    with failures():
        try:
            from wheeltapper_fleet.training.anomaly import train_anomaly
            from wheeltapper_fleet.training.tables import TableForm
            from wheeltapper_protocols.tables.options import TableOptions
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        options: dict[str, Any] = {"time_unit": time_unit, "decimal": decimal}  # their values are checked there
        table = TableForm(
            sample_rate_hz=sample_rate_hz,
            window_samples=window_samples,
            units=_entries(units),
            scale=_numbers(scale),
            options=TableOptions(
                channels=_entries(channels),
                time_column=time_column,
                time_format=time_format,
                delimiter=delimiter,
                skip_rows=skip_rows,
                header=header,
                missing=tuple(missing or ()),
                **options,
            ),
        )
        with _console() as (show, warn, warnings):
            given, origin = _recordings(recording or [], source, dataset, store, only or [])
            made = train_anomaly(
                given,
                out=out,
                origin=origin,
                healthy_fraction=healthy_fraction,
                false_alarms=false_alarms,
                baseline_windows=baseline,
                condition=condition,
                model=model,
                seed=seed,
                formats=("onnx", "tflite") if tflite else ("onnx",),
                table=table,
                replace=force,
                progress=show,
                warn=warn,
            )
    _print_made(made, out, warnings, as_json)


def _recipe_files() -> Any:
    """The module that knows the recipes; ends the command where the extra is not installed."""
    try:
        from wheeltapper_fleet.training import recipe_files
    except ModuleNotFoundError as error:
        fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
    return recipe_files


@contextmanager
def _console() -> Iterator[tuple[Callable[[str], None], Callable[[str], None], list[str]]]:
    """What shows progress on a terminal, what prints a warning, and the warnings so far."""
    from rich.console import Console

    console, warnings = Console(stderr=True), list[str]()

    def warn(text: str) -> None:
        warnings.append(text)
        console.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)

    with console.status("reading recordings") as status:
        yield status.update, warn, warnings


def _print_made(made: Manifest, out: Path, warnings: list[str], as_json: bool) -> None:
    """Print the gates of a bundle."""
    if as_json:
        import msgspec

        gates = msgspec.to_builtins(made.gates)
        print_json({"bundle": str(out), "model": made.model, "gates": gates, "warnings": warnings})
        return
    for gate in made.gates:
        typer.echo(f"passed  {gate.name}: {gate.value:.4g} (limit {gate.limit:.4g}) {gate.detail}".rstrip())
    typer.echo(f"bundle: {out}")


def _recordings(
    paths: list[Path], source: str | None, dataset: str | None, store: str | None, only: list[str]
) -> tuple[Iterable[Path | Recording], dict[str, str]]:
    """What to train on, and where it is from."""
    if (dataset is None) == (not paths):
        fail("train.recordings", "name either recordings with --recording, or a dataset with --dataset", BAD_INPUT)
    if dataset is None:
        return (list(paths) if source is None else (found for _, found in _imported(source, paths))), {}
    from wheeltapper_fleet.learning.datasets.reading import open_dataset

    found = open_dataset(dataset, store)
    wanted = parse_tags(only)
    side = found.training_side
    origin = {**found.lineage, "dataset_side": side or "all"}
    return found.recordings(side, wanted), origin | ({"dataset_only": ", ".join(sorted(only))} if only else {})


def _entries(text: str) -> tuple[str, ...]:
    """The entries of a list with commas."""
    return tuple(entry.strip() for entry in text.split(",")) if text else ()


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of a list with commas; ends the command if there is another text."""
    try:
        return tuple(float(entry) for entry in _entries(text))
    except ValueError:
        fail("train.scale", f"{text!r} is not a list of numbers such as 9.81,9.81", BAD_INPUT)


@train_app.command("recipe")
def recipe(
    file: Annotated[Path, typer.Argument(help="The recipe file (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Train by a recipe file: which recipe, on which data, with which parameters and seed."""
    with failures(), _console() as (show, warn, warnings):
        files = _recipe_files()
        written = files.read_recipe_file(file)
        if written.search is not None:
            why = f"{file.name} has a [search]: `wheeltapper run start {file.name} --local` carries it out"
            fail("recipe.search", why, BAD_INPUT)
        if written.gates is not None:
            why = f"{file.name} has [gates]: `wheeltapper run start {file.name} --local` judges by them"
            fail("recipe.gates", why, BAD_INPUT)
        if written.train.workers > 1:
            warn(f"one process trains here; `wheeltapper run start {file.name} --local` starts the workers of [train]")
        data, origin = files.open_data(written.data, file.parent)
        job = files.Job(
            out=out, model=written.model, seed=written.seed, replace=force, lineage=tuple(origin.items()),
            formats=files.formats_for(written.formats, written.boards), progress=show, warn=warn,
        )  # fmt: skip
        made = files.train_recipe(written.recipe, written.parameters, data, job)
    _print_made(made, out, warnings, as_json)


@train_app.command("recipes")
def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """List the recipes that recipe files may name, those of other packages included, and their parameters."""
    with failures():
        files = _recipe_files()
        found = [(name, files.default_parameters(files.find_recipe(name))) for name in files.recipe_names()]
    if as_json:
        print_json({"recipes": [{"name": name, "parameters": parameters} for name, parameters in found]})
        return
    for name, parameters in found:
        typer.echo(name)
        for key, value in parameters.items():
            typer.echo(f"  {key} = {value}")


@train_app.command("import")
def import_set(
    kind: Annotated[str, typer.Argument(help="The adapter, e.g. femto.")],
    source: Annotated[list[Path], typer.Option(help="A folder or file of the data set; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the recordings (.npz).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Turn a shared data set into recordings."""
    written = []
    with failures():
        from wheeltapper_protocols.signal.recording import write_recording

        out.mkdir(parents=True, exist_ok=True)
        for name, found in _imported(kind, source):
            target = out / f"{name}.npz"
            if target.exists():
                fail("train.exists", f"{target} is there already; choose another folder", BAD_INPUT)
            write_recording(found, target)
            written.append({"path": str(target), "snapshots": int(found.samples.shape[0])})
            typer.echo(f"{target}: {found.samples.shape[0]} snapshots", err=True)
    if as_json:
        print_json({"recordings": written})


def _imported(kind: str, sources: Sequence[Path]) -> Iterator[tuple[str, Recording]]:
    """Import data sets: (name, recording) for every ``.npz`` in ``sources``, which are files or folders."""
    from wheeltapper_fleet.training.importers import IMPORTERS

    if kind not in IMPORTERS:
        fail("train.import", f"{kind!r} is not known; choose of {', '.join(sorted(IMPORTERS))}", BAD_INPUT)
    for source in sources:
        for path in sorted(source.glob("*.npz")) if source.is_dir() else [source]:
            yield path.stem, IMPORTERS[kind](path)
