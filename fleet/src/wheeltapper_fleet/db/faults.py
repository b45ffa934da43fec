"""Tells a fault of the database from a fault of what was to be stored.

The first is tried again; the second would fail for ever.

Sources: SQLite, "Result and Error Codes"; PostgreSQL, appendix A "Error Codes" (classes 22 data exception, 23 integrity
constraint violation, 42 syntax error or access rule violation, 54 program limit exceeded).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnectionError

__all__ = ["database_fault"]

_SQLITE_OF_THE_STATEMENT: Final = frozenset({1, 18, 19, 20, 25})
"""SQLITE_ERROR, SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_RANGE."""
_POSTGRESQL_OF_THE_STATEMENT: Final = ("22", "23", "42", "54")


def database_fault(error: Exception) -> str | None:
    """What is wrong with the database, in short, if ``error`` is its fault; None if it is that of the statement.

    The text never holds the statement or its values: they are what a device sent.
    """
    if isinstance(error, NoConnectionError):
        return "all its connections are in use"
    if isinstance(error, OSError | MemoryError):
        return type(error).__name__
    if not isinstance(error, DatabaseError | InterfaceError):
        return None
    if isinstance(error, DataError | IntegrityError | ProgrammingError) and not error.connection_invalidated:
        return None
    said = str(error.orig).splitlines()[0][:200] if str(error.orig) else type(error.orig).__name__
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        return None if code & 0xFF in _SQLITE_OF_THE_STATEMENT else said
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str) and state.startswith(_POSTGRESQL_OF_THE_STATEMENT):
        return None
    return said
