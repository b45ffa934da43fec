"""The spool as its writers see it."""

from __future__ import annotations

from typing import Final, Protocol

from wheeltapper_protocols.wire.messages import Alert, Report, ReportBody, Severity, TelemetryRecord

__all__ = ["NO_EPOCH", "Records", "unnumbered_report"]


NO_EPOCH: Final = "0" * 16
"""Stands in a record until the spool gives its own."""


def unnumbered_report(body: ReportBody, now_seconds: float) -> Report:
    """A report for :meth:`Records.append`, which gives it its seq and epoch. A clock before 1970 counts as 1970."""
    return Report(epoch=NO_EPOCH, oldest=1, seq=1, at=max(0.0, now_seconds), body=body)


class Records(Protocol):
    """The spool, as its writers see it."""

    def append(self, *items: TelemetryRecord | Alert | Report) -> None: ...

    def next_window(self, pipeline: str) -> int: ...

    def open_alert(self, pipeline: str) -> Severity:
        """The severity of the alert that was raised last and not cleared, NORMAL where there is none; of records that
        were kept, and so over restarts."""
