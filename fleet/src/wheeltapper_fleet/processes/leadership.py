"""Leadership: of several processes over one PostgreSQL, one does what must be done once; another takes over.

Invariants:
    * The leader holds an advisory lock of a session of its own. PostgreSQL gives it up when that session ends: at once
      when the process is killed, after some seconds when its machine is cut off (TCP keepalives). The next process asks
      every second.
    * Who begins to lead raises the epoch, in a transaction that waits for every transaction of the leader before that
      is under way. Each transaction of :attr:`Leadership.fenced` first looks, with a lock, whether the epoch is still
      its own. So no transaction of a former leader is ever committed after one of the next, whatever it believes.
    * SQLite serves one process, which leads.

What this module does not do: the work. It is started and stopped by ``begin`` and ``end``.

Source for the epoch: M. Kleppmann, "How to do distributed locking" (2016), fencing tokens.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, event, extract, func, literal, select, text
from sqlalchemy.exc import SQLAlchemyError

from wheeltapper_fleet.db.engine import is_read_only, upsert_statement
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.processes.tables import leadership

__all__ = ["Leadership"]

_LOG: Final = logging.getLogger(__name__)
_PART: Final = "engine"
_LOCK: Final = 7_742_002
_ASK_SECONDS: Final = 1.0
_SESSION: Final = (
    "SET tcp_keepalives_idle = 3",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 2",
    "SET statement_timeout = '5s'",
)
"""A machine that is cut off is noticed by PostgreSQL after seven seconds."""
_IDLE_LIMIT: Final = "SET LOCAL idle_in_transaction_session_timeout = '15s'"
"""A leader that stands still within a transaction loses it: the next one waits for it."""


class Leadership:
    """The place of one process in the queue of those that could lead.

    Args:
        database: the fleet's.
        name: of this process.
        begin: called when this process begins to lead, with the database to work on.
        end: called when it leads no more; returns when the work has stopped.
    """

    def __init__(self, database: Engine, name: str, begin: Callable[[Engine], None], end: Callable[[], None]) -> None:
        self._database = database
        self._name = name
        self._begin = begin
        self._end = end
        self._epoch: int | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.fenced = database.execution_options()
        """The database, for work that only the leader does."""
        event.listen(self.fenced, "begin", self._check)

    @property
    def leads(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return self._epoch is not None

    def start(self) -> None:
        """Ask for the lead, on a thread of its own. On SQLite this process leads at once."""
        if self._database.dialect.name != "postgresql":
            self._epoch = 0
            self._begin(self._database)
            return
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the work, then let the next process lead."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        elif self._epoch is not None:
            self._epoch = None
            self._end()

    def _run(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                with self._database.connect() as connection:
                    try:
                        failing = self._hold(connection, failing)
                    finally:
                        connection.invalidate()  # ends the session, and with it the lock
            except (SQLAlchemyError, OSError) as error:
                if not failing:
                    _LOG.error("the session that the lead depends on ended: %s", type(error).__name__)
                failing = True
            except Exception:  # noqa: BLE001  # what cannot be begun here may be begun elsewhere, or later
                _LOG.exception("leading could not be begun; trying again")
            self._stopping.wait(_ASK_SECONDS)

    def _hold(self, connection: Connection, failing: bool) -> bool:
        """Wait for the lock, then lead until it is lost or this process stops; returns False: the session works."""
        session = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in _SESSION:
            session.execute(text(statement))
        if failing:
            _LOG.warning("the database answers again")
        while not session.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar_one():
            if self._stopping.wait(_ASK_SECONDS):
                return False
        epoch = self._raise_epoch()
        _LOG.info("%s leads, epoch %d", self._name, epoch)
        try:
            self._epoch = epoch
            self._begin(self.fenced)
            while not self._stopping.wait(_ASK_SECONDS):
                session.execute(select(literal(1)))
        finally:
            self._epoch = None
            self._end()
            _LOG.info("%s leads no more", self._name)
        return False

    def _raise_epoch(self) -> int:
        """Begin an epoch: waits for the transactions of the one before."""
        with self._database.begin() as connection:
            since = extract("epoch", func.clock_timestamp())
            statement = upsert_statement(connection, leadership).values(
                part=_PART, epoch=1, holder=self._name, since=since
            )
            changed = {"epoch": leadership.c.epoch + 1, "holder": self._name, "since": since}
            statement = statement.on_conflict_do_update(index_elements=["part"], set_=changed)
            return int(connection.execute(statement.returning(leadership.c.epoch)).scalar_one())

    def _check(self, connection: Connection) -> None:
        """Before each transaction of the leader: it must be the leader's still, until the transaction ends.

        Raises:
            FleetError: ``engine.not_leading``.
        """
        if is_read_only(connection):
            return
        own = self._epoch
        query = select(leadership.c.epoch).where(leadership.c.part == _PART).with_for_update(read=True)
        if own is None or connection.execute(query).scalar() != own:
            raise FleetError("engine.not_leading", "another process leads by now; this one stops", 409)
        connection.execute(text(_IDLE_LIMIT))
