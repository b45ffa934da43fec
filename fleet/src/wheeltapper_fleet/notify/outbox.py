"""The outbox of notifications, in the caller's transaction: what was decided and what is told of it commit together.

Costs one query for the targets (at most :data:`MAX_TARGETS`), one for the devices' facts where a rule asks for them,
and one statement for all rows.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select

from wheeltapper_fleet.devices.selection import facts_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.notify.occurrence import Occurrence
from wheeltapper_fleet.notify.rules import Rules, wants
from wheeltapper_fleet.notify.tables import notifications, notify_targets

__all__ = ["MAX_TARGETS", "announce", "enqueue", "rules_of"]

_LOG: Final = logging.getLogger(__name__)
MAX_TARGETS: Final = 100


def announce(connection: Connection, occurrences: Sequence[Occurrence]) -> None:
    """Write down who is told of what. A rule that cannot be read is logged, and its target is told of everything."""
    if not occurrences:
        return
    targets = connection.execute(select(notify_targets).where(notify_targets.c.enabled.is_(True))).all()
    if not targets:
        return
    facts: dict[str, dict[str, object]] = {}
    if any(target.query for target in targets):
        facts = facts_of(connection, sorted({each.device for each in occurrences if each.device is not None}))
    rows = [
        _row(target.id, occurrence)
        for occurrence in occurrences
        for target in targets
        if _wants(target, occurrence, facts)
    ]
    if rows:
        connection.execute(insert(notifications), rows)


def enqueue(connection: Connection, target: str, occurrence: Occurrence) -> None:
    """Tell one target, whatever its rules say."""
    connection.execute(insert(notifications).values(_row(target, occurrence)))


def rules_of(row: Row[Any]) -> Rules:
    """The rules of a row of ``notify_targets``."""
    return Rules(
        events=row.events or (),
        min_severity=row.min_severity,
        sites=row.sites or (),
        models=row.models or (),
        query=row.query,
    )


def _wants(target: Row[Any], occurrence: Occurrence, facts: Mapping[str, Mapping[str, object]]) -> bool:
    try:
        return wants(rules_of(target), occurrence, facts.get(occurrence.device or "", {}), occurrence.at)
    except FleetError as error:
        _LOG.warning("target %s is told of everything: its rule cannot be read: %s", target.id, error)
        return True


def _row(target: str, occurrence: Occurrence) -> dict[str, Any]:
    message = f"msg_{secrets.token_hex(12)}"
    body: dict[str, Any] = {"type": occurrence.kind.value, "timestamp": occurrence.at, "title": occurrence.title}
    body |= {"subject": occurrence.subject, "severity": occurrence.severity, "data": dict(occurrence.data)}
    return {
        "message": message,
        "target": target,
        "kind": occurrence.kind.value,
        "subject": occurrence.subject[:120],
        "title": occurrence.title[:300],
        "severity": occurrence.severity,
        "body": body,
        "state": "waiting",
        "created_at": occurrence.at,
        "attempts": 0,
        "next_at": occurrence.at,
    }
