"""``wheeltapper train``: from recordings to a bundle, and from shared data sets to recordings. Needs no fleet service.

The form of ``train anomaly --recording … --healthy-fraction … --out …`` is kept stable: others judge the system by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli_support import BAD_INPUT, fail, failures, print_json

__all__ = ["train_app"]

train_app = typer.Typer(help="Train models; needs no fleet service.", no_args_is_help=True)


@train_app.callback()
def _train() -> None:
    """Train models; needs no fleet service."""


@train_app.command("anomaly")
def anomaly(
    recording: Annotated[list[Path], typer.Option(help="A recording (.npz), or with --import its source; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    healthy_fraction: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="How much of each recording, from its start, is healthy.")
    ] = 0.1,
    model: Annotated[str, typer.Option(help="The model's name.")] = "bearing-anomaly",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same model.")] = 0,
    source: Annotated[str | None, typer.Option("--import", help="What the sources are, e.g. femto.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Train an autoencoder on healthy data; quantize it; run the gates; write the bundle."""
    with failures():
        from rich.console import Console

        try:
            from wheeltapper_fleet.training.anomaly import train_anomaly
            from wheeltapper_fleet.training.importers import load_sources
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        console = Console(stderr=True)
        with console.status("reading recordings") as status:
            recordings = load_sources(recording, source)
            result = train_anomaly(
                recordings,
                out=out,
                healthy_fraction=healthy_fraction,
                model=model,
                seed=seed,
                progress=lambda text: status.update(text),
            )
    if as_json:
        print_json(result.as_dict())
    else:
        for gate in result.gates:
            mark = "passed" if gate.passed else "FAILED"
            typer.echo(f"{mark:7} {gate.name}: {gate.value:.4g} (limit {gate.limit:.4g}) {gate.detail}".rstrip())
        typer.echo(f"bundle: {out}")
    if not result.passed:
        fail("train.gates", "not every gate passed; the bundle cannot be published")


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
        from wheeltapper_protocols.recording import write_recording

        from wheeltapper_fleet.training.importers import IMPORTERS

        if kind not in IMPORTERS:
            fail("train.import", f"{kind!r} is not known; choose of {', '.join(sorted(IMPORTERS))}", BAD_INPUT)
        out.mkdir(parents=True, exist_ok=True)
        for folder in source:
            for name, found in IMPORTERS[kind](folder):
                target = out / f"{name}.npz"
                write_recording(found, target)
                written.append({"path": str(target), "snapshots": int(found.samples.shape[0])})
                typer.echo(f"{target}: {found.samples.shape[0]} snapshots", err=True)
    if as_json:
        print_json({"recordings": written})
