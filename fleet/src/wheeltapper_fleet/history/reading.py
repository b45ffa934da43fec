"""Reads raw history again, for export and training: segments by DuckDB, what is newer from the database.

Example::

    with read_history(database, place, devices=("press-1",), since=now - 30 * 86_400.0) as records:
        records.query("records", "SELECT pipeline, avg(score) FROM records GROUP BY 1").fetchall()
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.history.place import HistoryPlace, needs_extra
from wheeltapper_fleet.history.segments import records_table, written_up_to
from wheeltapper_fleet.history.tables import segments
from wheeltapper_fleet.telemetry.history import StoredRecord, readable_records
from wheeltapper_fleet.telemetry.tables import messages

__all__ = ["export_records", "read_history"]


@contextmanager
def read_history(
    database: Engine,
    place: HistoryPlace,
    devices: Sequence[str] = (),
    since: float | None = None,
    until: float | None = None,
) -> Iterator[Any]:
    """A DuckDB relation of records, with the columns of :data:`~wheeltapper_fleet.history.segments.COLUMNS`.

    Only files with records of that time are opened, and of them only the columns and row groups that a query needs.

    Args:
        database: the fleet's.
        place: where segments are kept.
        devices: only theirs; empty: all.
        since, until: only records that arrived from the one and before the other (Unix seconds).

    Raises:
        FleetError: ``history.missing_library``, ``history.unreachable``.
    """
    try:
        import duckdb
        from pyarrow import dataset
    except ImportError as error:
        raise needs_extra() from error
    low, high = since if since is not None else float("-inf"), until if until is not None else float("inf")
    with reading(database) as connection:
        newest = written_up_to(connection)
        paths = list(
            connection.execute(
                select(segments.c.path)
                .where(segments.c.to_at >= low, segments.c.from_at < high)
                .order_by(segments.c.first_message)
            ).scalars()
        )
        newer = _newer(connection, newest, devices, low, high)
    recent = records_table(newer)
    with duckdb.connect() as engine:
        engine.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        try:
            found = [dataset.dataset(recent)]
            if paths:
                found.append(
                    dataset.dataset(paths, schema=recent.schema, format="parquet", filesystem=place.filesystem)
                )
            relation = engine.from_arrow(dataset.dataset(found))
        except OSError as error:
            raise FleetError("history.unreachable", f"the history cannot be read: {error}", 503) from error
        conditions = [f"received_at >= {low!r}"] if since is not None else []
        conditions += [f"received_at < {high!r}"] if until is not None else []
        if devices:
            names = ", ".join("'" + name.replace("'", "''") + "'" for name in devices)
            conditions.append(f"device IN ({names})")
        if conditions:
            relation = relation.filter(" AND ".join(conditions))
        yield relation


def _newer(connection: Connection, after: int, devices: Sequence[str], low: float, high: float) -> list[StoredRecord]:
    """The records of messages that are in no segment yet. One that cannot be read is counted when it is moved."""
    query = select(messages).where(messages.c.id > after, messages.c.received_at >= low, messages.c.received_at < high)
    if devices:
        query = query.where(messages.c.device.in_(devices))
    found: list[StoredRecord] = []
    for row in connection.execution_options(yield_per=1000).execute(query.order_by(messages.c.id)):
        found += readable_records(row) or []
    return found


def export_records(
    database: Engine,
    place: HistoryPlace,
    out: Path,
    devices: Sequence[str] = (),
    since: float | None = None,
    *,
    replace: bool = False,
) -> int:
    """Write records into a Parquet or CSV file, by its suffix; returns how many. See :func:`read_history`.

    Raises:
        FleetError: ``export.exists``, ``export.format``, ``export.failed``, and those of :func:`read_history`.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise FleetError("export.format", f"{out.name}: name a file that ends in .parquet or .csv", 400)
    if not replace and os.path.lexists(out):
        raise FleetError("export.exists", f"{out} exists; choose another name, or replace it with --force", 400)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with read_history(database, place, devices, since) as records:
        try:
            ordered = records.order("device, epoch, seq")
            if out.suffix == ".csv":
                ordered.write_csv(str(temporary))
            else:
                ordered.write_parquet(str(temporary), compression="zstd")
            count = int(records.aggregate("count(*)").fetchall()[0][0])
            os.chmod(temporary, files.PRIVATE)
            files.publish_file(temporary, out)
        except OSError as error:
            raise FleetError("export.failed", f"{out} cannot be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
    return count
