"""``wheeltapper release alias``: names such as ``champion`` for a release of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_result, print_table

__all__ = ["alias_app"]

alias_app = typer.Typer(
    help="Aliases: names such as champion and candidate for a release of a model.", no_args_is_help=True
)

Why = Annotated[str, typer.Option(help="The reason, for the record.")]
IfMatch = Annotated[
    str | None,
    typer.Option(
        "--if-match",
        help="Refuse if the version that `alias list --json` gives is another one by now; 0: it must be new.",
    ),
]


@alias_app.command("set")
def alias_set(
    model: str,
    alias: str,
    release: int,
    why: Why = "",
    if_match: IfMatch = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias name a release, e.g. `alias set bearing champion 4`. It changes nothing on a device."""
    with open_client(url, token_file, data_dir) as client:
        made = client.set_alias(model, alias, release, why, if_match)
    print_result(made, f"{alias} of {model} is release {made['release']}", as_json)


@alias_app.command("list")
def alias_list(
    model: Annotated[str | None, typer.Argument(help="Of this model [default: of all].")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what the aliases name now."""
    with open_client(url, token_file, data_dir) as client:
        found = client.aliases(model)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["model"],
            each["alias"],
            each["release"],
            format_time(each["set_at"]),
            each["set_by"],
            each["why"] or None,
        )
        for each in found
    ]
    print_table(("MODEL", "ALIAS", "RELEASE", "SET", "BY", "WHY"), rows, "no alias is set")


@alias_app.command("log")
def alias_log(
    model: str,
    alias: Annotated[str | None, typer.Argument(help="Only this alias [default: all of the model].")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many changes.")] = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what the aliases of a model named, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = client.alias_changes(model, alias, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (format_time(each["at"]), each["alias"], each["before"], each["after"], each["who"], each["why"] or None)
        for each in found
    ]
    print_table(("AT", "ALIAS", "FROM", "TO", "BY", "WHY"), rows, f"no alias of {model} was ever set")


@alias_app.command("remove")
def alias_remove(
    model: str,
    alias: str,
    why: Why = "",
    if_match: IfMatch = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias name nothing. What it named is kept in its log."""
    with open_client(url, token_file, data_dir) as client:
        client.remove_alias(model, alias, why, if_match)
    print_result({"model": model, "alias": alias, "release": None}, f"{alias} of {model} names nothing now", as_json)
