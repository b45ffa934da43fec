"""The work of the leading process: the campaign engine, and the duties of all rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

from sqlalchemy import Engine as Database

from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.campaigns.assignments import Sign
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.ground.duties import Duties, Duty

__all__ = ["LeadersWork"]


class LeadersWork:
    """Begun when this process leads, ended when it leads no more; then begun anew, from what the database says.

    Args:
        sign: signs an assignment.
        link: publishes what the engine decides.
        duties: gives the duties, made for the database that they are to work on; the stack ends what they need.
    """

    def __init__(self, sign: Sign, link: FleetLink, duties: Callable[[Database, ExitStack], Iterable[Duty]]) -> None:
        self._sign = sign
        self._link = link
        self._duties_of = duties
        self._engine: CampaignEngine | None = None
        self._duties: Duties | None = None
        self._stack = ExitStack()
        link.on_connected.append(self._broker_is_back)

    def begin(self, database: Database) -> None:
        """Begin; ``database`` lets only the leader write."""
        self._engine = CampaignEngine(database, self._sign)
        self._engine.start(self._link.publish)
        self._duties = Duties()
        for duty in self._duties_of(database, self._stack):
            self._duties.add(duty)
        self._duties.start()

    def end(self) -> None:
        """End; returns when the engine's thread has ended, and the duties', as far as they end in time."""
        if self._duties is not None:
            self._duties.stop()
        self._stack.close()
        if self._engine is not None:
            self._engine.stop()
        self._engine = self._duties = None

    def failing(self) -> list[str]:
        """The names of the duties that fail."""
        duties = self._duties
        return [] if duties is None else list(duties.failing())

    def _broker_is_back(self) -> None:
        if (engine := self._engine) is not None:
            engine.broker_is_back()
