"""The one MetaData that every table of the fleet's database belongs to.

Each room keeps its tables in its own ``tables.py``; :mod:`wheeltapper_fleet.tables` imports them all. The naming
convention gives every index and constraint a name, so that migrations can refer to it on each database.
"""

from __future__ import annotations

from sqlalchemy import MetaData

__all__ = ["metadata"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
