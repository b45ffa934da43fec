"""What the commands share: connecting to the service, printing results, reporting failures.

Invariants:
    * With ``--json`` standard output holds JSON and nothing else. Progress goes to standard error.
    * Exit codes: 0 done, 1 the operation failed, 2 wrong usage or bad input, 130 ended by Ctrl-C.
    * A failure is one line on standard error that ends with its code.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from wheeltapper_protocols.usage import wrong_usage

if TYPE_CHECKING:
    from wheeltapper_fleet.client.contexts import FleetContext
    from wheeltapper_fleet.client.fleet_client import FleetClient

__all__ = [
    "BAD_INPUT",
    "DATA_DIR",
    "FAILED",
    "fail",
    "failures",
    "format_time",
    "open_client",
    "parse_changes",
    "parse_tags",
    "print_json",
    "print_result",
    "print_table",
    "printable",
    "read_token",
    "run_guarded",
]

FAILED: Final = 1
DATA_DIR: Final = "wheeltapper-data"
BAD_INPUT: Final = 2
_STARTING_SECONDS: Final = 10.0
"""How long a command waits for a service that was just started, such as by the line before."""
_BAD_INPUT_STATUS: Final = (400, 413, 422)


@contextmanager
def open_client(url: str | None, token_file: Path | None, data_dir: Path | None) -> Iterator[FleetClient]:
    """Connect to the fleet service; close the connection and report failures as :func:`failures` does.

    Args:
        url: the admin API's URL; if None, from ``WHEELTAPPER_URL``, else from ``data_dir`` if that is given, else from
            the context that ``WHEELTAPPER_CONTEXT`` names, else from the service whose ``wheeltapper-data`` is in this
            folder, else from the context that was chosen last.
        token_file: file with the API token; if None, from ``WHEELTAPPER_API_TOKEN``, else from where the URL is from.
        data_dir: the data folder of a service on this machine; by default ``wheeltapper-data``.
    """
    with failures():
        from wheeltapper_fleet.client.fleet_client import FleetClient, find_fleet
        from wheeltapper_fleet.ground.errors import FleetError

        folder = data_dir or Path(DATA_DIR)
        token = os.environ.get("WHEELTAPPER_API_TOKEN")
        if token_file is not None:
            token = read_token(token_file)
        url = url or os.environ.get("WHEELTAPPER_URL")
        here = (folder / "keys").is_dir() and not os.environ.get("WHEELTAPPER_CONTEXT")
        context = None if url or data_dir or here else _context()
        if context is not None:
            url, token = context.url, token or context.token
        elif url is None:
            found = find_fleet(folder, _STARTING_SECONDS)
            url, token = found.url, token or found.token
        elif token is None and data_dir is not None:
            token = read_token(folder / "api-token")
        if token is None:  # that of a service on this machine is not sent to any URL that is named
            raise FleetError(
                "client.no_token",
                f"{url} needs a token: give --token-file or WHEELTAPPER_API_TOKEN, or the service's --data-dir",
                400,
            )
        with FleetClient(url, token) as client:
            yield client


def _context() -> FleetContext | None:
    """The context that ``WHEELTAPPER_CONTEXT`` or the last ``wheeltapper context use`` names.

    Raises:
        FleetError: ``context.*``.
    """
    from wheeltapper_fleet.client.contexts import ContextStore, contexts_file

    return ContextStore(contexts_file(os.environ)).current(os.environ.get("WHEELTAPPER_CONTEXT"))


def read_token(file: Path) -> str:
    """The API token in ``file``.

    Raises:
        FleetError: ``client.no_token``.
    """
    from wheeltapper_fleet.ground.errors import FleetError

    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("client.no_token", f"the token file {file} cannot be read: {error}", 400) from error


def print_json(value: object) -> None:
    """Print ``value`` as JSON on standard output."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not is_utf8, allow_nan=False) + "\n")


def print_result(value: object, text: str, as_json: bool) -> None:
    """Print what a command did: ``value`` as JSON, or ``text`` for people."""
    if as_json:
        print_json(value)
    else:
        typer.echo(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print a plain table on standard output, the same on a terminal and in a pipe.

    Args:
        columns: the headings.
        rows: the cells; None is shown as a dash.
        empty: printed instead if there are no rows.
    """
    if not rows:
        typer.echo(empty)
        return
    texts = [[printable("–" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in texts)) for index, column in enumerate(columns)]
    for line in ([*columns], *texts):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Replace control characters, so that text which devices sent cannot control the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def format_time(seconds: float | None) -> str | None:
    """Unix seconds as a date and time in UTC; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def parse_tags(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``key=value`` texts; ends the command if one is malformed."""
    tags = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            fail("cli.tag", f"{text!r} is not a tag; write key=value", BAD_INPUT)
        tags[key] = value
    return tags


def fail(code: str, message: str, status: int = FAILED) -> NoReturn:
    """Print one line with the code on standard error and end the command with exit code ``status``."""
    typer.echo(f"error: {printable(message)} [{printable(code)}]", err=True)
    raise typer.Exit(status)


@contextmanager
def failures() -> Iterator[None]:
    """Report errors of the fleet, of the protocols and of the operating system as :func:`fail` does."""
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


def run_guarded(app: typer.Typer, program: str = "wheeltapper") -> NoReturn:
    """Run the command line, and end the process with the exit code that docs/cli.md says.

    Wrong usage is one line on standard error, as every failure. Text that the terminal's encoding does not have is
    replaced, never an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = typer.main.get_command(app).main(prog_name=program, standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's exceptions have it, wherever typer keeps them
            raise
        message, usage_code = wrong_usage(error, program)
        sys.stderr.write(f"error: {printable(message)} [{usage_code}]\n")
        sys.exit(BAD_INPUT)
    sys.exit(code if isinstance(code, int) else 0)


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Wanted values by name (``name=value``; ``-name``: None); ends the command if a text is malformed."""
    change: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if text.startswith("-") and not sign and len(text) > 1:
            change[text[1:]] = None
        elif sign and name and value and not text.startswith("-"):
            try:
                change[name] = float(value)
            except ValueError:
                change[name] = value
        else:
            fail("cli.setting", f"{text!r} changes no setting; write name=value, or -name", BAD_INPUT)
    return change
