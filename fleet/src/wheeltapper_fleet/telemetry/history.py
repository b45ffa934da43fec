"""Reads records out of the stored messages, and curves out of the roll-ups.

Invariants:
    * Readers see records, never the messages that they came in.
    * An answer is bounded, whatever is stored: a page has at most its limit of records, a curve at most
      :data:`MAX_POINTS` points.
    * A window is at the same place in a curve, whether that is read from records or from roll-ups
      (:func:`wheeltapper_fleet.telemetry.rollup.event_time`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, func, select, tuple_

from wheeltapper_fleet.ground.paging import Page, read_cursor, write_cursor
from wheeltapper_fleet.telemetry.rollup import SPANS, event_time, usable
from wheeltapper_fleet.telemetry.tables import messages, rollups
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import Alert, DriftReport, Report, Telemetry
from wheeltapper_protocols.wire.topics import Up

__all__ = [
    "MAX_POINTS",
    "HistoryPoint",
    "StoredRecord",
    "history",
    "iter_records",
    "read_records",
    "readable_records",
    "records_in",
]

MAX_POINTS: Final = 2000
_MESSAGES_READ: Final = 500
_PAGE_BYTES: Final = 600_000
"""A page ends after about so many bytes of JSON, though it has fewer records than asked for."""
_RECORD_BYTES: Final = 400
"""About so many for one window."""
_MOST_RECORDS: Final = 20_000
"""A curve that is finer than the roll-ups is read from records if there are no more than these."""


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
    partial: bool = False
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


def readable_records(row: Row[Any]) -> list[StoredRecord] | None:
    """As :func:`records_in`; None for a message that this version cannot read, which the caller counts."""
    try:
        return records_in(row)
    except (WireError, TypeError, ValueError):
        return None


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
    """All records, or those of one device, in the order in which they came; for exports.

    Reads :data:`_MESSAGES_READ` messages at a time, each slice by an index.
    """
    query, last = select(messages).limit(_MESSAGES_READ), (-math.inf, -1)
    if device is None:
        query = query.order_by(messages.c.id)
    else:
        query = query.where(messages.c.device == device).order_by(messages.c.received_at, messages.c.id)
    while True:
        beyond = messages.c.id > last[1] if device is None else tuple_(messages.c.received_at, messages.c.id) > last
        rows = connection.execute(query.where(beyond)).all()
        if not rows:
            return
        for row in rows:
            yield from records_in(row)
        last = (rows[-1].received_at, rows[-1].id)


def read_records(
    connection: Connection,
    device: str,
    after: str | None = None,
    limit: int = 100,
    *,
    kind: str | None = None,
    from_at: float | None = None,
    to_at: float | None = None,
    newest_first: bool = False,
) -> Page[StoredRecord]:
    """A page of the records of ``device`` in the order in which they came, or in the reverse.

    Reads at most ``limit`` + 2 messages, through the index on device and time. A page of large reports has fewer.

    Args:
        connection: to the fleet's database.
        device: its id.
        after: the cursor of the page before.
        limit: how many records.
        kind: only ``telemetry``, ``alert`` or ``report``.
        from_at: Unix seconds: records that came to the fleet from then on,
        to_at: and before this.
        newest_first: in the reverse order.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    place = (messages.c.received_at, messages.c.id)
    query = select(messages).where(messages.c.device == device)
    if kind is not None:
        query = query.where(messages.c.kind == kind)
    if from_at is not None:
        query = query.where(messages.c.received_at >= from_at)
    if to_at is not None:
        query = query.where(messages.c.received_at < to_at)
    done: tuple[float, int, int] | None = None
    if after is not None:
        at, message, seq = read_cursor(after, float, int, int)
        done = (at, message, seq)
        query = query.where(tuple_(*place) <= (at, message) if newest_first else tuple_(*place) >= (at, message))
    query = query.order_by(*(each.desc() if newest_first else each for each in place)).limit(limit + 2)
    found: list[tuple[Row[Any], StoredRecord]] = []
    size = 0
    for row in connection.execute(query):
        for record in reversed(records_in(row)) if newest_first else records_in(row):
            if (
                done is not None
                and (row.received_at, row.id) == done[:2]
                and (record.seq >= done[2] if newest_first else record.seq <= done[2])
            ):
                continue
            if len(found) == limit or size > _PAGE_BYTES:
                last, shown = found[-1]
                return Page([each for _, each in found], write_cursor(last.received_at, last.id, shown.seq))
            found.append((row, record))
            size += _RECORD_BYTES + (len(row.body) if record.body else 0)
    return Page([each for _, each in found])


