"""Requests that may be repeated: what was asked with which ``Idempotency-Key``, and how it was answered.

Invariants:
    * A key is one requester's. With the same request it gives the same answer; with another one it is refused.
    * A request is done once: whoever repeats it while it runs is told to wait, and whoever repeats one whose service
      died in the middle is told that its outcome is not known.
    * Answers are kept for a day. Secrets are not kept: what answers one is told to have been done already.

Source: the Idempotency-Key HTTP header field (IETF httpapi working group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.access.tables import repeats
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Answer", "begin", "drop", "keep"]

_KEPT_SECONDS: Final = 86_400.0
_RUNNING_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Answer:
    """How a request was answered. ``body`` is None where it was a secret."""

    status: int
    media_type: str
    body: bytes | None


def begin(engine: Engine, who: str, key: str, request_sha256: str, now: float) -> Answer | None:
    """Begin a request; None if it is new, else the answer that it had.

    Raises:
        FleetError: ``api.idempotency``: the key was used for another request; ``api.in_progress``: the same one is
            being answered; ``api.outcome_unknown``: it was begun and never answered.
    """
    row = {"who": who, "key": key, "request_sha256": request_sha256, "created_at": now}
    try:
        with engine.begin() as connection:
            connection.execute(delete(repeats).where(repeats.c.created_at <= now - _KEPT_SECONDS))
            connection.execute(insert(repeats).values(row))
            return None
    except IntegrityError:
        pass
    mine = (repeats.c.who == who, repeats.c.key == key)
    with reading(engine) as connection:
        found = connection.execute(select(repeats).where(*mine)).first()
    if found is None:
        raise FleetError("api.in_progress", "the same request has just ended; ask again", 409)
    if found.request_sha256 != request_sha256:
        raise FleetError("api.idempotency", "this Idempotency-Key was used for another request; choose a new one", 409)
    if found.status is not None:
        return Answer(found.status, found.media_type or "", found.body)
    if now - found.created_at < _RUNNING_SECONDS:
        raise FleetError("api.in_progress", "the same request is being answered; ask again in a few seconds", 409)
    message = "the service ended while it did this; look whether it was done, then repeat it with a new key if not"
    raise FleetError("api.outcome_unknown", message, 409)


def keep(engine: Engine, who: str, key: str, answer: Answer) -> None:
    """Keep how a request was answered."""
    values = {"status": answer.status, "media_type": answer.media_type, "body": answer.body}
    with engine.begin() as connection:
        connection.execute(update(repeats).where(repeats.c.who == who, repeats.c.key == key).values(values))


def drop(engine: Engine, who: str, key: str) -> None:
    """Forget a request that was refused: it changed nothing, and may be asked again with the same key."""
    with engine.begin() as connection:
        connection.execute(delete(repeats).where(repeats.c.who == who, repeats.c.key == key))
