"""Queries of the end-to-end tests on the fleet's database, to check what its API says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wheeltapper_fleet import tables
from wheeltapper_fleet.demo.stage import Stage

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
    records = tables.records
    found: dict[str, list[tuple[int, int | None]]] = {}
    query = sa.select(records.c.device, records.c.window, records.c.release).where(records.c.kind == "telemetry")
    for row in rows(stage, query.order_by(records.c.device, records.c.window)):
        found.setdefault(row.device, []).append((row.window, row.release))
    return found


def assignments(stage: Stage, campaign: str) -> set[str]:
    """The devices of a campaign that have received an assignment from it."""
    executions = tables.executions
    query = sa.select(executions.c.device).where(
        executions.c.campaign == campaign, executions.c.assigned_at.is_not(None)
    )
    return {row.device for row in rows(stage, query)}
