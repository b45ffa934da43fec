"""``wheeltapper release default``: what devices run where no campaign says otherwise."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    format_time,
    open_client,
    parse_tags,
    print_json,
    print_result,
    print_table,
)

__all__ = ["default_app"]

default_app = typer.Typer(
    help="Default releases: what devices run where no campaign says otherwise.", no_args_is_help=True
)

Why = Annotated[str, typer.Option(help="The reason, for the record.")]


@default_app.command("set")
def default_set(
    model: str,
    release: int,
    pipeline: Annotated[str, typer.Option(help="Which sensor stream.")] = "main",
    tag: Annotated[list[str] | None, typer.Option(help="Only devices with this key=value; repeatable.")] = None,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring a release to every device that lacks it, now and whenever one enrols or comes back."""
    with open_client(url, token_file, data_dir) as client:
        made = client.set_default_release(model, release, pipeline=pipeline, tags=parse_tags(tag or []), why=why)
    print_result(made, f"{model} release {release} is the default of pipeline {pipeline} ({made['id']})", as_json)


@default_app.command("list")
def default_list(
    cleared: Annotated[bool, typer.Option("--cleared", help="Also those that were replaced or cleared.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the default releases, with how their devices fared."""
    with open_client(url, token_file, data_dir) as client:
        found = client.default_releases(cleared)
    if as_json:
        print_json(found)
        return
    columns = ("MODEL", "RELEASE", "PIPELINE", "AUDIENCE", "SET", "BY", "EXECUTIONS", "GIVEN UP", "WHY", "CLEARED")
    print_table(columns, [_row(item) for item in found], "no default release is set")


@default_app.command("clear")
def default_clear(
    model: str,
    pipeline: Annotated[str | None, typer.Option(help="Only of this sensor stream.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only of this audience: key=value; repeatable.")] = None,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Clear the default releases of a model. Devices keep what they run."""
    with open_client(url, token_file, data_dir) as client:
        tags = None if tag is None else parse_tags(tag)
        found = client.clear_default_release(model, pipeline=pipeline, tags=tags, why=why)
    print_result(found, f"cleared: {', '.join(item['id'] for item in found)}", as_json)


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    audience = item["audience"]
    parts = [f"{key}={value}" for key, value in sorted(audience.get("tags", {}).items())]
    parts += [f"{len(audience['devices'])} devices"] if audience.get("devices") else []
    return (
        item["model"],
        item["release"],
        item["pipeline"],
        ", ".join(parts) or "all",
        format_time(item["set_at"]),
        item["set_by"],
        ", ".join(f"{count} {state}" for state, count in sorted(item["executions"].items())) or None,
        item["given_up"] or None,
        item["why"] or None,
        None if item["cleared_at"] is None else f"{format_time(item['cleared_at'])} by {item['cleared_by']}",
    )