@dataclass(kw_only=True)
class HistoryPoint:
    """What the windows of a stretch of time add up to. ``mean`` to ``max`` are of scores; None where there was none."""

    at: float
    """Begin of the stretch, in Unix seconds."""
    seconds: float
    """Its length."""
    windows: int = 0
    scored: int = 0
    missing: int = 0
    """Windows without a score."""
    mean: float | None = None
    deviation: float | None = None
    min: float | None = None
    max: float | None = None
    latency_mean_ms: float | None = None
    latency_max_ms: float | None = None
    warnings: int = 0
    criticals: int = 0
    alerts: int = 0
    """How many alerts were raised."""
    releases: list[str] = field(default_factory=list)
    """What scored the windows, e.g. ``bearing/3``."""


def history(
    connection: Connection, device: str, pipeline: str, from_at: float, to_at: float, points: int = 500
) -> list[HistoryPoint]:
    """The curve of a pipeline's scores, in stretches of equal length; those without a window are left out.

    A stretch is a multiple of a roll-up's span, except where that gives fewer points than asked and there are few
    enough records since ``from_at`` to be read one by one. Reads at most 24 roll-ups a point and release, or
    :data:`_MOST_RECORDS` records.

    Args:
        connection: to the fleet's database.
        device: its id.
        pipeline: the name of one of its pipelines.
        from_at: Unix seconds,
        to_at: and the end.
        points: how many stretches at most; at most :data:`MAX_POINTS`.
    """
    points = max(1, min(points, MAX_POINTS))
    seconds = (to_at - from_at) / points
    if seconds <= 0:
        return []
    if seconds < SPANS[0] and _few_records(connection, device, from_at):
        return _from_records(connection, device, pipeline, from_at, to_at, seconds)
    span = max((each for each in SPANS if each <= seconds), default=SPANS[0])
    span = max(span, _kept_span(connection, device, pipeline, from_at))
    first = math.floor(from_at / span) * span
    return _from_rollups(connection, device, pipeline, span, first, to_at, math.ceil((to_at - first) / points / span))


def _few_records(connection: Connection, device: str, from_at: float) -> bool:
    """Whether the records that came since ``from_at`` can be read one by one."""
    since = (messages.c.device == device, messages.c.received_at >= from_at - SPANS[0])
    some = select(messages.c.records).where(*since).limit(_MOST_RECORDS + 1).subquery()
    count, total = connection.execute(select(func.count(), func.coalesce(func.sum(some.c.records), 0))).one()
    return max(int(count), int(total)) <= _MOST_RECORDS


def _kept_span(connection: Connection, device: str, pipeline: str, from_at: float) -> int:
    """The finest span that still has what was at ``from_at``, or as much of it as any: fine roll-ups end sooner."""
    own = (rollups.c.device == device, rollups.c.pipeline == pipeline)
    oldest = {}
    for span in SPANS:
        query = select(func.min(rollups.c.bucket)).where(*own, rollups.c.span == span)
        bucket = connection.execute(query).scalar_one()
        if bucket is not None:
            oldest[span] = bucket
    needed = max(from_at, min((bucket + span for span, bucket in oldest.items()), default=from_at))
    return next((span for span, bucket in oldest.items() if bucket <= needed), SPANS[0])


