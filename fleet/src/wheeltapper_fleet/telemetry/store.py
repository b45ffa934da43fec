"""Stores messages of devices, in the caller's transaction: once each record, and one row a message.

Invariants:
    * A record ``(device, epoch, seq)`` is stored once, however often it comes, in whatever cuts: of a message only what
      is new is kept (:mod:`wheeltapper_fleet.telemetry.spool`).
    * A spool's row is locked before it is read and written in the same transaction as the messages: what is
      acknowledged after the commit is in the database.
    * Roll-ups and newest scores are those of the stored records.
    * Messages may come twice and in any order; the result is the same.

A batch costs a fixed number of statements, and one more for each spool that has gaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, select

from wheeltapper_fleet.db.bulk import ADDED, GREATEST, LEAST, NEW, delete_keys, insert_rows, select_keys, upsert_rows
from wheeltapper_fleet.db.engine import insert_ignore, upsert_statement
from wheeltapper_fleet.telemetry.rollup import Newest, Rollups
from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_fleet.telemetry.spool import MAX_GAPS, SpoolChange, SpoolPosition, rising
from wheeltapper_fleet.telemetry.tables import drift_reports, latest, messages, refused, rollups, spool_gaps, spools
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Alert, DriftReport, Report, Telemetry, TelemetryRecord

__all__ = ["Delivered", "Spool", "StoredBatch", "contiguous_seqs", "count_refusals", "store_messages"]

_DETAIL_CHARACTERS: Final = 500
_SPOOL_COLUMNS: Final = ("device", "epoch", "contiguous", "highest", "stored", "dropped")
_MESSAGE_COLUMNS: Final = (
    "device", "epoch", "kind", "first_seq", "last_seq", "records", "received_at", "from_t_s", "to_t_s", "pipeline",
    "body",
)  # fmt: skip
_ROLLUP_CHANGES: Final = {
    "windows": ADDED, "scored": ADDED, "missing": ADDED, "score_sum": ADDED, "score_sq_sum": ADDED, "score_min": LEAST,
    "score_max": GREATEST, "latency_sum_ms": ADDED, "latency_max_ms": GREATEST, "latency_count": ADDED,
    "warnings": ADDED, "criticals": ADDED, "alerts": ADDED,
}  # fmt: skip
_ROLLUP_KEYS: Final = ("device", "pipeline", "span", "bucket", "model", "release")

Spool = tuple[str, str]
"""A device and an epoch."""
Delivered = tuple[str, Telemetry | Alert | Report, bytes]
"""A message, the device that sent it, and its payload as it came (empty: to be encoded)."""


@dataclass(frozen=True)
class StoredBatch:
    """What became of a batch."""

    acks: dict[Spool, int]
    """Up to which record each spool may be acknowledged once the transaction is committed."""
    records: int
    """How many records the messages held, with repetitions."""
    undated: Counter[str]
    """By device, how many of its records that are new have no date."""
    refusals: list[Refusal]


@dataclass
class _Spool:
    """A spool while a batch is stored: its position, what was read of its gaps, and what its messages say."""

    position: SpoolPosition
    before: SpoolPosition
    change: SpoolChange = field(default_factory=SpoolChange)
    gaps_before: frozenset[tuple[int, int, str]] = frozenset()
    overfull: bool = False
    """It has more gaps than can be read: nothing of it is taken now."""


def store_messages(connection: Connection, delivered: Sequence[Delivered], now: float) -> StoredBatch:
    """Store what is new in ``delivered``, which is in the order in which it came.

    Args:
        connection: within the transaction that the batch is to be stored by.
        delivered: messages of spools.
        now: Unix seconds.
    """
    numbered = [
        (device, message, payload, _numbers(message)) for device, message, payload in delivered
    ]  # fmt: skip
    lowest: dict[Spool, int] = {}
    for device, message, _, numbers in numbered:
        key = (device, message.epoch)
        lowest[key] = min(numbers[0], lowest.get(key, numbers[0]))
    open_spools = _read_spools(connection, lowest, now)
    writer = _Batch(now)
    for device, message, payload, numbers in numbered:
        spool = open_spools[device, message.epoch]
        if spool.overfull or spool.position.scattered(numbers):
            writer.refuse(device)
            continue
        spool.change.add(message, numbers[0])
        new = spool.position.take(numbers)
        if new:
            writer.add(device, message, payload, numbers, new)
    for spool in open_spools.values():
        spool.position.hear(spool.change)
    writer.write(connection)
    _write_spools(connection, open_spools)
    acks = {key: spool.position.contiguous for key, spool in open_spools.items()}
    return StoredBatch(acks, sum(len(numbers) for *_, numbers in numbered), writer.undated, writer.refusals)


def contiguous_seqs(connection: Connection, wanted: Iterable[Spool]) -> dict[Spool, int]:
    """Up to which record nothing of each spool is outstanding; spools that are not known are left out."""
    found = select_keys(connection, spools, ("device", "epoch", "contiguous"), ("device", "epoch"), sorted(set(wanted)))
    return {(row[0], row[1]): row[2] for row in found}


def count_refusals(connection: Connection, refusals: Iterable[Refusal], now: float) -> None:
    """Add ``refusals`` to the counts by device and code; the newest detail is kept."""
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    for each in refusals:
        count, _ = counts.get((each.device, each.code), (0, ""))
        counts[each.device, each.code] = (count + 1, each.detail)
    for (device, code), (count, detail) in sorted(counts.items()):
        text = detail[:_DETAIL_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}")
        text = text.encode("utf-8", "replace").decode()
        statement = upsert_statement(connection, refused).values(
            device=device, code=code, count=count, last_at=now, last_detail=text
        )
        changed = {"count": refused.c["count"] + count, "last_at": now, "last_detail": text}
        connection.execute(statement.on_conflict_do_update(index_elements=["device", "code"], set_=changed))


class _Batch:
    """The rows that a batch leaves in the tables, gathered so that each table is written once."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._messages: list[tuple[Any, ...]] = []
        self._drift: list[dict[str, Any]] = []
        self._rollups = Rollups(now)
        self._windows: dict[tuple[str, str], list[tuple[str, list[TelemetryRecord]]]] = {}
        self.undated: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    def refuse(self, device: str) -> None:
        """Count a message that is not taken now because too many gaps are open; the device sends it again."""
        detail = f"more than {MAX_GAPS} runs of its records are missing; taken again when the oldest ones have come"
        self.refusals.append(Refusal(device, "spool.scattered", detail))

    def add(
        self,
        device: str,
        message: Telemetry | Alert | Report,
        payload: bytes,
        numbers: Sequence[int],
        new: Sequence[int],
    ) -> None:
        """Keep the records ``new`` of ``message``, whose records have ``numbers``."""
        kind = type(message).__name__.lower()
        from_s = to_s = pipeline = None
        if isinstance(message, Telemetry):
            if new is not numbers or len(numbers) != len(message.records):
                message, payload = _cut(message, new), b""
            records = message.records
            from_s, to_s, pipeline = self._rollups.add(device, records)
            if undated := sum([record.undated for record in records]):
                self.undated[device] += undated
            self._add_windows(device, message.epoch, records, pipeline)
        elif message.undated:
            self.undated[device] += 1
        if isinstance(message, Alert):
            from_s = to_s = message.t_s
            pipeline = message.pipeline
            self._rollups.add_alert(device, message)
        elif isinstance(message, Report) and isinstance(message.body, DriftReport):
            drift = message.body
            pipeline = drift.pipeline
            key = {"device": device, "epoch": message.epoch, "seq": message.seq}
            said = {"model": drift.model, "release": drift.release, "received_at": self._now}
            self._drift.append(key | said)
        body = payload or encode(message)
        span = (new[0], new[-1], len(new))
        self._messages.append((device, message.epoch, kind, *span, self._now, from_s, to_s, pipeline, body))

    def _add_windows(self, device: str, epoch: str, records: list[TelemetryRecord], pipeline: str | None) -> None:
        if pipeline is not None:
            self._windows.setdefault((device, pipeline), []).append((epoch, records))
            return
        apart: dict[str, list[TelemetryRecord]] = {}
        for record in records:
            apart.setdefault(record.pipeline, []).append(record)
        for name, its in apart.items():
            self._windows.setdefault((device, name), []).append((epoch, its))

    def write(self, connection: Connection) -> None:
        """Write all of it: one statement a table."""
        insert_rows(connection, messages, _MESSAGE_COLUMNS, self._messages)
        insert_ignore(connection, drift_reports, self._drift)
        columns = (*_ROLLUP_KEYS, *_ROLLUP_CHANGES)
        upsert_rows(
            connection, rollups, columns, self._rollups.rows(), keys=_ROLLUP_KEYS, changed=_ROLLUP_CHANGES
        )  # fmt: skip
        keys = sorted(self._windows)
        found = select_keys(connection, latest, Newest.COLUMNS, ("device", "pipeline"), keys)
        known = {(row[0], row[1]): row for row in found}
        rows = []
        for key in keys:
            newest = Newest(*key, known.get(key))
            for epoch, records in self._windows[key]:
                newest.add(epoch, records, self._now)
            rows.append(newest.row())
        changed = dict.fromkeys(Newest.COLUMNS[2:], NEW)
        upsert_rows(connection, latest, Newest.COLUMNS, rows, keys=("device", "pipeline"), changed=changed)


