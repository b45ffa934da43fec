"""What people do to devices: move them through their life, tag them, one or many. Each use case owns its transactions.

Invariants:
    * Whatever changes what a device shall run hands its id to ``changed`` in the same transaction.
    * A device whose identity has ended is disconnected after the commit.
    * Many devices are changed in slices, so that no transaction is long; a change that broke off is finished by asking
      for it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.lifecycle import forget_device, move_device, move_devices
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.rules import Action, after, device_etag, may_connect
from wheeltapper_fleet.devices.schemas import BulkView
from wheeltapper_fleet.devices.scope import check_kept, narrowed
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.devices.tags import TagChange, changed_tags, check_tags, write_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import check_etag
from wheeltapper_fleet.ground.query import Query, parse

__all__ = ["BulkChange", "Devices"]

_SLICE: Final = 500


@dataclass(frozen=True)
class BulkChange:
    """What is done to each of many devices: an action, other tags, or both."""

    action: Action | None = None
    tags: TagChange = field(default_factory=dict)


def _nothing(*_: object) -> None:
    """What a caller that needs no notice hands in."""


@dataclass(frozen=True)
class Devices:
    """The use cases.

    Args:
        engine: the fleet's database.
        clock: Unix seconds.
        changed: told of devices that have changed, at which time, within the transaction that changed them.
        disconnect: ends the connection of a device, if it has one.
    """

    engine: Engine
    clock: Callable[[], float]
    changed: Callable[[Connection, Collection[str], float], None] = _nothing
    disconnect: Callable[[str], None] = _nothing

    def move(self, device: str, action: Action, *, who: str, why: str = "", if_match: str | None = None) -> None:
        """Move ``device`` through its life, for the reason ``why``.

        Raises:
            FleetError: ``device.not_found``, ``device.transition``; ``device.conflict``: it is not as ``if_match`` says
                any more (:mod:`wheeltapper_fleet.ground.etag`).
        """
        now = self.clock()
        with self.engine.begin() as connection:
            state = move_device(connection, device, action, who=who, why=why, now=now, if_match=if_match)
            self.changed(connection, [device], now)
        if not may_connect(state):
            self.disconnect(device)

    def tag(
        self, device: str, change: TagChange, *, who: str, why: str = "", if_match: str | None = None, scope: str = ""
    ) -> None:
        """Change tags of ``device``; the others stay.

        Raises:
            FleetError: ``device.not_found``, ``device.conflict``, ``tag.invalid``, ``tag.too_many``;
                ``api.out_of_scope``: the device would not be one of ``scope`` any more.
        """
        check_tags(change)
        now = self.clock()
        with self.engine.begin() as connection:
            query = select(devices.c.id, devices.c.state, devices.c.tags).where(devices.c.id == device)
            row = connection.execute(query.with_for_update()).first()
            if row is None:
                raise FleetError("device.not_found", f"there is no device {device[:80]!r}")
            check_etag(if_match, device_etag(row.state, row.tags), "device.conflict", device)
            tags = changed_tags(_tags(row.tags), change, device)
            self._write_tags(connection, {device: tags}, {device: row.state}, change, who=who, why=why, now=now)
            check_kept(connection, [device], scope, now)

    def forget(self, device: str, *, who: str, if_match: str | None = None) -> None:
        """Remove ``device``, so that its id can be enrolled again. Its records stay.

        Raises:
            FleetError: ``device.not_found``, ``device.conflict``.
        """
        forget_device(self.engine, device, who=who, now=self.clock(), if_match=if_match)
        self.disconnect(device)

    def foresee(self, query: str, change: BulkChange, scope: str = "") -> BulkView:
        """What :meth:`bulk` would do now; nothing is changed. Cost: one count over the devices that match.

        Raises:
            FleetError: ``query.invalid``, ``tag.invalid``.
        """
        check_tags(change.tags)
        found = where(parse(narrowed(query, scope)), self.clock())
        with reading(self.engine) as connection:
            counted = connection.execute(
                select(devices.c.state, func.count()).where(found).group_by(devices.c.state)
            ).all()
        refused: Counter[str] = Counter()
        for state, count in counted:
            if not _allows(state, change.action):
                refused["device.transition"] += count
        return _view(sum(count for _, count in counted), refused)

    def bulk(
        self,
        query: str,
        change: BulkChange,
        *,
        who: str,
        why: str = "",
        expected: int | None = None,
        scope: str = "",
    ) -> BulkView:
        """Change every device that ``query`` means. One that does not allow it is left as it is, and counted.

        Args:
            query: in the language of :mod:`wheeltapper_fleet.ground.query`.
            change: what is done to each.
            who: the person, for the log.
            why: the reason, for the log.
            expected: how many devices the caller means to change; another number is refused before anything changes.
            scope: the devices that the caller is limited to (:mod:`wheeltapper_fleet.devices.scope`); empty: all.

        Raises:
            FleetError: ``query.invalid``, ``query.everything``, ``tag.invalid``, ``device.bulk_count``,
                ``api.out_of_scope``.
        """
        parsed = parse(query)
        if parsed.everything:
            raise FleetError("query.everything", "an empty query means every device: say which, or 'has id'", 422)
        foreseen = self.foresee(query, change, scope)
        parsed = parse(narrowed(query, scope))
        if expected is not None and foreseen.matched != expected:
            message = f"{foreseen.matched} devices match, not {expected}: look at them again"
            raise FleetError("device.bulk_count", message, 409)
        refused: Counter[str] = Counter()
        matched, last = 0, ""
        while rows := self._bulk_slice(parsed, change, last, refused, who=who, why=why, scope=scope):
            matched, last = matched + len(rows), rows[-1].id
        return _view(matched, refused)

    def _bulk_slice(
        self, query: Query, change: BulkChange, last: str, refused: Counter[str], *, who: str, why: str, scope: str
    ) -> Sequence[Row[str, str, Any]]:
        """Change the devices of one slice, those after ``last``; gives their rows as they were."""
        now = self.clock()
        columns = (devices.c.id, devices.c.state, devices.c.tags)
        wanted = select(*columns).where(where(query, now), devices.c.id > last).order_by(devices.c.id).limit(_SLICE)
        ended = []
        with self.engine.begin() as connection:
            rows = connection.execute(wanted.with_for_update()).all()
            moves, tags = {}, {}
            for row in rows:
                try:
                    state = None if change.action is None else after(row.state, change.action, row.id)
                    mine = changed_tags(_tags(row.tags), change.tags, row.id) if change.tags else None
                except FleetError as error:
                    refused[error.code] += 1
                    continue
                if state is not None:
                    moves[row.id] = state
                if mine is not None:
                    tags[row.id] = mine
            if change.action is not None and moves:
                move_devices(connection, moves, change.action, who=who, why=why, now=now)
                self.changed(connection, list(moves), now)
                ended = [device for device, state in moves.items() if not may_connect(state)]
            states = {row.id: moves.get(row.id, row.state) for row in rows}
            self._write_tags(connection, tags, states, change.tags, who=who, why=why, now=now)
            check_kept(connection, list(tags), scope, now)
        for device in ended:
            self.disconnect(device)
        return rows

    def _write_tags(
        self,
        connection: Connection,
        tags: dict[str, dict[str, str]],
        states: dict[str, str],
        change: TagChange,
        *,
        who: str,
        why: str,
        now: float,
    ) -> None:
        if not tags:
            return
        write_tags(connection, tags)
        detail = " ".join(f"-{name}" if value is None else f"{name}={value}" for name, value in change.items())
        write_log(connection, [Entry(device, "tags", states[device], detail, why) for device in tags], who, now)
        self.changed(connection, list(tags), now)


def _tags(stored: Any) -> dict[str, str]:
    return stored if isinstance(stored, dict) else {}


def _allows(state: str, action: Action | None) -> bool:
    try:
        return action is None or bool(after(state, action, ""))
    except FleetError:
        return False


def _view(matched: int, refused: Counter[str]) -> BulkView:
    return BulkView(matched=matched, changed=matched - sum(refused.values()), refused=dict(refused))
