"""The spool as pipelines and updates see it, which only write to it. Pure."""

from __future__ import annotations

from typing import Final, Protocol

from wheeltapper_protocols.wire.messages import NO_SCORE, Alert, Report, ReportBody, Severity, TelemetryRecord

__all__ = ["NO_EPOCH", "Records", "no_score_key", "unnumbered_report"]


NO_EPOCH: Final = "0" * 16
"""The epoch in a record that the spool has not numbered yet."""


def no_score_key(pipeline: str) -> str:
    """The name under which :meth:`Records.open_alert` knows the alert that windows of ``pipeline`` get no score."""
    return f"{pipeline}/{NO_SCORE}"


def unnumbered_report(body: ReportBody, now_seconds: float) -> Report:
    """A report to hand to :meth:`Records.append`, which gives it its number and epoch.

    Args:
        body: what is reported.
        now_seconds: Unix time; a clock that stands before 1970 counts as 0.
    """
    return Report(epoch=NO_EPOCH, oldest=1, seq=1, at=max(0.0, now_seconds), body=body)


class Records(Protocol):
    """The spool, as its writers see it; implemented by :class:`wheeltapper_agent.records.spool.Spool`."""

    def append(self, *items: TelemetryRecord | Alert | Report) -> None:
        """Number the records and store them.

        Raises:
            sqlite3.Error, OSError: the disk refuses; none of the records was stored.
        """

    def next_window(self, pipeline: str) -> int:
        """The index of the next window of ``pipeline``, also after a restart."""

    def open_alert(self, pipeline: str) -> Severity:
        """The severity of the alert of ``pipeline`` that was raised last and is not cleared yet, also after a restart;
        NORMAL if there is none."""
