"""The duty that delivers notifications, each target by itself.

Invariants:
    * At most one delivery to a target is under way, in a thread of its own: one that hangs or fails holds up no other.
    * A notification is marked as sent after the receiver has taken it: it is told at least once, and has an id by which
      a receiver knows a repetition.
    * A target that cannot be reached is left alone for a growing time; what waits for it keeps its order. What its
      receiver refuses for itself is tried no more. After the last attempt, or three days, a notification is dead:
      shown, logged once, and sent again on request.
    * A turn starts deliveries and returns; none waits for the network. A delivery takes at most :data:`SLICE` messages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, delete, or_, select, text, update

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.notify.mail import send_mail
from wheeltapper_fleet.notify.outbox import MAX_TARGETS
from wheeltapper_fleet.notify.rules import MAX_ATTEMPTS, pause_seconds
from wheeltapper_fleet.notify.settings import NotifySettings
from wheeltapper_fleet.notify.tables import notifications, notify_targets
from wheeltapper_fleet.notify.webhook import SendError, send_webhook

__all__ = ["SLICE", "Delivery"]

_LOG: Final = logging.getLogger(__name__)
SLICE: Final = 50
_GIVEN_UP_SECONDS: Final = 3 * 86_400.0
_KEPT_SECONDS: Final = 30 * 86_400.0
_WAITING: Final = text("state = 'waiting'")
_CLEAN_SECONDS: Final = 60.0
_CLEANED_AT_ONCE: Final = 500


class Delivery:
    """Delivers what the outbox holds.

    Args:
        engine: the fleet's database.
        settings: the mail server, and where webhooks may go.
    """

    def __init__(self, engine: Engine, settings: NotifySettings) -> None:
        self._engine = engine
        self._settings = settings
        self._pool = ThreadPoolExecutor(MAX_TARGETS, thread_name_prefix="notify")
        self._under_way: dict[str, Future[None]] = {}
        self._cleaned_at = 0.0

    def turn(self, now: float) -> bool:
        """Start a delivery to each target that something is due for; whether there is more to clean up at once."""
        for name in [name for name, future in self._under_way.items() if future.done()]:
            error = self._under_way.pop(name).exception()
            if error is not None:
                _LOG.error("deliveries to %s broke off and are tried again", name, exc_info=error)
        for target in self._due(now):
            self._under_way[target.id] = self._pool.submit(self._deliver, target, now)
        return self._clean(now)

    def wait(self) -> None:
        """Wait for what is under way."""
        for future in list(self._under_way.values()):
            future.exception()

    def stop(self) -> None:
        """Begin no more deliveries; those under way end by their timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _due(self, now: float) -> list[Row[Any]]:
        """The targets that something is due for and that nothing is under way to; one look-up for each target."""
        ready = or_(notify_targets.c.retry_at.is_(None), notify_targets.c.retry_at <= now)
        query = select(notify_targets).where(notify_targets.c.enabled.is_(True), ready).order_by(notify_targets.c.id)
        with reading(self._engine) as connection:
            targets = [row for row in connection.execute(query) if row.id not in self._under_way]
            return [row for row in targets if connection.execute(_waiting(row.id, now).limit(1)).first() is not None]

    def _deliver(self, target: Row[Any], now: float) -> None:
        with reading(self._engine) as connection:
            rows = connection.execute(_waiting(target.id, now).limit(SLICE)).all()
        if not rows:
            return
        batches = [rows] if target.kind == "mail" else [[row] for row in rows]
        for batch in batches:
            try:
                self._send(target, batch, now)
            except SendError as error:
                self._failed(target, batch, error, now)
                if not error.of_message:
                    return
            else:
                self._sent(target, batch, now)

    def _send(self, target: Row[Any], batch: Sequence[Row[Any]], now: float) -> None:
        if target.kind == "mail":
            told = [(row.title, [str(each) for each in _why(row.body)]) for row in batch]
            send_mail(self._settings, target.address, told, now)
            return
        [row] = batch
        body = json.dumps(row.body, separators=(",", ":")).encode()
        allowed = self._settings.networks()
        send_webhook(target.address, target.secret or "", row.message, now, body, allowed, self._settings.ca_file)

    def _sent(self, target: Row[Any], batch: Sequence[Row[Any]], now: float) -> None:
        with self._engine.begin() as connection:
            same = notifications.c.id.in_([row.id for row in batch])
            done = {"state": "sent", "sent_at": now, "error": None, "attempts": notifications.c.attempts + 1}
            connection.execute(update(notifications).where(same).values(done))
            _mark(connection, target.id, failures=0, error=None, retry_at=None, sent_at=now)

    def _failed(self, target: Row[Any], batch: Sequence[Row[Any]], error: SendError, now: float) -> None:
        with self._engine.begin() as connection:
            for row in batch:
                attempts = row.attempts + 1
                dead = error.of_message or attempts >= MAX_ATTEMPTS
                values = {"attempts": attempts, "error": str(error)[:300]}
                connection.execute(
                    update(notifications)
                    .where(notifications.c.id == row.id)
                    .values({**values, "state": "dead" if dead else "waiting"})
                )
                if dead:
                    _LOG.warning("%s is not told of %s: %s", target.id, row.title, error)
            if error.of_message:
                _mark(connection, target.id, error=str(error)[:300])
                return
            known = select(notify_targets.c.failures).where(notify_targets.c.id == target.id)
            failures = int(connection.execute(known).scalar() or 0) + 1
            pause = min(pause_seconds(failures), 3600.0)
            _mark(connection, target.id, failures=failures, error=str(error)[:300], retry_at=now + pause)
        if failures == 1:
            _LOG.warning("%s cannot be told: %s; trying again", target.id, error)

    def _clean(self, now: float) -> bool:
        """Give up what waits for days, and forget what was sent a month ago, some at a time."""
        if 0 <= now - self._cleaned_at < _CLEAN_SECONDS:
            return False
        with self._engine.begin() as connection:
            old = notifications.c.created_at < now - _GIVEN_UP_SECONDS
            stale = select(notifications.c.id).where(_WAITING, old).limit(_CLEANED_AT_ONCE)
            given_up = {"state": "dead", "error": "it could not be delivered within three days"}
            count = connection.execute(
                update(notifications).where(notifications.c.id.in_(stale)).values(given_up)
            ).rowcount
            past = notifications.c.created_at < now - _KEPT_SECONDS
            gone = select(notifications.c.id).where(past, notifications.c.state != "waiting").limit(_CLEANED_AT_ONCE)
            removed = connection.execute(delete(notifications).where(notifications.c.id.in_(gone))).rowcount
        if count:
            _LOG.warning("%d notifications could not be delivered within three days and are given up", count)
        more = _CLEANED_AT_ONCE in (count, removed)
        self._cleaned_at = self._cleaned_at if more else now
        return more


def _waiting(target: str, now: float) -> Any:
    """What is due for a target, oldest first."""
    due = (notifications.c.target == target, _WAITING, notifications.c.next_at <= now)
    return select(notifications).where(*due).order_by(notifications.c.next_at, notifications.c.id)


def _mark(connection: Connection, target: str, **values: Any) -> None:
    connection.execute(update(notify_targets).where(notify_targets.c.id == target).values(**values))


def _why(body: Any) -> list[str]:
    """The reasons in what is told."""
    data = body.get("data") if isinstance(body, dict) else None
    why = data.get("why") if isinstance(data, dict) else None
    return [str(each) for each in why] if isinstance(why, list) else []
