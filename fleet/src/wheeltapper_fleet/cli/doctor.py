"""``wheeltapper doctor``: what is wrong with the service on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, print_json, printable

__all__ = ["doctor"]

_FOUND_FAULTS: Final = 3


def doctor(
    config: Annotated[Path | None, typer.Option(help="TOML file, as for `wheeltapper serve`.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The service's folder [default: wheeltapper-data].")] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, folder, keys, database, broker and the service itself, and say what to do about each.

    Changes nothing. Exit code 0 when nothing is wrong (warnings are allowed), 3 when a check failed.
    """
    with failures():
        import time

        from wheeltapper_fleet.config import load_config
        from wheeltapper_fleet.serving.doctor import FAIL, examine

        found = examine(load_config(config, {"data_dir": data_dir}, os.environ), time.time())
    if as_json:
        print_json({"checks": [asdict(each) for each in found]})
    else:
        width = max(len(each.check) for each in found)
        for each in found:
            typer.echo(printable(f"{each.verdict:4}  {each.check:{width}}  {each.found}"))
            if each.advice:
                typer.echo(printable(f"{'':4}  {'':{width}}  {each.advice}"))
    if any(each.verdict == FAIL for each in found):
        raise typer.Exit(_FOUND_FAULTS)
