"""Reports on captures, on their way into the spool.

Invariants: a report that the spool refuses is kept in memory and tried again, at most :data:`MAX_WAITING` of them;
one that is refused holds up no other; what the spool raises is
logged, except in :meth:`CaptureReports.append`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.records.port import Records, unnumbered_report
from wheeltapper_protocols.wire.messages import CaptureReport

__all__ = ["MAX_WAITING", "AnsweringRecords", "CaptureReports", "recording_report"]

_LOG = logging.getLogger(__name__)
MAX_WAITING: Final = 100
_MAX_DETAIL_CHARACTERS: Final = 1000


class AnsweringRecords(Records, Protocol):
    """The spool, as a writer sees it who also needs to know which commands have been answered."""

    def answered(self, command: str) -> bool:
        """Whether a report on ``command`` was appended, in this run of the agent or an earlier one."""
        ...


class CaptureReports:
    """Appends reports to the spool, now or as soon as it takes them. Safe to use from several threads.

    Args:
        records: the spool.
        clock: time.
        dropped_by_rules: how many recordings each pipeline's rules have dropped since the start.
    """

    def __init__(
        self, records: AnsweringRecords, clock: Clock, dropped_by_rules: Callable[[], Mapping[str, int]]
    ) -> None:
        self._records = records
        self._clock = clock
        self._dropped_by_rules = dropped_by_rules
        self._waiting: dict[str, CaptureReport] = {}
        self._dropped_reported: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many reports wait for the spool to take them."""
        return len(self._waiting)

    def is_waiting(self, name: str) -> bool:
        """Whether the report on a command or recording waits for the spool to take it."""
        return name in self._waiting

    def answered(self, command: str) -> bool:
        """Whether the spool has a report on ``command``."""
        return self._records.answered(command)

    def append(self, report: CaptureReport) -> None:
        """Append ``report`` to the spool now; whatever the spool raises is the caller's."""
        self._records.append(unnumbered_report(report, self._clock.now()))

    def add(self, name: str, report: CaptureReport) -> None:
        """Append ``report`` on the command or recording ``name``; where the spool refuses, :meth:`retry` does it."""
        try:
            self.append(report)
        except Exception:  # noqa: BLE001  # logged; the spool may take it later
            _LOG.exception("capture %s: the spool refuses the report on it; it is tried again", name)
            with self._lock:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting[name] = report
                else:
                    _LOG.error("capture %s: the report %s is lost: too many others wait", name, report.code)

    def refuse(self, command: str, pipeline: str, code: str, detail: str) -> None:
        """Report that ``command`` cannot be done."""
        report = CaptureReport(command=command, pipeline=pipeline, code=code, detail=detail[:_MAX_DETAIL_CHARACTERS])
        self.add(command, report)

    def retry(self) -> None:
        """Append what the spool refused before, and report what rules have dropped since the last time."""
        with self._lock:
            try:
                for name, report in list(self._waiting.items()):
                    self._waiting[name] = self._waiting.pop(name)  # to the end: a refused one holds up no other
                    self.append(report)
                    del self._waiting[name]
                for pipeline, dropped in self._dropped_by_rules().items():
                    new = dropped - self._dropped_reported.get(pipeline, 0)
                    if new == 0:
                        continue
                    detail = f"{new} recordings by rule were dropped: others were still to become files"
                    self.append(CaptureReport(pipeline=pipeline, code="capture.busy", detail=detail))
                    self._dropped_reported[pipeline] = dropped
            except Exception:  # noqa: BLE001  # logged; the spool may take it later
                _LOG.warning("captures: the spool refuses reports; they are tried again", exc_info=True)


def recording_report(entry: PendingRecording, code: str = "", detail: str = "") -> CaptureReport:
    """The report on a recording that was a file: stored by the fleet (no ``code``), or why it never will be."""
    return CaptureReport(
        command=entry.command,
        pipeline=entry.pipeline,
        sha256=None if code else entry.sha256,
        length=0 if code else entry.length,
        snapshots=0 if code else entry.snapshots,
        code=code,
        detail=detail[:_MAX_DETAIL_CHARACTERS],
        reason=entry.reason,
        upload=None if entry.command is not None else entry.name,
    )
