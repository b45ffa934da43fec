"""``wheeltapper backup``: backups of the fleet service, made while it runs. Needs no API: it reads the data folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, format_time, print_result

if TYPE_CHECKING:
    from wheeltapper_fleet.backup.backup import Contents

__all__ = ["Config", "DataDir", "DatabaseUrl", "backup_app", "shown_progress"]

backup_app = typer.Typer(help="Save everything that the service keeps, and restore it.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="The TOML file that `wheeltapper serve` uses.")]
DataDir = Annotated[Path | None, typer.Option(help="The service's folder [default: wheeltapper-data].")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQLAlchemy URL [default: SQLite in the data folder]")]


@backup_app.command("create")
def backup_create(
    folder: Annotated[Path, typer.Argument(help="The new folder that becomes the backup.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Save database, keys, metadata, releases and captures into one folder; the service may run meanwhile.

    The folder holds the online keys: keep it as safe as the service. Offline keys are not in it.
    """
    with failures():
        from wheeltapper_fleet.backup.backup import create_backup
        from wheeltapper_fleet.config import load_config

        found = load_config(config, {"data_dir": data_dir, "database_url": database_url}, os.environ)
        contents = create_backup(found.data_dir, found.effective_database_url, folder, shown_progress())
    _print(contents, f"saved to {folder}", as_json)


@backup_app.command("verify")
def backup_verify(
    folder: Annotated[Path, typer.Argument(help="The backup.")],
    as_json: AsJson = False,
) -> None:
    """Read every file of a backup and compare it with its SHA-256."""
    with failures():
        from wheeltapper_fleet.backup.backup import verify_backup

        contents = verify_backup(folder, shown_progress())
    _print(contents, f"{folder} is whole", as_json)


@backup_app.command("restore")
def backup_restore(
    folder: Annotated[Path, typer.Argument(help="The backup.")],
    data_dir: Annotated[Path, typer.Option(help="The new data folder; must not exist, or be empty.")] = Path(
        "wheeltapper-data"
    ),
    database_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of an empty database [default: SQLite in the data folder]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a data folder, and fill a database, from a backup.

    The backup may come from SQLite and go to PostgreSQL, or the other way round.
    """
    with failures():
        from wheeltapper_fleet.backup.backup import restore_backup

        contents = restore_backup(folder, data_dir, database_url or "", shown_progress())
    _print(contents, f"restored to {data_dir}", as_json)


def _print(contents: Contents, done: str, as_json: bool) -> None:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(contents)
    value["files"] = len(contents.files)
    value["bytes"] = contents.total_bytes
    text = (
        f"{done}: {sum(contents.rows.values())} rows, {len(contents.files)} files, "
        f"{contents.total_bytes / 1e6:.1f} MB, of {format_time(contents.made_at)}"
    )
    print_result(value, text, as_json)


def shown_progress() -> Callable[[str, int], None]:
    """Shows on a terminal what is copied."""
    if not sys.stderr.isatty():
        return lambda name, done: None
    return lambda name, done: print(f"\r{name}: {done:<20}", end="", file=sys.stderr, flush=True)
