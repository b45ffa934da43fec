"""What a message means for the tables of telemetry: its rows, and what it says about its spool. Pure.

A device numbers its records 1, 2, 3, … within an epoch and sends each until it is acknowledged. It may drop records
when its spool is full; a message then says below which number it holds nothing any more (``oldest``), or that nothing
between ``after`` and the message's own first record will ever come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from wheeltapper_protocols.wire.messages import Alert, DriftReport, Report, Telemetry, TelemetryRecord

__all__ = ["Refusal", "SpoolChange", "alert_row", "report_row", "telemetry_row"]


@dataclass(frozen=True)
class Refusal:
    """A message that could not be accepted: from which device, with which error code, and why."""

    device: str
    code: str
    detail: str


@dataclass
class SpoolChange:
    """What the messages of one batch say about one spool (a device's records of one epoch)."""

    seqs: set[int] = field(default_factory=set)
    """The records that came."""
    oldest: int = 1
    """The device holds nothing below this number any more."""
    gaps: dict[int, int] = field(default_factory=dict)
    """Upper end → lower end (both exclusive) of ranges of which no record will ever come."""

    def add(self, message: Telemetry | Alert | Report) -> None:
        """Take in one message of the spool."""
        seqs = [each.seq for each in message.records] if isinstance(message, Telemetry) else [message.seq]
        first = min(seqs)
        self.seqs.update(seqs)
        self.oldest = max(self.oldest, min(message.oldest, first))
        if message.after is not None and message.after < first - 1:
            self.gaps[first] = min(message.after, self.gaps.get(first, first))


def telemetry_row(device: str, epoch: str, record: TelemetryRecord, now: float) -> dict[str, Any]:
    """The row of one scored window. It has a ``body`` only where the model says more than a score."""
    body = {"label": record.label, "value": record.value, "zone": record.zone}
    body = {name: value for name, value in body.items() if value is not None}
    return {
        "device": device,
        "epoch": epoch,
        "seq": record.seq,
        "kind": "telemetry",
        "received_at": now,
        "pipeline": record.pipeline,
        "window": record.window,
        "t_s": record.t_s,
        "model": record.model,
        "release": record.release,
        "score": record.score,
        "severity": record.severity.value,
        "latency_ms": record.latency_ms,
        **({"body": body} if body else {}),
    }


def alert_row(device: str, alert: Alert, now: float) -> dict[str, Any]:
    """The row of an alert among the records; ``body`` holds the whole message."""
    return {
        "device": device,
        "epoch": alert.epoch,
        "seq": alert.seq,
        "kind": "alert",
        "received_at": now,
        "pipeline": alert.pipeline,
        "window": alert.window,
        "t_s": alert.t_s,
        "model": alert.model,
        "release": alert.release,
        "score": alert.score,
        "severity": alert.severity.value,
        "body": msgspec.to_builtins(alert),
    }


def report_row(device: str, report: Report, now: float) -> dict[str, Any]:
    """The row of a report; ``body`` holds the whole message. A drift report can be found by its model and release."""
    row: dict[str, Any] = {
        "device": device,
        "epoch": report.epoch,
        "seq": report.seq,
        "kind": "report",
        "received_at": now,
        "pipeline": None,
        "window": None,
        "t_s": None,
        "model": None,
        "release": None,
        "score": None,
        "severity": None,
        "body": msgspec.to_builtins(report),
    }
    if isinstance(report.body, DriftReport):
        drift = report.body
        row |= {"pipeline": drift.pipeline, "model": drift.model, "release": drift.release}
        row |= {"window": drift.last_window, "t_s": drift.last_t_s}
    return row
