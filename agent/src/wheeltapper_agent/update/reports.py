"""The updater's reports on their way into the spool.

Invariants:
    * Reports are appended in the order in which they were made.
    * What the disk refuses is kept in memory and tried again; of these the newest :data:`MAX_PENDING` are kept. The end
      of an execution is the last that is dropped. How many were dropped is logged.

What this module does not do: deliver (:mod:`wheeltapper_agent.records.delivery`).
"""

from __future__ import annotations

import logging
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.records.port import Records, unnumbered_report
from wheeltapper_protocols.wire.messages import ExecutionReport, Report, ReportBody

__all__ = ["MAX_PENDING", "ReportQueue"]

_LOG = logging.getLogger(__name__)
MAX_PENDING: Final = 256


def _is_end(report: Report) -> bool:
    """Whether ``report`` says how an execution ended."""
    return isinstance(report.body, ExecutionReport) and report.body.state.terminal


class ReportQueue:
    """Appends reports to ``records``, which is the spool. Only the updater's thread may use it."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._pending: list[Report] = []
        self._dropped = 0

    @property
    def pending(self) -> bool:
        """Whether a report could not be appended yet."""
        return bool(self._pending)

    def add(self, body: ReportBody) -> None:
        """Append a report with ``body`` and the present time, now or, where the disk refuses, later."""
        self._pending.append(unnumbered_report(body, self._clock.now()))
        if len(self._pending) > MAX_PENDING:
            del self._pending[next((place for place, one in enumerate(self._pending) if not _is_end(one)), 0)]
            self._dropped += 1
        self.send()

    def send(self) -> None:
        """Try again to append what the disk refused."""
        if not self._pending:
            return
        try:
            self._records.append(*self._pending)
        except Exception as error:  # noqa: BLE001  # SQLite and the file system each have their own
            _LOG.error("updater: %d reports wait for room in the spool: %s [spool.storage]", len(self._pending), error)
        else:
            self._pending.clear()
            if self._dropped:
                _LOG.error("updater: %d older reports found no room and were dropped [spool.storage]", self._dropped)
                self._dropped = 0
