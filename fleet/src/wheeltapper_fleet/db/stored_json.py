"""The type of every JSON column: one row whose text is no JSON does not stop the rows beside it from being read.

Invariant: reading never raises for what is stored. Text that is no JSON reads as None, like a value that is missing;
whoever decodes the row says which one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import JSON, Dialect
from sqlalchemy.types import TypeDecorator

__all__ = ["StoredJson"]


class StoredJson(TypeDecorator[Any]):
    """A JSON column. On PostgreSQL the database itself refuses what is no JSON; SQLite keeps it as text."""

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Decode as JSON does, but give None for what cannot be decoded."""
        decode = super().result_processor(dialect, coltype)
        if decode is None:
            return None

        def read(value: Any) -> Any:
            try:
                if isinstance(value, str):  # three times as fast, and refuses what JSON does not know: NaN, Infinity
                    return msgspec.json.decode(value)
            except (ValueError, RecursionError):
                pass
            try:
                return decode(value)
            except (ValueError, TypeError, RecursionError):
                return None

        return read