def _from_rollups(
    connection: Connection, device: str, pipeline: str, span: int, first: int, to_at: float, multiple: int
) -> list[HistoryPoint]:
    width = span * max(1, multiple)
    c = rollups.c
    number = ((c.bucket - first) // width).label("number")
    sums = [func.sum(c[name]).label(name) for name in _SUMS]
    query: Select[Any] = select(
        number,
        c.model,
        c.release,
        *sums,  # from the place _FIRST_SUM on
        func.min(c.score_min).label("score_min"),
        func.max(c.score_max).label("score_max"),
        func.max(c.latency_max_ms).label("latency_max_ms"),
    ).where(c.device == device, c.pipeline == pipeline, c.span == span, c.bucket >= first, c.bucket < to_at)
    totals: dict[int, _Total] = {}
    for row in connection.execute(query.group_by(number, c.model, c.release).order_by(number)):
        totals.setdefault(int(row.number), _Total()).add(row)
    return [total.point(first + place * width, width) for place, total in totals.items()]


_SUMS: Final = (
    "windows", "scored", "missing", "score_sum", "score_sq_sum", "latency_sum_ms", "latency_count", "warnings",
    "criticals", "alerts",
)  # fmt: skip
_FIRST_SUM: Final = 3


def _from_records(
    connection: Connection, device: str, pipeline: str, from_at: float, to_at: float, seconds: float
) -> list[HistoryPoint]:
    since = (messages.c.device == device, messages.c.received_at >= from_at - SPANS[0])
    totals: dict[int, _Total] = {}
    for row in connection.execute(select(messages).where(*since, messages.c.kind != "report")):
        for record in records_in(row):
            said = (record.body or {}).get("at", record.t_s) if record.kind == "alert" else record.t_s
            at = event_time(said or 0.0, record.undated, row.received_at)
            if record.pipeline == pipeline and from_at <= at < to_at:
                totals.setdefault(int((at - from_at) / seconds), _Total()).add_record(record)
    return [totals[place].point(from_at + place * seconds, seconds) for place in sorted(totals)]


class _Total:
    """Sums of one point."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(_SUMS, 0)
        self.score_min: float | None = None
        self.score_max: float | None = None
        self.latency_max_ms: float | None = None
        self.releases: set[tuple[str, int]] = set()

    def add(self, row: Row[Any]) -> None:
        """Add roll-ups of one release."""
        for name, value in zip(_SUMS, row[_FIRST_SUM : _FIRST_SUM + len(_SUMS)], strict=True):
            self.sums[name] += float(value)
        self._reach(row.score_min, row.score_max, row.latency_max_ms)
        if row.model:
            self.releases.add((row.model, row.release))

    def add_record(self, record: StoredRecord) -> None:
        """Add a window, or an alert that was raised."""
        if record.model is not None and record.release is not None:
            self.releases.add((record.model, record.release))
        if record.kind == "alert":
            self.sums["alerts"] += (record.body or {}).get("raised", True)
            return
        score = record.score if usable(record.score) else None
        latency = record.latency_ms if usable(record.latency_ms) and (record.latency_ms or 0.0) >= 0 else None
        self.sums["windows"] += 1
        self.sums["missing" if score is None else "scored"] += 1
        self.sums["score_sum"] += score or 0.0
        self.sums["score_sq_sum"] += (score or 0.0) ** 2
        self.sums["latency_sum_ms"] += latency or 0.0
        self.sums["latency_count"] += latency is not None
        self.sums["warnings"] += record.severity == "warning"
        self.sums["criticals"] += record.severity == "critical"
        self._reach(score, score, latency)

    def _reach(self, low: float | None, high: float | None, latency_ms: float | None) -> None:
        if low is not None:
            self.score_min = low if self.score_min is None else min(self.score_min, low)
        if high is not None:
            self.score_max = high if self.score_max is None else max(self.score_max, high)
        if latency_ms is not None:
            self.latency_max_ms = latency_ms if self.latency_max_ms is None else max(self.latency_max_ms, latency_ms)

    def point(self, at: float, seconds: float) -> HistoryPoint:
        """The point that begins at ``at`` (Unix seconds)."""
        sums, scored = self.sums, self.sums["scored"]
        mean = sums["score_sum"] / scored if scored else None
        variance = max(0.0, sums["score_sq_sum"] / scored - mean * mean) if mean is not None else None
        latencies = sums["latency_count"]
        return HistoryPoint(
            at=at,
            seconds=seconds,
            windows=int(sums["windows"]),
            scored=int(scored),
            missing=int(sums["missing"]),
            mean=mean,
            deviation=None if variance is None else math.sqrt(variance),
            min=self.score_min,
            max=self.score_max,
            latency_mean_ms=sums["latency_sum_ms"] / latencies if latencies else None,
            latency_max_ms=self.latency_max_ms,
            warnings=int(sums["warnings"]),
            criticals=int(sums["criticals"]),
            alerts=int(sums["alerts"]),
            releases=[f"{model}/{release}" for model, release in sorted(self.releases)],
        )
