"""``wheeltapper history``: raw history beyond the database. Needs no API: it reads the database and the files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, format_time, print_json, print_result, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from wheeltapper_fleet.history.place import HistoryPlace

__all__ = ["history_app", "opened_history"]

history_app = typer.Typer(help="Raw history on a folder or S3 (see [history] of the settings).", no_args_is_help=True)

Config = Annotated[Path, typer.Option(help="The TOML file that `wheeltapper serve` uses; its [history] has the url.")]


@history_app.command("list")
def history_list(config: Config = Path("fleet.toml"), as_json: AsJson = False) -> None:
    """List the days of the history: records and bytes."""
    with opened_history(config) as (engine, _):
        from wheeltapper_fleet.history.segments import days

        found = days(engine)
    if as_json:
        print_json(found)
        return
    rows = [(each["day"], each["segments"], each["records"], f"{each['bytes'] / 1e6:.1f} MB") for each in found]
    print_table(("DAY", "SEGMENTS", "RECORDS", "SIZE"), rows, "nothing is in the history yet")


@history_app.command("verify")
def history_verify(config: Config = Path("fleet.toml"), as_json: AsJson = False) -> None:
    """Read every segment again and compare it with its SHA-256."""
    with opened_history(config) as (engine, place):
        from wheeltapper_fleet.ground.errors import FleetError
        from wheeltapper_fleet.history.segments import verify_segments

        count = 0

        def show(path: str) -> None:
            nonlocal count
            count += 1
            if sys.stderr.isatty():
                print(f"\r{path}", end="", file=sys.stderr, flush=True)

        damaged = verify_segments(engine, place, show)
        if damaged:
            named = ", ".join(damaged[:5])
            raise FleetError(
                "history.damaged", f"{len(damaged)} of {count} segments are missing or changed: {named}", 409
            )
    print_result({"segments": count}, f"all {count} segments are whole", as_json)


@history_app.command("export")
def history_export(
    out: Annotated[Path, typer.Argument(help="The file to make: .parquet or .csv.")],
    config: Config = Path("fleet.toml"),
    device: Annotated[list[str] | None, typer.Option(help="Only records of this device; repeatable.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="Only records of the last days.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export records, from the history and from the database, into one Parquet or CSV file."""
    with opened_history(config) as (engine, place):
        from wheeltapper_fleet.history.reading import export_records

        since = None if days is None else time.time() - days * 86_400.0
        count = export_records(engine, place, out, devices=tuple(device or ()), since=since, replace=force)
    value = {"path": str(out), "records": count, "bytes": out.stat().st_size}
    print_result(value, f"{out}: {count} records; {value['bytes']} bytes, {format_time(time.time())}", as_json)


@contextmanager
def opened_history(config: Path) -> Iterator[tuple[Engine, HistoryPlace]]:
    """The database and the place of the history that ``config`` names."""
    with failures():
        from wheeltapper_fleet.config import load_config
        from wheeltapper_fleet.db.engine import open_database
        from wheeltapper_fleet.ground.errors import FleetError
        from wheeltapper_fleet.history.place import HistoryPlace

        found = load_config(config, None, os.environ)
        if not found.history.url:
            raise FleetError("history.off", f"{config} names no history: set url in its section [history]", 400)
        place = HistoryPlace(found.history.url)
        engine = open_database(found.effective_database_url)
        try:
            yield engine, place
        finally:
            engine.dispose()
