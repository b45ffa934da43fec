"""Stores records and moves spool positions, in the caller's transaction.

Invariants:
    * A record ``(device, epoch, seq)`` is stored once, however often it comes.
    * A spool's ``contiguous`` only rises. Every record up to it is stored, or was dropped by the device and is counted:
      stored records up to ``contiguous`` + ``dropped`` = ``contiguous``. A record that comes after all, because it was
      under way when the device dropped it, is stored and no longer counted as dropped.
    * What a message says about gaps (``oldest``, ``after``) stays true, so old and repeated messages do no harm. A gap
      further up than ``contiguous`` reaches is not remembered: the device says it again with what is not acknowledged.
    * Messages may come twice and in any order; the result is the same.

A batch is stored in two steps, :func:`store_records` and then :func:`advance_spools`; what the second returns may be
acknowledged once the transaction is committed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from wheeltapper_fleet.db.engine import insert_ignore, upsert_statement
from wheeltapper_fleet.telemetry.rules import Refusal, SpoolChange, alert_row, report_row, telemetry_row
from wheeltapper_fleet.telemetry.tables import records, refused, spools
from wheeltapper_protocols.wire.messages import Alert, Report, Telemetry

__all__ = ["Spool", "StoredBatch", "advance_spools", "contiguous_seq", "count_refusals", "store_records"]

_FIRST_SEQS_READ: Final = 16
_SEQS_READ: Final = 5000
_SEQS_IN_A_QUERY: Final = 500
_DETAIL_CHARACTERS: Final = 500

Spool = tuple[str, str]
"""A device and an epoch."""


@dataclass(frozen=True)
class StoredBatch:
    """What :func:`store_records` leaves for :func:`advance_spools`."""

    changes: dict[Spool, SpoolChange]
    arrived_after_all: dict[Spool, int]
    """How many records came now that were counted as dropped before."""
    records: int
    """How many records the messages held, with repetitions."""


def store_records(
    connection: Connection, messages: Iterable[tuple[str, Telemetry | Alert | Report]], now: float
) -> StoredBatch:
    """Store the records of ``messages`` (each with the device that sent it); those that are stored already stay."""
    changes: dict[Spool, SpoolChange] = defaultdict(SpoolChange)
    scores: list[dict[str, Any]] = []
    scores_with_body: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for device, message in messages:
        changes[device, message.epoch].add(message)
        match message:
            case Telemetry():
                for record in message.records:
                    row = telemetry_row(device, message.epoch, record, now)
                    (scores_with_body if "body" in row else scores).append(row)
            case Alert():
                others.append(alert_row(device, message, now))
            case Report():
                others.append(report_row(device, message, now))
    arrived_after_all = {spool: _count_dropped(connection, spool, change) for spool, change in changes.items()}
    for rows in (scores, scores_with_body, others):  # one statement each: its rows have the same columns
        insert_ignore(connection, records, rows)
    return StoredBatch(changes, arrived_after_all, len(scores) + len(scores_with_body) + len(others))


def advance_spools(connection: Connection, batch: StoredBatch, now: float) -> dict[Spool, int]:
    """Move each spool of the batch as far as its records reach; returns each spool's new ``contiguous``."""
    return {
        spool: _advance(connection, spool, change, batch.arrived_after_all[spool], now)
        for spool, change in batch.changes.items()
    }


def contiguous_seq(connection: Connection, spool: Spool) -> int | None:
    """Up to which record nothing of ``spool`` is outstanding; None for a spool that is not known."""
    return connection.execute(select(spools.c.contiguous).where(*_spool(spool))).scalar_one_or_none()


