"""Queries of the end-to-end tests on the fleet's database, to check what its API says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wheeltapper_fleet import tables
from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.telemetry.history import iter_records

__all__ = ["assignments", "rows", "windows_by_device"]


def rows(stage: Stage, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    """The rows of a query on the fleet's database; nothing is changed."""
    engine = sa.create_engine(f"sqlite:///{Path(stage.data_dir) / 'fleet.db'}")
    try:
        with engine.connect() as connection:
            return list(connection.execute(query))
    finally:
        engine.dispose()


def windows_by_device(stage: Stage) -> dict[str, list[tuple[int, int | None]]]:
    """{device: stored windows as (index, release)}, sorted, with duplicates."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    engine = sa.create_engine(f"sqlite:///{Path(stage.data_dir) / 'fleet.db'}")
    try:
        with engine.connect() as connection:
            for record in iter_records(connection):
                if record.kind == "telemetry" and record.window is not None:
                    found.setdefault(record.device, []).append((record.window, record.release))
    finally:
        engine.dispose()
    return {device: sorted(windows, key=lambda each: each[0]) for device, windows in sorted(found.items())}


def assignments(stage: Stage, campaign: str) -> set[str]:
    """The devices of a campaign that have received an assignment from it."""
    executions = tables.executions
    query = sa.select(executions.c.device).where(
        executions.c.campaign == campaign, executions.c.assigned_at.is_not(None)
    )
    return {row.device for row in rows(stage, query)}
