"""Writes and reads changes. Rows are only added, each linked to the one before; the oldest are cut in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from wheeltapper_fleet.audit.chain import START, link
from wheeltapper_fleet.audit.schemas import ChainView, ChangeView
from wheeltapper_fleet.audit.tables import audit, audit_chain
from wheeltapper_fleet.db.engine import insert_ignore, reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["Change", "list_changes", "lock_chain", "record_change", "show_chain", "write_change"]


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


def lock_chain(connection: Connection) -> Row[Any]:
    """The state of the chain, locked until the transaction ends: changes are linked one after the other."""
    query = select(audit_chain).with_for_update()
    found = connection.execute(query).first()
    if found is None:
        first = {"id": 1, "digest": START, "cut_digest": START, "cut_up_to": None, "cut_rows": 0}
        insert_ignore(connection, audit_chain, [first])
        found = connection.execute(query).one()
    return found


def write_change(connection: Connection, change: Change) -> None:
    """Keep a change. Every change of the service is written here, in the caller's transaction, which is a short one:
    the next change waits for it."""
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
    digest = link(lock_chain(connection).digest, row)
    connection.execute(insert(audit).values(**row, digest=digest))
    connection.execute(update(audit_chain).values(digest=digest))


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


def show_chain(engine: Engine) -> ChainView:
    """The newest digest of the chain, and where it was cut."""
    with reading(engine) as connection:
        row = connection.execute(select(audit_chain)).first()
    if row is None:
        return ChainView(digest=START, cut_digest=START, cut_up_to=None, cut_rows=0)
    return ChainView.model_validate(row, from_attributes=True)
