"""Reads what is stored of the past: single records out of the messages, and curves out of the roll-ups.

Readers see records, never the messages that they came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select

from wheeltapper_fleet.telemetry.tables import messages
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import Alert, DriftReport, Report, Telemetry
from wheeltapper_protocols.wire.topics import Up

__all__ = ["StoredRecord", "iter_records", "records_in"]

_MESSAGES_READ: Final = 500


@dataclass(frozen=True, kw_only=True)
class StoredRecord:
    """One record as a device delivered it. Times are Unix seconds; ``t_s`` is by the machine's clock."""

    device: str
    epoch: str
    seq: int
    kind: str
    """``telemetry``, ``alert`` or ``report``."""
    received_at: float
    pipeline: str | None = None
    window: int | None = None
    t_s: float | None = None
    model: str | None = None
    release: int | None = None
    score: float | None = None
    severity: str | None = None
    latency_ms: float | None = None
    label: str | None = None
    value: float | None = None
    zone: str | None = None
    undated: bool = False
    body: dict[str, Any] | None = None
    """The whole message, of alerts and reports."""


def records_in(row: Row[Any]) -> list[StoredRecord]:
    """The records of one row of ``messages``, in the order of their numbers."""
    message = decode(Up(row.kind), row.body)
    same: dict[str, Any] = {"device": row.device, "epoch": row.epoch, "kind": row.kind, "received_at": row.received_at}
    match message:
        case Telemetry():
            return [
                StoredRecord(**same, **(msgspec.structs.asdict(record) | {"severity": record.severity.value}))
                for record in sorted(message.records, key=lambda record: record.seq)
            ]
        case Alert():
            said = {name: getattr(message, name) for name in _OF_ALERTS}
            said |= {"severity": message.severity.value, "body": msgspec.to_builtins(message)}
            return [StoredRecord(**same, **said)]
        case Report():
            said = {"seq": message.seq, "undated": message.undated, "body": msgspec.to_builtins(message)}
            if isinstance(message.body, DriftReport):
                drift = message.body
                said |= {"pipeline": drift.pipeline, "model": drift.model, "release": drift.release}
                said |= {"window": drift.last_window, "t_s": drift.last_t_s}
            return [StoredRecord(**same, **said)]
    raise TypeError(f"a stored message is a {type(message).__name__}")  # pragma: no cover  # the kinds above are all


_OF_ALERTS: Final = (
    "seq",
    "pipeline",
    "window",
    "t_s",
    "model",
    "release",
    "score",
    "label",
    "value",
    "zone",
    "undated",
)


def iter_records(connection: Connection, device: str | None = None) -> Iterator[StoredRecord]:
    """All records, or those of one device, in the order in which they were stored; for exports.

    Reads :data:`_MESSAGES_READ` messages at a time.
    """
    last = 0
    query = select(messages).order_by(messages.c.id).limit(_MESSAGES_READ)
    if device is not None:
        query = query.where(messages.c.device == device)
    while rows := connection.execute(query.where(messages.c.id > last)).all():
        for row in rows:
            yield from records_in(row)
        last = rows[-1].id
