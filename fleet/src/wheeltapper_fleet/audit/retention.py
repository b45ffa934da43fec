"""Ends changes that have been kept long enough, so that the chain of those that stay can still be followed.

Invariants:
    * Only the oldest changes are cut, in their order; ``audit_chain`` keeps the digest of the last one, and how many
      were cut.
    * A turn is one short transaction of :data:`_SLICE` rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, delete, select, update

from wheeltapper_fleet.audit.store import lock_chain
from wheeltapper_fleet.audit.tables import audit, audit_chain

__all__ = ["audit_turn"]

_SLICE: Final = 1000
_DAY_SECONDS: Final = 86_400.0


def audit_turn(engine: Engine, keep_days: int) -> Callable[[float], bool]:
    """The duty: one turn at a Unix time; returns whether there is more to do at once."""

    def turn(now: float) -> bool:
        before = now - keep_days * _DAY_SECONDS
        oldest = select(audit.c.id, audit.c.at, audit.c.digest).order_by(audit.c.id).limit(_SLICE)
        with engine.begin() as connection:
            chain = lock_chain(connection)
            old = []
            for row in connection.execute(oldest):
                if row.at >= before:
                    break
                old.append(row)
            if not old:
                return False
            last = old[-1]
            values = {"cut_digest": last.digest, "cut_up_to": last.at, "cut_rows": chain.cut_rows + len(old)}
            connection.execute(update(audit_chain).values(values))
            connection.execute(delete(audit).where(audit.c.id <= last.id))
        return len(old) == _SLICE

    return turn
