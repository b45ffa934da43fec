"""Changes targets, and sends notifications again; each function owns its transaction.

Invariants:
    * A secret is made here, from 32 random bytes, and given out once.
    * Removing a target removes what waits for it; what was sent stays.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import check_etag
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind
from wheeltapper_fleet.notify.outbox import MAX_TARGETS, enqueue
from wheeltapper_fleet.notify.rules import target_etag
from wheeltapper_fleet.notify.schemas import TargetChange, TargetRequest
from wheeltapper_fleet.notify.signing import secret_text
from wheeltapper_fleet.notify.tables import notifications, notify_targets
from wheeltapper_fleet.notify.webhook import check_url

__all__ = ["change_target", "create_target", "delete_target", "resend", "send_test"]

_MAIL: Final = re.compile(r"[^\s@<>,;:\"\\()]{1,64}@[A-Za-z0-9.-]{1,255}\Z")


def create_target(engine: Engine, asked: TargetRequest, who: str, now: float) -> str | None:
    """Create a target; returns the secret of a webhook.

    Raises:
        FleetError: ``notify.exists``, ``notify.url``, ``notify.mail``, ``notify.too_many``, ``query.invalid``.
    """
    _check(asked.kind, asked.address, asked.query)
    secret = secret_text(secrets.token_bytes(32)) if asked.kind == "webhook" else None
    with engine.begin() as connection:
        if connection.execute(select(func.count()).select_from(notify_targets)).scalar_one() >= MAX_TARGETS:
            raise FleetError("notify.too_many", f"there are {MAX_TARGETS} targets already", 409)
        if _find(connection, asked.id) is not None:
            raise FleetError("notify.exists", f"there is a target {asked.id} already; choose another name", 409)
        row = {**asked.model_dump(mode="json"), "secret": secret, "enabled": True, "failures": 0}
        connection.execute(insert(notify_targets).values({**row, "created_at": now, "created_by": who}))
    return secret


def change_target(engine: Engine, target: str, asked: TargetChange, if_match: str | None = None) -> None:
    """Change a target; deliveries to it go on at once.

    Raises:
        FleetError: ``notify.not_found``, ``notify.url``, ``notify.mail``, ``query.invalid``; ``notify.conflict``: it is
            not as ``if_match`` says any more (:mod:`wheeltapper_fleet.ground.etag`).
    """
    with engine.begin() as connection:
        row = _existing(connection, target, if_match)
        values = asked.model_dump(mode="json", exclude_none=True)
        _check(row["kind"], values.get("address", row["address"]), values.get("query", row["query"]))
        values |= {"failures": 0, "retry_at": None, "error": None}
        connection.execute(update(notify_targets).where(notify_targets.c.id == target).values(values))


def delete_target(engine: Engine, target: str, if_match: str | None = None) -> None:
    """Remove a target.

    Raises:
        FleetError: ``notify.not_found``, ``notify.conflict``.
    """
    with engine.begin() as connection:
        _existing(connection, target, if_match)
        connection.execute(delete(notify_targets).where(notify_targets.c.id == target))
        connection.execute(delete(notifications).where(notifications.c.target == target, text("state = 'waiting'")))


def send_test(engine: Engine, target: str, who: str, now: float) -> None:
    """Tell a target that it would be told.

    Raises:
        FleetError: ``notify.not_found``.
    """
    said = Occurrence(kind=OccurrenceKind.TEST, subject="test", title=f"a test, asked for by {who}", at=now)
    with engine.begin() as connection:
        _existing(connection, target)
        enqueue(connection, target, said)
        connection.execute(update(notify_targets).where(notify_targets.c.id == target).values(retry_at=None))


def resend(engine: Engine, number: int, now: float) -> None:
    """Send a dead notification again, with all its attempts; its id stays.

    Raises:
        FleetError: ``notify.not_found``, ``notify.not_dead``.
    """
    with engine.begin() as connection:
        row = connection.execute(select(notifications).where(notifications.c.id == number)).first()
        if row is None:
            raise FleetError("notify.not_found", f"there is no notification {number}", 404)
        _existing(connection, row.target)
        if row.state != "dead":
            raise FleetError(
                "notify.not_dead", f"notification {number} is {row.state}: only a dead one is sent again", 409
            )
        again = {"state": "waiting", "attempts": 0, "next_at": now, "created_at": now, "error": None}
        connection.execute(update(notifications).where(notifications.c.id == number).values(again))
        connection.execute(update(notify_targets).where(notify_targets.c.id == row.target).values(retry_at=None))


def _check(kind: str, address: str, query: str) -> None:
    if kind == "webhook":
        check_url(address)
    elif not _MAIL.match(address):
        raise FleetError("notify.mail", "this is no mail address", 422)
    if query.strip():
        parse(query)


def _find(connection: Connection, target: str) -> dict[str, Any] | None:
    query = select(notify_targets).where(notify_targets.c.id == target).with_for_update()
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


def _existing(connection: Connection, target: str, if_match: str | None = None) -> dict[str, Any]:
    row = _find(connection, target)
    if row is None:
        raise FleetError("notify.not_found", f"there is no target {target[:63]!r}", 404)
    check_etag(if_match, target_etag(row), "notify.conflict", f"the target {target}")
    return row
