"""``wheeltapper trainer``: executes the queued runs of a service on this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import FAILED, fail, open_client, print_json, printable

__all__ = ["trainer"]


def trainer(
    once: Annotated[
        bool, typer.Option("--once", help="Execute one run and end; end at once if none is queued.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where folders of runs are.")] = Path("wheeltapper-runs"),
    store: Annotated[
        str | None, typer.Option(help="Where datasets are: a folder or s3:// URL [default: as the service says].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of this trainer [default: host and process].")] = None,
    executor: Annotated[str, typer.Option(help="Where trials and workers run: local or ray.")] = "local",
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two questions for work.")] = 2.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Execute queued runs of a service, one at a time, until it is told to stop. Needs wheeltapper-fleet[train].

    Its token needs the role trainer. With --once, exit code 1 says that the run failed.
    """
    import os
    import signal
    import socket
    import threading

    stopping = threading.Event()
    with open_client(url, token_file, data_dir) as client:
        try:
            from wheeltapper_fleet.training.recipe_files import recipe_names
            from wheeltapper_fleet.training.runs.trainer import Trainer
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        folder.mkdir(parents=True, exist_ok=True)
        made = Trainer(
            client=client,
            name=name or f"{socket.gethostname()}:{os.getpid()}"[:128],
            folder=folder,
            recipes=tuple(recipe_names()),
            store=store or "",
            executor=executor,
            stopping=stopping,
            say=lambda text: typer.echo(printable(text), err=True),
        )
        state = made.work(every, once)
    if as_json:
        print_json({"state": state})
    if once and state == "FAILED":
        raise typer.Exit(FAILED)
