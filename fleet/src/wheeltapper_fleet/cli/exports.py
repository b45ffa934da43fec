"""``wheeltapper export``: the fleet's database as one portable SQLite file. Needs no API: it reads the database."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.backups import Config, DatabaseUrl, DataDir, shown_progress
from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, print_result

__all__ = ["export"]


def export(
    out: Annotated[Path, typer.Argument(help="The file to make, e.g. fleet.sqlite.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="Only records of the last days.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only records of this device; repeatable.")] = None,
    records: Annotated[bool, typer.Option(help="Whether records are exported at all.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export devices, campaigns, alerts and records into one SQLite file, ready for Datasette.

    The service may run meanwhile. The file holds no secrets.
    """
    with failures():
        from wheeltapper_fleet.config import load_config
        from wheeltapper_fleet.db.engine import open_database
        from wheeltapper_fleet.export.export import Choice, export_fleet

        found = load_config(config, {"data_dir": data_dir, "database_url": database_url}, os.environ)
        now = time.time()
        since = None if days is None else now - days * 86_400.0
        engine = open_database(found.effective_database_url)
        try:
            choice = Choice(records=records, since=since, devices=tuple(device or ()))
            done = export_fleet(engine, out, now, choice, replace=force, progress=shown_progress())
        finally:
            engine.dispose()
    for problem in done.problems:
        typer.echo(f"not exported: {problem}", err=True)
    value = {"path": str(done.path), "bytes": done.bytes, "rows": done.rows, "problems": list(done.problems)}
    told = ", ".join(f"{done.rows[name]} {name}" for name in ("devices", "alerts", "records") if name in done.rows)
    print_result(value, f"{done.path}: {told}; {done.bytes / 1e6:.1f} MB", as_json)