def _numbers(message: Telemetry | Alert | Report) -> list[int]:
    """The numbers of a message's records, rising, each once."""
    return rising([record.seq for record in message.records]) if isinstance(message, Telemetry) else [message.seq]


def _cut(message: Telemetry, numbers: Sequence[int]) -> Telemetry:
    """``message`` with only its records ``numbers``, in rising order; of two with one number, the first."""
    by_number: dict[int, TelemetryRecord] = {}
    for record in message.records:
        by_number.setdefault(record.seq, record)
    return msgspec.structs.replace(message, records=[by_number[number] for number in numbers])


def _read_spools(connection: Connection, lowest: dict[Spool, int], now: float) -> dict[Spool, _Spool]:
    """The spools of a batch, locked; those that are not known yet begin at 0.

    Args:
        connection: in the batch's transaction.
        lowest: each spool's lowest record in the batch.
        now: Unix seconds.
    """
    keys = sorted(lowest)
    found = select_keys(connection, spools, _SPOOL_COLUMNS, ("device", "epoch"), keys, lock=True)
    rows = {(row[0], row[1]): row for row in found}
    new = [key for key in keys if key not in rows]
    if new:
        fresh = {"contiguous": 0, "highest": 0, "stored": 0, "dropped": 0, "first_seen_at": now}
        insert_ignore(connection, spools, [{"device": device, "epoch": epoch, **fresh} for device, epoch in new])
        found = select_keys(connection, spools, _SPOOL_COLUMNS, ("device", "epoch"), new, lock=True)
        rows |= {(row[0], row[1]): row for row in found}
    opened = {}
    for key in keys:
        position = SpoolPosition(*rows[key][2:])
        spool = opened[key] = _Spool(position, SpoolPosition(*rows[key][2:]))
        if position.needs_gaps(lowest[key]):
            gaps = _read_gaps(connection, key, min(lowest[key], position.contiguous + 1))
            spool.overfull = len(gaps) > 2 * MAX_GAPS
            position.gaps = [] if spool.overfull else gaps
            spool.gaps_before = frozenset(_gap_rows(position))
    return opened