def count_refusals(connection: Connection, refusals: Iterable[Refusal], now: float) -> None:
    """Add ``refusals`` to the counts by device and code; the newest detail is kept."""
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    for each in refusals:
        count, _ = counts.get((each.device, each.code), (0, ""))
        counts[each.device, each.code] = (count + 1, each.detail)
    for (device, code), (count, detail) in counts.items():
        text = detail[:_DETAIL_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}")
        text = text.encode("utf-8", "replace").decode()
        statement = upsert_statement(connection, refused).values(
            device=device, code=code, count=count, last_at=now, last_detail=text
        )
        changed = {"count": refused.c["count"] + count, "last_at": now, "last_detail": text}
        connection.execute(statement.on_conflict_do_update(index_elements=["device", "code"], set_=changed))


def _spool(spool: Spool) -> Sequence[Any]:
    """The condition for the row of ``spool``."""
    device, epoch = spool
    return (spools.c.device == device, spools.c.epoch == epoch)


def _records(spool: Spool) -> Sequence[Any]:
    """The condition for the records of ``spool``."""
    device, epoch = spool
    return (records.c.device == device, records.c.epoch == epoch)


def _count_dropped(connection: Connection, spool: Spool, change: SpoolChange) -> int:
    """How many of the records that came were counted as dropped before. To be asked before they are stored."""
    row = connection.execute(select(spools.c.contiguous, spools.c.dropped).where(*_spool(spool))).one_or_none()
    if row is None or not row.dropped:
        return 0
    below = sorted(seq for seq in change.seqs if seq <= row.contiguous)
    stored = 0
    for start in range(0, len(below), _SEQS_IN_A_QUERY):
        chosen = records.c.seq.in_(below[start : start + _SEQS_IN_A_QUERY])
        stored += connection.execute(select(func.count()).where(*_records(spool), chosen)).scalar_one()
    return len(below) - stored


def _advance(connection: Connection, spool: Spool, change: SpoolChange, arrived_after_all: int, now: float) -> int:
    """Move ``contiguous`` as far as it goes; returns it."""
    row = connection.execute(select(spools.c.contiguous, spools.c.dropped).where(*_spool(spool))).one_or_none()
    if row is None:
        device, epoch = spool
        first = {"device": device, "epoch": epoch, "contiguous": 0, "dropped": 0, "first_seen_at": now}
        insert_ignore(connection, spools, [first])
    contiguous, dropped = (0, 0) if row is None else (row.contiguous, row.dropped)
    before = contiguous, dropped
    dropped -= arrived_after_all
    for low, high in sorted([(0, change.oldest), *((low, high) for high, low in change.gaps.items())]):
        contiguous = _end_of_run(connection, spool, change, contiguous)
        if low <= contiguous < high - 1:
            dropped += _count_missing(connection, spool, contiguous, high)
            contiguous = high - 1
    contiguous = _end_of_run(connection, spool, change, contiguous)
    if (contiguous, dropped) != before:
        connection.execute(spools.update().where(*_spool(spool)).values(contiguous=contiguous, dropped=dropped))
    return int(contiguous)


def _count_missing(connection: Connection, spool: Spool, low: int, high: int) -> int:
    """How many records between ``low`` and ``high`` (both exclusive) are not stored."""
    between = (records.c.seq > low, records.c.seq < high)
    query = select(func.count()).select_from(records).where(*_records(spool), *between)
    return high - 1 - low - int(connection.execute(query).scalar_one())


def _end_of_run(connection: Connection, spool: Spool, change: SpoolChange, contiguous: int) -> int:
    """The end of the unbroken run of stored records that begins above ``contiguous``."""
    while contiguous + 1 in change.seqs:
        contiguous += 1
    limit = _FIRST_SEQS_READ
    while True:  # records that came out of order in earlier batches
        above = select(records.c.seq).where(*_records(spool), records.c.seq > contiguous)
        start = contiguous
        for seq in connection.execute(above.order_by(records.c.seq).limit(limit)).scalars().all():
            if seq != contiguous + 1:
                break
            contiguous = seq
        if contiguous - start < limit:
            return contiguous
        limit = _SEQS_READ
