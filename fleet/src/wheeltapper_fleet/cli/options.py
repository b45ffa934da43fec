"""The options that many commands share, as types of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "DataDir", "DeviceFirst", "IfMatch", "Query", "TokenFile", "Url"]


class NoSuchOption(typer.BadParameter):  # the name by which wrong usage is told apart
    """An option that a command does not have, where ``-name`` is an argument."""


def _no_option(value: str) -> str:
    if value.startswith("--"):
        raise NoSuchOption(f"no such option: {value}")
    return value


DeviceFirst = Annotated[str, typer.Argument(callback=_no_option, show_default=False)]
"""The device of a command that takes ``-name`` as an argument: what begins with ``--`` is refused."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Url = Annotated[str | None, typer.Option("--url", help="The admin API's URL [env: WHEELTAPPER_URL].")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the API token [env for the token: WHEELTAPPER_API_TOKEN].")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data folder of a service on this machine [default: wheeltapper-data].")
]
IfMatch = Annotated[
    str | None, typer.Option("--if-match", help="Refuse if the etag that `device show` gives is another one by now.")
]
Query = Annotated[
    str, typer.Option("--q", help="Only devices that this query means, e.g. 'site = north and not online'.")
]