def _read_gaps(connection: Connection, spool: Spool, first: int) -> list[tuple[int, int]]:
    """The gaps of ``spool`` that hold ``first`` or lie above it; at most one more than twice :data:`MAX_GAPS`."""
    own = (spool_gaps.c.device == spool[0], spool_gaps.c.epoch == spool[1])
    holds = select(func.max(spool_gaps.c.first_seq)).where(*own, spool_gaps.c.first_seq <= first).scalar_subquery()
    query = select(spool_gaps.c.first_seq, spool_gaps.c.last_seq).where(
        *own, spool_gaps.c.first_seq >= func.coalesce(holds, 0)
    )
    rows = connection.execute(query.order_by(spool_gaps.c.first_seq).limit(2 * MAX_GAPS + 1))
    return [(row.first_seq, row.last_seq) for row in rows]


def _gap_rows(position: SpoolPosition) -> list[tuple[int, int, str]]:
    """The gaps as they are stored: first and last number, and what became of the records between."""
    return [(first, last, "dropped" if last <= position.contiguous else "missing") for first, last in position.gaps]


def _write_spools(connection: Connection, opened: dict[Spool, _Spool]) -> None:
    """Write what changed of the spools and their gaps."""
    gone: list[tuple[Any, ...]] = []
    made: list[tuple[Any, ...]] = []
    moved: list[tuple[Any, ...]] = []
    for key, spool in opened.items():
        position = spool.position
        if spool.gaps_before or position.gaps:
            gaps = _gap_rows(position)
            gone += [(*key, first) for first, *_ in spool.gaps_before.difference(gaps)]
            made += [(*key, *gap) for gap in gaps if gap not in spool.gaps_before]
        figures = (position.contiguous, position.highest, position.stored, position.dropped)
        before = spool.before
        if figures != (before.contiguous, before.highest, before.stored, before.dropped):
            moved.append((*key, *figures, 0.0))
    delete_keys(connection, spool_gaps, ("device", "epoch", "first_seq"), gone)
    insert_rows(connection, spool_gaps, ("device", "epoch", "first_seq", "last_seq", "state"), made)
    changed = dict.fromkeys(_SPOOL_COLUMNS[2:], NEW)
    columns = (*_SPOOL_COLUMNS, "first_seen_at")
    upsert_rows(connection, spools, columns, moved, keys=("device", "epoch"), changed=changed)
