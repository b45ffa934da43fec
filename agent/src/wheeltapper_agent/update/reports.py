"""Reports of the update machine on their way into the spool.

Invariants: in their order; what the disk refuses is kept for the next try, up to a bound, the newest.

What this module does not do: deliver (:mod:`adapters.delivery`).
"""

from __future__ import annotations

import logging
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.records.port import Records, unnumbered_report
from wheeltapper_protocols.wire.messages import Report, ReportBody

__all__ = ["Reports"]

_LOG = logging.getLogger(__name__)
_MAX_UNSENT: Final = 256


class Reports:
    """Appends to ``records``. Only the updater's thread may use it."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._unsent: list[Report] = []

    @property
    def waiting(self) -> bool:
        """Whether something was not appended yet."""
        return bool(self._unsent)

    def add(self, body: ReportBody) -> None:
        """Append, now or later."""
        self._unsent.append(unnumbered_report(body, self._clock.now()))
        del self._unsent[:-_MAX_UNSENT]
        self.send()

    def send(self) -> None:
        """Try again what the disk refused."""
        if not self._unsent:
            return
        try:
            self._records.append(*self._unsent)
        except Exception as error:  # noqa: BLE001  # SQLite and the file system each have their own
            _LOG.error("updater: %d reports wait for the spool: %s [spool.storage]", len(self._unsent), error)
        else:
            self._unsent.clear()
