"""What tests ask of the records that the fleet has stored."""

from __future__ import annotations

from sqlalchemy import Engine

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.telemetry.history import StoredRecord, iter_records

__all__ = ["stored_records"]


def stored_records(engine: Engine, device: str | None = None) -> list[StoredRecord]:
    """All stored records, in the order in which their messages were stored."""
    with reading(engine) as connection:
        return list(iter_records(connection, device))
