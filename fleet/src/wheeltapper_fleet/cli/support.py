"""What the commands share: the connection, the output, and how a failure looks.

Invariants:
    * With ``--json`` the only thing on stdout is JSON. Progress goes to stderr.
    * Exit codes: 0 done, 1 the operation failed, 2 usage or bad input. A failure is one line with its code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from wheeltapper_fleet.client.fleet_client import FleetClient

__all__ = ["Link", "fail", "failures", "parse_tags", "print_json", "print_table", "run_guarded"]

FAILED: Final = 1
BAD_INPUT: Final = 2
_BAD_INPUT_STATUS: Final = (400, 413, 422)


@dataclass(frozen=True)
class Link:
    """How to reach the fleet service: ``--url`` and ``--token-file``, else the environment, else ``--data-dir``."""

    url: str | None
    token_file: Path | None
    data_dir: Path | None

    def open(self) -> FleetClient:
        """A client.

        Raises:
            FleetError: ``client.not_running``, ``client.no_token``.
        """
        from wheeltapper_fleet.client.fleet_client import FleetClient, find_fleet
        from wheeltapper_fleet.ground.errors import FleetError

        token = os.environ.get("WHEELTAPPER_API_TOKEN")
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise FleetError("client.no_token", f"cannot read {self.token_file}: {error}", 400) from error
        url = self.url or os.environ.get("WHEELTAPPER_URL")
        if url is None or token is None:
            found = find_fleet(self.data_dir or Path("wheeltapper-data"))
            url, token = url or found.url, token or found.token
        return FleetClient(url, token)


def print_json(value: object) -> None:
    """``value`` on stdout, as the only thing there."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A plain table on stdout; on a terminal and in a pipe alike."""
    if not rows:
        typer.echo(empty)
        return
    texts = [[printable("–" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in texts)) for index, column in enumerate(columns)]
    for line in ([*columns], *texts):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """``text`` without control characters: what devices send must not steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def parse_tags(texts: Sequence[str]) -> dict[str, str]:
    """``key=value`` texts as a mapping."""
    tags = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            fail("cli.tag", f"{text!r} is not a tag; write key=value", BAD_INPUT)
        tags[key] = value
    return tags


def fail(code: str, message: str, status: int = FAILED) -> NoReturn:
    """One line on stderr, then the end."""
    typer.echo(f"error: {printable(message)} [{printable(code)}]", err=True)
    raise typer.Exit(status)


@contextmanager
def failures() -> Iterator[None]:
    """Turn our errors into one line and an exit code."""
    from wheeltapper_fleet.ground.errors import FleetError
    from wheeltapper_protocols.errors import ProtocolError

    try:
        yield
    except FleetError as error:
        fail(error.code, error.message, BAD_INPUT if error.status in _BAD_INPUT_STATUS else FAILED)
    except ProtocolError as error:
        fail(error.code, error.message, BAD_INPUT)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        fail("cli.io", f"{error.strerror or error}{where}", FAILED)


def run_guarded(app: Callable[..., Any]) -> None:
    """Run the typer app; Ctrl-C ends with 130 and without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
