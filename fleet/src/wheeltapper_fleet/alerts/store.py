"""Stores alerts, in the caller's transaction. An alert that comes again changes nothing.

Costs one statement a batch. What an alert means for cases is decided afterwards, outside of the ingest
(:mod:`wheeltapper_fleet.alerts.intake`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection

from wheeltapper_fleet.alerts.tables import alerts
from wheeltapper_fleet.db.engine import insert_ignore
from wheeltapper_protocols.wire.messages import Alert

__all__ = ["store_alerts"]


def store_alerts(connection: Connection, messages: Iterable[tuple[str, Alert]], now: float) -> None:
    """Store alert messages, each with the device that sent it; they came at ``now`` (Unix seconds)."""
    insert_ignore(connection, alerts, [_row(device, alert, now) for device, alert in messages])


def _row(device: str, alert: Alert, now: float) -> dict[str, Any]:
    return {
        "device": device,
        "epoch": alert.epoch,
        "seq": alert.seq,
        "pipeline": alert.pipeline,
        "window": alert.window,
        "t_s": alert.t_s,
        "at": alert.at,
        "model": alert.model,
        "release": alert.release,
        "score": alert.score,
        "severity": alert.severity.value,
        "raised": alert.raised,
        "reasons": msgspec.to_builtins(alert.reasons),
        "label": alert.label,
        "value": alert.value,
        "unit": alert.unit,
        "zone": alert.zone,
        "slowly": alert.slowly,
        "happened_at": now if alert.undated else min(alert.at, now),
    }
