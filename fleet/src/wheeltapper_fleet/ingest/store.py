"""Writes what devices said into the database: one batch of messages, in the caller's transaction.

Invariants:
    * A record ``(device, epoch, seq)`` is stored once, however often it comes.
    * What :func:`store` returns must be said only after the commit: acks cover what is then in the database.
    * A spool's ``contiguous`` only rises; every seq up to it is stored, or was dropped by the device (and is counted:
      stored up to ``contiguous`` + ``dropped`` = ``contiguous``). A record that comes after all, because it was under
      way when the device dropped it, is stored and no longer counted.
    * What a message says of holes (``oldest``, ``after``) is true for ever, so old and repeated messages do no harm. A
      hole further up than ``contiguous`` reaches is not remembered: the device repeats what is not acknowledged.
    * Messages may come twice and out of order; the outcome is the same.

What this module does not do: read payloads (:mod:`ingest`), publish.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, func, select

from wheeltapper_fleet.alerts.tables import alerts
from wheeltapper_fleet.campaigns.rules.execution import advance, is_terminal, refuse
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.db.engine import insert_ignore, upsert_statement
from wheeltapper_fleet.devices.tables import commands, devices
from wheeltapper_fleet.telemetry.tables import records, refused, spools
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    AssignmentRefused,
    CaptureReport,
    DriftReport,
    ExecutionReport,
    Report,
    Status,
    Telemetry,
    TelemetryRecord,
)
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["Heard", "Outcome", "Refusal", "store"]

_CHUNK: Final = 5000
_FIRST_CHUNK: Final = 16
_IN_CHUNK: Final = 500
_DETAIL_CHARACTERS: Final = 500


@dataclass(frozen=True)
class Heard:
    """A valid message of a device."""

    device: str
    message: Status | Telemetry | Alert | Report


@dataclass(frozen=True)
class Refusal:
    """A payload that could not be accepted."""

    device: str
    code: str
    detail: str


@dataclass
class Outcome:
    """What to say after the commit: ``(topic, payload, retain)``, and how many records came (with repetitions)."""

    publish: list[tuple[str, bytes, bool]] = field(default_factory=list)
    records: int = 0


@dataclass
class _Spool:
    seqs: set[int] = field(default_factory=set)
    oldest: int = 1
    holes: dict[int, int] = field(default_factory=dict)
    """By the seq above it: the seq below it. Nothing between the two will ever come."""


def store(connection: Connection, heard: Sequence[Heard], refusals: Iterable[Refusal], now: float) -> Outcome:
    """Store one batch; see the module for what holds."""
    outcome = Outcome()
    touched: dict[tuple[str, str], _Spool] = defaultdict(_Spool)
    rows: dict[str, list[dict[str, Any]]] = {"telemetry": [], "said": [], "other": [], "alert": []}
    for each in heard:
        match each.message:
            case Telemetry() as telemetry:
                seqs = [record.seq for record in telemetry.records]
                for one in telemetry.records:
                    row = _telemetry_row(each.device, telemetry.epoch, one, now)
                    rows["said" if "body" in row else "telemetry"].append(row)
                _touch(touched, each.device, telemetry, seqs)
            case Alert() as alert:
                rows["other"].append(_alert_record(each.device, alert, now))
                rows["alert"].append(_alert_row(each.device, alert))
                _touch(touched, each.device, alert, [alert.seq])
            case Report() as report:
                rows["other"].append(_report_record(each.device, report, now))
                _touch(touched, each.device, report, [report.seq])
    late = {key: _late(connection, *key, spool) for key, spool in touched.items()}
    outcome.records = len(rows["telemetry"]) + len(rows["said"]) + len(rows["other"])
    insert_ignore(connection, records, rows["telemetry"])
    insert_ignore(connection, records, rows["said"])
    insert_ignore(connection, records, rows["other"])
    insert_ignore(connection, alerts, rows["alert"])
    acks = {key: _advance(connection, *key, spool, late[key], now) for key, spool in touched.items()}
    for each in heard:
        if isinstance(each.message, Report):
            _apply_report(connection, each.device, each.message, now)
        elif isinstance(each.message, Status):
            _apply_status(connection, each.device, each.message, now, acks, outcome)
    for (device, epoch), seq in acks.items():
        outcome.publish.append((down_topic(device, Down.ACK), encode(Ack(epoch=epoch, seq=seq)), False))
    _count_refusals(connection, refusals, now)
    return outcome


def _touch(
    touched: dict[tuple[str, str], _Spool], device: str, message: Telemetry | Alert | Report, seqs: list[int]
) -> None:
    spool, first = touched[device, message.epoch], min(seqs)
    spool.seqs.update(seqs)
    spool.oldest = max(spool.oldest, min(message.oldest, first))
    if message.after is not None and message.after < first - 1:
        spool.holes[first] = min(message.after, spool.holes.get(first, first))


def _late(connection: Connection, device: str, epoch: str, spool: _Spool) -> int:
    """How many of the seqs that came were counted as dropped before. To be asked before they are stored."""
    where = (spools.c.device == device, spools.c.epoch == epoch)
    row = connection.execute(select(spools.c.contiguous, spools.c.dropped).where(*where)).one_or_none()
    if row is None or not row.dropped:
        return 0
    below = sorted(seq for seq in spool.seqs if seq <= row.contiguous)
    there = 0
    for start in range(0, len(below), _IN_CHUNK):
        chosen = records.c.seq.in_(below[start : start + _IN_CHUNK])
        query = select(func.count()).where(records.c.device == device, records.c.epoch == epoch, chosen)
        there += connection.execute(query).scalar_one()
    return len(below) - there


def _advance(connection: Connection, device: str, epoch: str, spool: _Spool, late: int, now: float) -> int:
    """Move ``contiguous`` as far as it goes; returns it."""
    where = (spools.c.device == device, spools.c.epoch == epoch)
    row = connection.execute(select(spools.c.contiguous, spools.c.dropped).where(*where)).one_or_none()
    if row is None:
        first = {"device": device, "epoch": epoch, "contiguous": 0, "dropped": 0, "first_seen_at": now}
        insert_ignore(connection, spools, [first])
    contiguous, dropped = (0, 0) if row is None else (row.contiguous, row.dropped)
    before = contiguous, dropped
    dropped -= late
    for low, high in sorted([(0, spool.oldest), *((low, high) for high, low in spool.holes.items())]):
        contiguous = _reach(connection, device, epoch, spool, contiguous)
        if low <= contiguous < high - 1:
            dropped += _missing(connection, device, epoch, contiguous, high)
            contiguous = high - 1
    contiguous = _reach(connection, device, epoch, spool, contiguous)
    if (contiguous, dropped) != before:
        connection.execute(spools.update().where(*where).values(contiguous=contiguous, dropped=dropped))
    return int(contiguous)


def _missing(connection: Connection, device: str, epoch: str, low: int, high: int) -> int:
    """How many seqs between ``low`` and ``high`` (both exclusive) are not stored."""
    mine = (records.c.device == device, records.c.epoch == epoch)
    query = select(func.count()).select_from(records).where(*mine, records.c.seq > low, records.c.seq < high)
    return high - 1 - low - int(connection.execute(query).scalar_one())


def _reach(connection: Connection, device: str, epoch: str, spool: _Spool, contiguous: int) -> int:
    """The end of the unbroken run of stored seqs that begins above ``contiguous``."""
    while contiguous + 1 in spool.seqs:
        contiguous += 1
    mine = (records.c.device == device, records.c.epoch == epoch)
    limit = _FIRST_CHUNK
    while True:  # what came out of order before
        query = select(records.c.seq).where(*mine, records.c.seq > contiguous).order_by(records.c.seq).limit(limit)
        beyond = connection.execute(query).scalars().all()
        start = contiguous
        for seq in beyond:
            if seq != contiguous + 1:
                break
            contiguous = seq
        if contiguous - start < limit:
            return contiguous
        limit = _CHUNK


def _apply_status(
    connection: Connection,
    device: str,
    status: Status,
    now: float,
    acks: dict[tuple[str, str], int],
    outcome: Outcome,
) -> None:
    values: dict[str, Any] = {"online": status.online}
    if status.online:
        values |= {"status": msgspec.to_builtins(status), "last_seen_at": now, "counter": status.counter}
    connection.execute(devices.update().where(devices.c.id == device).values(values))
    if not status.online:
        return
    query = (
        select(assignments.c.envelope, assignments.c.counter, executions.c.state)
        .join(executions, executions.c.id == assignments.c.execution)
        .where(assignments.c.device == device)
    )
    row = connection.execute(query).one_or_none()
    if row is not None and row.counter > status.counter and not is_terminal(row.state):
        outcome.publish.append((down_topic(device, Down.ASSIGNMENT), row.envelope.encode(), True))
    if status.epoch is not None and (device, status.epoch) not in acks:
        spool = select(spools.c.contiguous).where(spools.c.device == device, spools.c.epoch == status.epoch)
        contiguous = connection.execute(spool).scalar_one_or_none()
        if contiguous:
            acks[device, status.epoch] = contiguous


def _apply_report(connection: Connection, device: str, report: Report, now: float) -> None:
    match report.body:
        case ExecutionReport() as body:
            _move(
                connection,
                device,
                body.execution,
                lambda state: advance(state, body.state),
                body.code,
                body.detail,
                now,
                body.state.value,
            )
            if body.state.terminal:
                _answer_cancel(connection, device, body, now)
        case AssignmentRefused(execution=str(execution)) as refusal:
            _move(connection, device, execution, refuse, refusal.code, refusal.detail, now)
        case CaptureReport(command=str()) as answer:
            connection.execute(
                commands.update()
                .where(commands.c.id == answer.command, commands.c.device == device, commands.c.answered_at.is_(None))
                .values(answered_at=now, answer=msgspec.to_builtins(answer))
            )


def _move(
    connection: Connection,
    device: str,
    execution: str,
    to: Any,
    code: str,
    detail: str,
    now: float,
    again: str = "",
) -> None:
    """Take ``to`` an execution's next state; one that is still in the state ``again`` may say anew why it stays."""
    where = (executions.c.id == execution, executions.c.device == device)
    state = connection.execute(select(executions.c.state).where(*where)).scalar_one_or_none()
    if state is None or ((new := to(state)) == state and not (again == state and code and not is_terminal(state))):
        return
    connection.execute(executions.update().where(*where).values(state=new, code=code, detail=detail, updated_at=now))


