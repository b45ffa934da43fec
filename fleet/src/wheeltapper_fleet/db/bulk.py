"""Writes and reads many rows by one statement: ``executemany`` on SQLite, COPY and arrays on PostgreSQL.

For what comes in batches of thousands. SQLAlchemy's own statements are for everything else: they cost several times as
much a row.

Example::

    upsert_rows(connection, latest, ("device", "score"), [("press-1", 0.4)], keys=("device",), changed={"score": NEW})
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

__all__ = ["ADDED", "GREATEST", "LEAST", "NEW", "delete_keys", "insert_rows", "select_keys", "upsert_rows"]

NEW: Final = "excluded.{0}"
"""A column becomes the new row's value."""
ADDED: Final = "{1}.{0} + excluded.{0}"
"""The new row's value is added to it."""
LEAST: Final = "CASE WHEN {1}.{0} IS NULL OR excluded.{0} < {1}.{0} THEN excluded.{0} ELSE {1}.{0} END"
"""The smaller one stays; NULL is no value."""
GREATEST: Final = "CASE WHEN {1}.{0} IS NULL OR excluded.{0} > {1}.{0} THEN excluded.{0} ELSE {1}.{0} END"
"""The greater one stays; NULL is no value."""

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types there
Rows = Sequence[tuple[Any, ...]]


def insert_rows(connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
    """Insert ``rows``, tuples in the order of ``columns``."""
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({_names(columns)}) VALUES ({marks})"  # noqa: S608  # names of ours
        connection.exec_driver_sql(statement, list(rows))
        return
    types = [table.c[name].type.compile(_DIALECT).partition("(")[0].lower() for name in columns]
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({_names(columns)}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types([_COPY_TYPES.get(kind, kind) for kind in types])
        for row in rows:
            copy.write_row(row)


def upsert_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Rows,
    *,
    keys: Sequence[str],
    changed: Mapping[str, str],
) -> None:
    """Insert ``rows``; where there is one with the same key, change that one.

    No two of ``rows`` may have the same key. Processes that do this at once do not wait for each other in a circle: the
    rows are written in the order of their keys.

    Args:
        connection: in a transaction.
        table: the table.
        columns: what the tuples hold; the keys come first.
        rows: the tuples.
        keys: the table's key.
        changed: which columns of a row that is there change, and how: :data:`NEW`, :data:`ADDED`, :data:`LEAST`,
            :data:`GREATEST`.
    """
    if not rows:
        return
    ordered = sorted(rows)  # the keys are in front and differ, so nothing behind them is compared
    sets = ", ".join(f'"{name}" = {how.format(_quoted(name), table.name)}' for name, how in changed.items())
    conflict = f"ON CONFLICT ({_names(keys)}) DO UPDATE SET {sets}"
    head = f"INSERT INTO {table.name} ({_names(columns)})"
    if connection.dialect.name != "postgresql":
        connection.exec_driver_sql(f"{head} VALUES ({', '.join('?' * len(columns))}) {conflict}", ordered)
        return
    statement = f"{head} SELECT * FROM {_arrays(table, columns)} {conflict}"  # noqa: S608  # names of ours
    connection.exec_driver_sql(statement, tuple(list(column) for column in zip(*ordered, strict=True)))


def select_keys(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    keys: Sequence[str],
    values: Rows,
    *,
    lock: bool = False,
) -> Sequence[Any]:
    """The rows whose ``keys`` are among ``values``, by one statement through the key's index.

    Args:
        connection: in a transaction.
        table: the table.
        columns: what to read of it.
        keys: columns of text that the table has an index on.
        values: tuples in the order of ``keys``, each once.
        lock: keep other writers of these rows out until the transaction ends. SQLite has one writer anyhow.
    """
    if not values:
        return []
    chosen = ", ".join(f'{table.name}."{name}"' for name in columns)
    if connection.dialect.name != "postgresql":
        same = " AND ".join(
            f"{table.name}.{name} = json_extract(k.value, '$[{index}]')" for index, name in enumerate(keys)
        )
        statement = f"SELECT {chosen} FROM json_each(?) AS k CROSS JOIN {table.name} ON {same}"  # noqa: S608
        return connection.exec_driver_sql(statement, (json.dumps(values),)).all()
    same = " AND ".join(f"{table.name}.{name} = k.k{index}" for index, name in enumerate(keys))
    order = ", ".join(f"{table.name}.{name}" for name in keys)
    ending = f"ORDER BY {order} FOR UPDATE OF {table.name}" if lock else ""
    named = ", ".join(f"k{index}" for index in range(len(keys)))
    statement = f"SELECT {chosen} FROM {_arrays(table, keys)} AS k({named}) JOIN {table.name} ON {same} {ending}"  # noqa: S608
    return connection.exec_driver_sql(statement, tuple(list(column) for column in zip(*values, strict=True))).all()


def delete_keys(connection: Connection, table: Table, keys: Sequence[str], values: Rows) -> None:
    """Delete the rows whose ``keys`` are among ``values``."""
    if values:
        mark = "%s" if connection.dialect.name == "postgresql" else "?"
        same = " AND ".join(f"{name} = {mark}" for name in keys)
        connection.exec_driver_sql(f"DELETE FROM {table.name} WHERE {same}", list(values))  # noqa: S608


_COPY_TYPES: Final = {"float": "float8", "bigint": "int8", "integer": "int4", "varchar": "varchar", "bytea": "bytea"}


def _quoted(name: str) -> str:
    return f'"{name}"'


def _names(columns: Sequence[str]) -> str:
    return ", ".join(_quoted(name) for name in columns)


def _arrays(table: Table, columns: Sequence[str]) -> str:
    """The rows as a table of PostgreSQL, from one array a column."""
    return f"unnest({', '.join(f'%s::{table.c[name].type.compile(_DIALECT)}[]' for name in columns)})"
