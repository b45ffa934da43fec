"""Membership: each process says every second that it is alive, and learns which others of its role are.

Invariants:
    * A process counts as alive for :data:`ALIVE_SECONDS` after its newest beat, by the database's clock, so that clocks
      of machines that differ do not matter.
    * While the database does not answer, the last known members stay.

What this module does not do: decide who does what (:mod:`wheeltapper_fleet.broker.partitions`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, extract, func, select
from sqlalchemy.exc import SQLAlchemyError

from wheeltapper_fleet import __version__
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.processes.tables import processes

__all__ = ["ALIVE_SECONDS", "Membership", "database_time"]

_LOG: Final = logging.getLogger(__name__)
_BEAT_SECONDS: Final = 1.0
ALIVE_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 7 * 86_400.0


class Membership:
    """The place of one process among those of its role.

    Args:
        database: a PostgreSQL.
        name: of this process.
        role: of this process.
        on_change: called with the sorted names of the living ones, first at :meth:`start`, then on a thread of its own
            whenever they change.
    """

    def __init__(
        self, database: Engine, name: str, role: str, on_change: Callable[[tuple[str, ...]], None] = lambda names: None
    ) -> None:
        self._database = database
        self._name = name
        self._role = role
        self._on_change = on_change
        self._members: tuple[str, ...] = ()
        self._failing = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Join: the first beat, then one every second.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        self._turn(first=True)
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave at once, so that nobody waits until this process counts as dead."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            try:
                with self._database.begin() as connection:
                    connection.execute(delete(processes).where(processes.c.name == self._name))
            except SQLAlchemyError as error:
                _LOG.info("this process could not leave: %s", type(error).__name__)

    def _run(self) -> None:
        while not self._stopping.wait(_BEAT_SECONDS):
            try:
                self._turn(first=False)
                self._failing = False
            except SQLAlchemyError as error:
                if not self._failing:
                    _LOG.error("the database does not take this process's beat: %s", type(error).__name__)
                self._failing = True
            except Exception:  # noqa: BLE001  # else this process would seem dead
                _LOG.exception("what follows from a change of members failed")

    def _turn(self, *, first: bool) -> None:
        with self._database.begin() as connection:
            now = database_time(connection)
            self._beat(connection, now, first)
            alive = (processes.c.role == self._role, processes.c.seen_at > now - ALIVE_SECONDS)
            query = select(processes.c.name).where(*alive).order_by(processes.c.name)
            members = tuple(connection.execute(query).scalars())
        if members != self._members:
            _LOG.info("%s processes: %s", self._role, ", ".join(members))
            self._members = members
            self._on_change(members)

    def _beat(self, connection: Connection, now: float, first: bool) -> None:
        row: dict[str, Any] = {"name": self._name, "role": self._role, "host": socket.gethostname()[:255]}
        row |= {"pid": os.getpid(), "version": __version__, "started_at": now, "seen_at": now}
        changed = {"seen_at": now} if not first else {key: value for key, value in row.items() if key != "name"}
        statement = upsert_statement(connection, processes).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))
        if first:
            connection.execute(delete(processes).where(processes.c.seen_at < now - _KEPT_SECONDS))


def database_time(connection: Connection) -> float:
    """Unix seconds, by the database's clock."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one())
    return (float(connection.execute(select(func.julianday("now"))).scalar_one()) - 2_440_587.5) * 86_400.0
