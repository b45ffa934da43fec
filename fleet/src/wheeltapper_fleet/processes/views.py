"""The processes of the service, for API and command line."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.paging import Page, read_cursor, write_cursor
from wheeltapper_fleet.processes.membership import ALIVE_SECONDS, database_time
from wheeltapper_fleet.processes.tables import leadership, processes

__all__ = ["ProcessView", "list_processes"]


@dataclass(frozen=True)
class ProcessView:
    """A process that ran in the last week.

    Args:
        name: as it is given to ``serve --name``.
        role: api, ingest, engine or all.
        host: of its machine.
        pid: its process id there.
        version: of the software.
        started_at, seen_at: its start and its newest beat, Unix seconds.
        alive: whether that was within the last five seconds.
        leads: whether it leads.
    """

    name: str
    role: str
    host: str
    pid: int
    version: str
    started_at: float
    seen_at: float
    alive: bool
    leads: bool


def list_processes(database: Engine, limit: int, after: str | None = None) -> Page[ProcessView]:
    """A page of the processes, by name. A service that is one process over SQLite has none to list.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(processes).order_by(processes.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(processes.c.name > read_cursor(after, str)[0])
    with reading(database) as connection:
        now = database_time(connection)
        holders = set(connection.execute(select(leadership.c.holder)).scalars())
        rows = connection.execute(query).mappings().all()
    found = []
    for row in rows[:limit]:
        alive = row["seen_at"] > now - ALIVE_SECONDS
        found.append(ProcessView(**row, alive=alive, leads=alive and row["name"] in holders))
    return Page(found, write_cursor(found[-1].name) if len(rows) > limit else None)