def _answer_cancel(connection: Connection, device: str, body: ExecutionReport, now: float) -> None:
    query = select(commands.c.id, commands.c.body).where(commands.c.device == device, commands.c.answered_at.is_(None))
    for row in connection.execute(query).all():
        if row.body.get("type") == "cancel" and row.body.get("execution") == body.execution:
            answer = {"state": body.state.value}
            connection.execute(commands.update().where(commands.c.id == row.id).values(answered_at=now, answer=answer))


def _count_refusals(connection: Connection, refusals: Iterable[Refusal], now: float) -> None:
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    for each in refusals:
        count, _ = counts.get((each.device, each.code), (0, ""))
        counts[each.device, each.code] = (count + 1, each.detail)
    table: Table = refused
    for (device, code), (count, detail) in counts.items():
        text = detail[:_DETAIL_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}")
        text = text.encode("utf-8", "replace").decode()
        statement = upsert_statement(connection, table).values(
            device=device, code=code, count=count, last_at=now, last_detail=text
        )
        changed = {"count": table.c["count"] + count, "last_at": now, "last_detail": text}
        connection.execute(statement.on_conflict_do_update(index_elements=["device", "code"], set_=changed))


def _telemetry_row(device: str, epoch: str, record: TelemetryRecord, now: float) -> dict[str, Any]:
    """The columns of a record; ``body`` only where the model says more than a score."""
    said = {"label": record.label, "value": record.value, "zone": record.zone}
    said = {name: value for name, value in said.items() if value is not None}
    return {
        "device": device,
        "epoch": epoch,
        "seq": record.seq,
        "kind": "telemetry",
        "received_at": now,
        "pipeline": record.pipeline,
        "window": record.window,
        "t_s": record.t_s,
        "model": record.model,
        "release": record.release,
        "score": record.score,
        "severity": record.severity.value,
        "latency_ms": record.latency_ms,
        **({"body": said} if said else {}),
    }


def _alert_row(device: str, alert: Alert) -> dict[str, Any]:
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
    }


def _alert_record(device: str, alert: Alert, now: float) -> dict[str, Any]:
    row = {key: value for key, value in _alert_row(device, alert).items() if key not in ("at", "raised", "reasons")}
    return {**row, "kind": "alert", "received_at": now, "body": msgspec.to_builtins(alert)}


def _report_record(device: str, report: Report, now: float) -> dict[str, Any]:
    empty = dict.fromkeys(("pipeline", "window", "t_s", "model", "release", "score", "severity"))
    row = {"device": device, "epoch": report.epoch, "seq": report.seq, "kind": "report", "received_at": now}
    return {**row, **empty, **_drift_columns(report), "body": msgspec.to_builtins(report)}


def _drift_columns(report: Report) -> dict[str, Any]:
    """By what reports of drift are found again."""
    body = report.body
    if not isinstance(body, DriftReport):
        return {}
    keys = {"pipeline": body.pipeline, "model": body.model, "release": body.release}
    return {**keys, "window": body.last_window, "t_s": body.last_t_s}
