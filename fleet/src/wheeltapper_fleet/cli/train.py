"""``wheeltapper train``: train a model on recordings, and import public data sets as recordings. Needs no service.

The options of ``train anomaly --recording … --healthy-fraction … --out …`` are kept stable, because evaluations by
others run this command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheeltapper_fleet.cli.support import BAD_INPUT, fail, failures, print_json

if TYPE_CHECKING:
    from wheeltapper_protocols.signal.recording import Recording

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
        try:
            from rich.console import Console

            from wheeltapper_fleet.training.anomaly import train_anomaly
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        with Console(stderr=True).status("reading recordings") as status:
            made = train_anomaly(
                list(recording) if source is None else [found for _, found in _imported(source, recording)],
                out=out,
                healthy_fraction=healthy_fraction,
                model=model,
                seed=seed,
                progress=status.update,
            )
    if as_json:
        import msgspec

        print_json({"bundle": str(out), "model": made.model, "gates": msgspec.to_builtins(made.gates)})
        return
    for gate in made.gates:
        typer.echo(f"passed  {gate.name}: {gate.value:.4g} (limit {gate.limit:.4g}) {gate.detail}".rstrip())
    typer.echo(f"bundle: {out}")


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
