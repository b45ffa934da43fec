"""``wheeltapper config``: which settings are in force, and where each is from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, print_json, print_table

__all__ = ["config_app"]

config_app = typer.Typer(help="The settings of the service on this machine.", no_args_is_help=True)


@config_app.command("show")
def show_config(
    config: Annotated[Path | None, typer.Option(help="TOML file, as for `wheeltapper serve`.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show each setting, its value, and where that is from: the default, the file, or a variable of the environment.

    The file and the environment are checked as `wheeltapper serve` checks them. Passwords are not shown.
    """
    with failures():
        from wheeltapper_fleet.config import read_settings_of

        settings = read_settings_of(config, None, os.environ)
    values = {name: _shown(getattr(settings.config, name)) for name in settings.origins}
    rows = [
        {"setting": name, "value": values[name], "from": origin}
        for name, origin in settings.origins.items()
        if not changed or origin != "default"
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("setting", "value", "from"),
        [(row["setting"], _text(row["value"]), row["from"]) for row in rows],
        "every setting has its default",
    )


def _shown(value: Any) -> Any:
    """A value as JSON, without what is secret in it."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _shown(getattr(value, each.name)) if each.repr else "***" for each in fields(value)}
    if isinstance(value, tuple | list):
        return [_shown(each) for each in value]
    if isinstance(value, str) and "://" in value:
        return _without_password(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _without_password(url: str) -> str:
    """A URL whose password is not readable; what is no URL is returned as it is."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "-" if value is None or value == "" else str(value)
