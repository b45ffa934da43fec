"""Writes and reads changes. Rows are only added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select

from wheeltapper_fleet.audit.schemas import ChangeView
from wheeltapper_fleet.audit.tables import audit
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["Change", "list_changes", "record_change", "write_change"]


@dataclass(frozen=True)
class Change:
    """A change: who made it, by what route, when, and how it was answered."""

    at: float
    who: str
    via: str
    route: str
    subject: Mapping[str, str]
    status: int
    request: str
    address: str


def write_change(connection: Connection, change: Change) -> None:
    """Keep a change. Every change of the service is written here, in the caller's transaction."""
    row = {
        "at": change.at,
        "who": change.who[:128],
        "via": change.via[:200],
        "route": change.route[:200],
        "subject": {name: value[:200] for name, value in change.subject.items()},
        "status": change.status,
        "request": change.request[:64],
        "address": change.address[:64],
    }
    connection.execute(insert(audit).values(row))


def record_change(engine: Engine, change: Change) -> None:
    """Keep a change, in a transaction of its own."""
    with engine.begin() as connection:
        write_change(connection, change)


def list_changes(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[ChangeView]:
    """A page of the changes, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    with reading(engine) as connection:
        rows, following = page_of(connection, select(audit), (audit.c.id,), limit=limit, after=after, descending=True)
    fields = [name for name in ChangeView.model_fields if name != "subject"]
    return Page(
        [
            ChangeView(
                **{name: row._mapping[name] for name in fields},
                subject=row.subject if isinstance(row.subject, dict) else {},
            )
            for row in rows
        ],
        following,
    )
