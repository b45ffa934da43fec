"""``wheeltapper login`` and ``wheeltapper context``: work with several fleets by their names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import fail, failures, print_json, print_result, print_table, read_token

if TYPE_CHECKING:
    from wheeltapper_fleet.client.contexts import ContextStore

__all__ = ["context_app", "login"]

context_app = typer.Typer(help="The fleets that you work with, by name.", no_args_is_help=True)


def _store() -> ContextStore:
    from wheeltapper_fleet.client.contexts import ContextStore, contexts_file

    return ContextStore(contexts_file(os.environ))


def login(
    url: Annotated[
        str, typer.Argument(help="The admin API's URL, e.g. https://fleet.plant-7:8080.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="What you call this fleet [default: its host name].")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the API token; otherwise it is asked for, or read from a pipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remember a fleet and your API token; the commands that follow speak to it.

    The token is checked first. It is kept in a file that only you can read.
    """
    with failures():
        from urllib.parse import urlsplit

        from wheeltapper_fleet.client.contexts import FleetContext
        from wheeltapper_fleet.client.fleet_client import FleetClient

        called = name or urlsplit(url).hostname
        if not called:
            fail("client.url", f"{url!r} is no URL: write it as https://HOST:PORT")
        if token_file is not None:
            token = read_token(token_file)
        elif sys.stdin.isatty():
            token = typer.prompt("API token", hide_input=True, err=True).strip()
        else:
            token = sys.stdin.readline().strip()
        with FleetClient(url, token) as client:
            found = client.who()
        _store().put(FleetContext(called, url, token))
    text = f"logged in to {called} as {found['name']} ({', '.join(found['roles'])})"
    print_result({"context": called, "url": url, "name": found["name"], "roles": found["roles"]}, text, as_json)


@context_app.command("list")
def list_contexts(as_json: AsJson = False) -> None:
    """List the fleets that you are logged in to."""
    with failures():
        store = _store()
        found, current = store.all(), store.current(os.environ.get("WHEELTAPPER_CONTEXT"))
    rows = [{"name": each.name, "url": each.url, "current": each == current} for each in found.values()]
    if as_json:
        print_json(rows)
        return
    table = [("*" if row["current"] else "", row["name"], row["url"]) for row in rows]
    print_table(("", "name", "url"), table, "no contexts; `wheeltapper login URL` makes one")


@context_app.command("use")
def use_context(name: Annotated[str, typer.Argument(show_default=False)], as_json: AsJson = False) -> None:
    """Let the commands that follow speak to this fleet."""
    with failures():
        _store().use(name)
    print_result({"context": name}, f"commands speak to {name} now", as_json)


@context_app.command("remove")
def remove_context(name: Annotated[str, typer.Argument(show_default=False)], as_json: AsJson = False) -> None:
    """Forget a fleet and the token for it; the token itself stays valid until it is revoked."""
    with failures():
        _store().remove(name)
    print_result({"removed": name}, f"forgot {name}; the token stays valid until it is revoked", as_json)
