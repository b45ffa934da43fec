"""Reads one page of a list by its key, never by an offset: the last page costs as much as the first.

Invariant: the key is unique and there is an index on it, in which the database begins right after the cursor.

Example:
    >>> rows, after = page_of(connection, select(devices), (devices.c.id,), limit=100)
    >>> rows, after = page_of(connection, select(devices), (devices.c.id,), limit=100, after=after)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, tuple_

from wheeltapper_fleet.ground.paging import read_cursor, write_cursor

__all__ = ["LOOKED_AT", "page_of"]

LOOKED_AT: Final = 5000
"""Rows that a page with a condition ``within`` looks at, at most."""


def page_of(
    connection: Connection,
    query: Select[Any],
    key: Sequence[ColumnElement[Any]],
    *,
    limit: int,
    after: str | None = None,
    descending: bool = False,
    within: ColumnElement[bool] | None = None,
) -> tuple[Sequence[Row[Any]], str | None]:
    """The next ``limit`` rows of ``query``, and the cursor of the page after them; None if there is none.

    Args:
        connection: to the fleet's database.
        query: without an order; it selects the columns of ``key`` under their own names.
        key: what the rows are ordered by; no two rows have the same.
        limit: how many rows.
        after: the cursor of the row before; None: from the beginning.
        descending: whether the highest key comes first.
        within: a condition on the rows that no index serves. The page looks at :data:`LOOKED_AT` rows of ``query`` at
            most, so it may be shorter than ``limit``, even empty, and yet be followed by another one.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    if after is not None:
        values = read_cursor(after, *(_kind(column) for column in key))
        here: ColumnElement[Any] = tuple_(*key) if len(key) > 1 else key[0]
        there: Any = tuple_(*values) if len(key) > 1 else values[0]
        query = query.where(here < there if descending else here > there)
    query = query.order_by(*(column.desc() if descending else column for column in key))
    ended: str | None = None
    if within is not None:
        far = connection.execute(query.with_only_columns(*key).offset(LOOKED_AT - 1).limit(1)).first()
        if far is not None:
            mine: ColumnElement[Any] = tuple_(*key) if len(key) > 1 else key[0]
            last_seen: Any = tuple_(*far) if len(key) > 1 else far[0]
            query, ended = query.where(mine >= last_seen if descending else mine <= last_seen), write_cursor(*far)
        query = query.where(within)
    rows = connection.execute(query.limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, ended
    last = rows[limit - 1]
    return rows[:limit], write_cursor(*(last._mapping[column] for column in key))


def _kind(column: ColumnElement[Any]) -> type[str] | type[int] | type[float]:
    """The Python type of a column of a key."""
    kind = column.type.python_type
    return kind if kind in (str, int) else float
