"""Copies all rows of one database into another, which may be of another kind: SQLite to PostgreSQL and back.

Invariants:
    * All rows are those of one moment, also while the service writes: they are read in one transaction.
    * Rows go over as they are stored: JSON that this version cannot read is copied all the same.
    * Memory does not grow with the tables: :data:`ROWS` rows are held at a time.

Cost: some 10 µs a row; writers of the database that is read wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, Integer, Table, Text, cast, func, select, text, type_coerce

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.stored_json import StoredJson
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import metadata

__all__ = ["FIRST_ROWS", "ROWS", "Progress", "copy_rows", "count_rows", "one_moment"]

ROWS: Final = 1000

FIRST_ROWS: Final = ("audit_chain", "campaign_cursors")
"""Tables that have rows in a new database already; those that are copied take their place."""

Progress = Callable[[str, int], None]
"""Is told what is copied (a table, a file) and how many rows or bytes so far."""


def copy_rows(source: Engine, target: Engine, progress: Progress = lambda name, done: None) -> dict[str, int]:
    """Copy every row of ``source`` into ``target``, whose tables must be there and empty.

    Returns:
        How many rows were copied, by table.

    Raises:
        FleetError: ``restore.not_empty``: a table of ``target`` has more rows than a new database.
    """
    copied: dict[str, int] = {}
    with one_moment(source) as read, target.begin() as write:
        if filled := [name for name, rows in count_rows(write).items() if rows and name not in FIRST_ROWS]:
            raise FleetError("restore.not_empty", f"the database has rows already, in {filled[0]}; use an empty one")
        for name in FIRST_ROWS:
            write.execute(metadata.tables[name].delete())
        for table in metadata.sorted_tables:
            copied[table.name] = 0
            for rows in _parts(read, table):
                write.execute(_insertion(write, table), rows)
                copied[table.name] += len(rows)
                progress(table.name, copied[table.name])
            _continue_numbers(write, table)
    return copied


def count_rows(connection: Connection) -> dict[str, int]:
    """How many rows each table has. Reads every table's index once."""
    return {
        table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for table in metadata.sorted_tables
    }


@contextmanager
def one_moment(source: Engine) -> Iterator[Connection]:
    """A connection whose statements all see the same moment."""
    with reading(source) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        yield connection


def _parts(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table, some at a time; JSON as the text that is stored."""
    columns = [
        (cast(column, Text) if connection.dialect.name == "postgresql" else type_coerce(column, Text)).label(
            column.name
        )
        if isinstance(column.type, StoredJson)
        else column
        for column in table.columns
    ]
    found = connection.execution_options(yield_per=ROWS).execute(select(*columns))
    for part in found.mappings().partitions(ROWS):
        yield [dict(row) for row in part]


def _insertion(connection: Connection, table: Table) -> Any:
    """An INSERT that takes JSON as text."""
    marks = []
    for column in table.columns:
        json = isinstance(column.type, StoredJson) and connection.dialect.name == "postgresql"
        marks.append(f"CAST(:{column.name} AS JSON)" if json else f":{column.name}")
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote(column.name) for column in table.columns)
    return text(f"INSERT INTO {quote.quote(table.name)} ({names}) VALUES ({', '.join(marks)})")  # noqa: S608  # names of our tables


def _continue_numbers(connection: Connection, table: Table) -> None:
    """Have PostgreSQL number the rows that follow after those that were copied; SQLite does so by itself."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None or not isinstance(column.type, Integer):
        return
    connection.execute(
        text("SELECT setval(pg_get_serial_sequence(:table, :column), GREATEST(:newest, 1), :newest > 0)"),
        {
            "table": table.name,
            "column": column.name,
            "newest": connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one(),
        },
    )
