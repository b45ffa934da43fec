"""Telemetry is stored as it comes: one row a message instead of one a record.

The old records are packed into messages of up to 500, in the order of their numbers, without reading more than a few
thousand at a time; roll-ups and newest scores are computed from them by the database.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROWS = 5000
_RECORDS = 500
"""In one message; few enough that it stays far below the largest one that is read."""
_MESSAGES = 500
"""That are written at once."""
_WIRE = ("seq", "pipeline", "window", "t_s", "model", "release", "score", "severity", "latency_ms")


def upgrade() -> None:
    _make_tables()
    op.add_column("spools", sa.Column("highest", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("spools", sa.Column("stored", sa.BigInteger(), nullable=False, server_default="0"))
    connection = op.get_bind()
    _roll_up(connection)
    _find_newest(connection)
    connection.execute(
        sa.text(
            "INSERT INTO drift_reports (device, epoch, seq, model, release, received_at) SELECT device, epoch, seq,"
            " model, release, received_at FROM records WHERE kind = 'report' AND model IS NOT NULL"
        )
    )
    for spool in _spools(connection):
        _pack(connection, spool)
    op.drop_table("records")


def _make_tables() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _make_partitioned()
    else:
        op.create_table("messages", sa.Column("id", sa.Integer(), nullable=False), *_message_columns())
    op.create_index(op.f("ix_messages_device_received_at_id"), "messages", ["device", "received_at", "id"])
    op.create_table(
        "spool_gaps",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.String(length=16), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("device", "epoch", "first_seq", name=op.f("pk_spool_gaps")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "latest",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("last_t_s", sa.Float(), nullable=False),
        sa.Column("windows", sa.BigInteger(), nullable=False),
        sa.Column("paced", sa.Integer(), nullable=False),
        sa.Column("arrival_pace_s", sa.Float(), nullable=False),
        sa.Column("machine_pace_s", sa.Float(), nullable=False),
        sa.Column("at", sa.Float()),
        sa.Column("t_s", sa.Float()),
        sa.Column("model", sa.String(length=63)),
        sa.Column("release", sa.Integer()),
        sa.Column("score", sa.Float()),
        sa.Column("severity", sa.String(length=16)),
        sa.Column("label", sa.String(length=64)),
        sa.Column("value", sa.Float()),
        sa.Column("zone", sa.String(length=8)),
        sa.PrimaryKeyConstraint("device", "pipeline", name=op.f("pk_latest")),
        sqlite_with_rowid=False,
    )
    sums = ("windows", "scored", "missing", "latency_count", "warnings", "criticals", "alerts")
    op.create_table(
        "rollups",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in sums),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("score_sum", "score_sq_sum", "latency_sum_ms")),
        *(sa.Column(name, sa.Float()) for name in ("score_min", "score_max", "latency_max_ms")),
        sa.PrimaryKeyConstraint(
            "device", "pipeline", "span", "bucket", "model", "release", name=op.f("pk_rollups")
        ),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "drift_reports",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device", "epoch", "seq", name=op.f("pk_drift_reports")),
    )
    columns = ["model", "release", "received_at"]
    op.create_index(op.f("ix_drift_reports_model_release_received_at"), "drift_reports", columns)


def _message_columns() -> list[Any]:
    return [
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("from_t_s", sa.Float()),
        sa.Column("to_t_s", sa.Float()),
        sa.Column("pipeline", sa.String(length=63)),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
    ]


def _make_partitioned() -> None:
    """Partitions for this month, the next, and what lies in no other; later ones are made by the service."""
    op.execute(
        "CREATE TABLE messages (id BIGSERIAL NOT NULL, device VARCHAR(63) NOT NULL, epoch VARCHAR(16) NOT NULL,"
        " kind VARCHAR(16) NOT NULL, first_seq BIGINT NOT NULL, last_seq BIGINT NOT NULL, records INTEGER NOT NULL,"
        " received_at FLOAT NOT NULL, from_t_s FLOAT, to_t_s FLOAT, pipeline VARCHAR(63), body BYTEA NOT NULL,"
        " CONSTRAINT pk_messages PRIMARY KEY (id, received_at)) PARTITION BY RANGE (received_at)"
    )
    op.execute("CREATE TABLE messages_default PARTITION OF messages DEFAULT")
    first = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    for _ in range(2):
        following = (first + datetime.timedelta(days=32)).replace(day=1)
        op.execute(
            f"CREATE TABLE messages_{first:%Y_%m} PARTITION OF messages"
            f" FOR VALUES FROM ({first.timestamp():.0f}) TO ({following.timestamp():.0f})"
        )
        first = following


def _roll_up(connection: sa.Connection) -> None:
    """Sums by 300 s, then by hour and day; a window counts at its own time where that can be, else at its arrival."""
    floor = "FLOOR" if connection.dialect.name == "postgresql" else ""
    said = "CASE WHEN t_s BETWEEN received_at - 2592000 AND received_at + 300 THEN t_s ELSE received_at END"
    bucket = f"CAST({floor}(({said}) / 300) AS BIGINT) * 300"
    usable = "score > -1e100 AND score < 1e100"
    timed = "latency_ms >= 0 AND latency_ms < 1e100"
    names = (
        "device, pipeline, span, bucket, model, release, windows, scored, missing, score_sum, score_sq_sum, score_min,"
        " score_max, latency_sum_ms, latency_max_ms, latency_count, warnings, criticals, alerts"
    )
    connection.execute(
        sa.text(
            f"INSERT INTO rollups ({names}) SELECT device, pipeline, 300, {bucket}, COALESCE(model, ''),"  # noqa: S608
            f" COALESCE(release, 0), COUNT(*), SUM(CASE WHEN {usable} THEN 1 ELSE 0 END),"
            f" SUM(CASE WHEN {usable} THEN 0 ELSE 1 END), SUM(CASE WHEN {usable} THEN score ELSE 0 END),"
            f" SUM(CASE WHEN {usable} THEN score * score ELSE 0 END), MIN(CASE WHEN {usable} THEN score END),"
            f" MAX(CASE WHEN {usable} THEN score END), SUM(CASE WHEN {timed} THEN latency_ms ELSE 0 END),"
            f" MAX(CASE WHEN {timed} THEN latency_ms END), SUM(CASE WHEN {timed} THEN 1 ELSE 0 END),"
            " SUM(CASE severity WHEN 'warning' THEN 1 ELSE 0 END),"
            " SUM(CASE severity WHEN 'critical' THEN 1 ELSE 0 END),"
            " 0 FROM records WHERE kind = 'telemetry' GROUP BY 1, 2, 3, 4, 5, 6"
        )
    )
    raised = bucket.replace("t_s", "alerts.at").replace("received_at", "records.received_at")
    connection.execute(
        sa.text(
            f"INSERT INTO rollups ({names}) SELECT alerts.device, alerts.pipeline, 300, {raised}, alerts.model,"  # noqa: S608
            " alerts.release, 0, 0, 0, 0, 0, NULL, NULL, 0, NULL, 0, 0, 0, COUNT(*) FROM alerts JOIN records ON"
            " records.device = alerts.device AND records.epoch = alerts.epoch AND records.seq = alerts.seq"
            f" WHERE alerts.raised GROUP BY alerts.device, alerts.pipeline, {raised}, alerts.model, alerts.release"
            " ON CONFLICT (device, pipeline, span, bucket, model, release) DO UPDATE SET alerts = excluded.alerts"
        )
    )
    for fine, span in ((300, 3600), (3600, 86400)):
        connection.execute(
            sa.text(
                f"INSERT INTO rollups ({names}) SELECT device, pipeline, {span}, bucket / {span} * {span}, model,"  # noqa: S608
                " release, SUM(windows), SUM(scored), SUM(missing), SUM(score_sum), SUM(score_sq_sum), MIN(score_min),"
                " MAX(score_max), SUM(latency_sum_ms), MAX(latency_max_ms), SUM(latency_count), SUM(warnings),"
                f" SUM(criticals), SUM(alerts) FROM rollups WHERE span = {fine} GROUP BY 1, 2, 3, 4, 5, 6"
            )
        )


def _find_newest(connection: sa.Connection) -> None:
    """The newest score of each pipeline, and the pace of its last windows."""
    said = ("json_extract(body, '$.{}')").format
    if connection.dialect.name == "postgresql":  # which has no NUL in a text
        said = r"CAST(REPLACE(CAST(body AS TEXT), '\u0000', '\ufffd') AS JSON) ->> '{}'".format
    connection.execute(
        sa.text(
            "INSERT INTO latest (device, pipeline, epoch, seq, received_at, last_t_s, windows, paced, arrival_pace_s,"
            " machine_pace_s) SELECT device, pipeline, MAX(CASE place WHEN 1 THEN epoch END),"
            " MAX(CASE place WHEN 1 THEN seq END), MAX(received_at), MAX(CASE place WHEN 1 THEN t_s END), MAX(windows),"
            " COUNT(*) - 1,"
            " COALESCE((MAX(received_at) - MIN(received_at)) / NULLIF(COUNT(*) - 1, 0), 0),"
            " COALESCE((MAX(t_s) - MIN(t_s)) / NULLIF(COUNT(*) - 1, 0), 0) FROM (SELECT device, pipeline, epoch, seq,"
            " received_at, t_s, COUNT(*) OVER (PARTITION BY device, pipeline) AS windows, ROW_NUMBER() OVER (PARTITION"
            " BY device, pipeline ORDER BY received_at DESC, seq DESC) AS place FROM records WHERE kind = 'telemetry')"
            " AS placed WHERE place <= 120 GROUP BY device, pipeline"
        )
    )
    columns = "received_at, t_s, model, release, score, severity"
    connection.execute(
        sa.text(
            f"UPDATE latest SET (at, t_s, model, release, score, severity, label, value, zone) = (SELECT {columns},"  # noqa: S608
            f" {said('label')}, CAST({said('value')} AS FLOAT), {said('zone')} FROM records WHERE records.device ="
            " latest.device AND records.pipeline = latest.pipeline AND kind = 'telemetry' AND score IS NOT NULL"
            " ORDER BY received_at DESC, seq DESC LIMIT 1)"
        )
    )


def _spools(connection: sa.Connection) -> Iterator[Any]:
    """All spools, a slice at a time."""
    last = ("", "")
    while True:
        rows = connection.execute(
            sa.text(
                "SELECT device, epoch, contiguous FROM spools WHERE (device, epoch) > (:device, :epoch)"
                " ORDER BY device, epoch LIMIT 1000"
            ),
            {"device": last[0], "epoch": last[1]},
        ).all()
        if not rows:
            return
        yield from rows
        last = (rows[-1].device, rows[-1].epoch)


def _pack(connection: sa.Connection, spool: Any) -> None:
    """Write the messages of one spool, its gaps and its figures."""
    own = {"device": spool.device, "epoch": spool.epoch}
    highest = stored = 0
    gaps: list[dict[str, Any]] = []
    packed: list[dict[str, Any]] = []
    batch: list[Any] = []
    for record in _records(connection, spool):
        gaps += _gap(own, highest + 1, record.seq - 1, spool.contiguous)
        highest, stored = record.seq, stored + 1
        if batch and (
            record.kind != "telemetry"
            or batch[0].kind != "telemetry"
            or len(batch) == _RECORDS
            or record.received_at != batch[0].received_at
        ):
            packed.append(_message(own, batch))
            batch = []
        batch.append(record)
        if len(gaps) >= _ROWS or len(packed) >= _MESSAGES:
            _insert(connection, packed, gaps)
    if batch:
        packed.append(_message(own, batch))
    gaps += _gap(own, highest + 1, spool.contiguous, spool.contiguous)
    _insert(connection, packed, gaps)
    connection.execute(
        sa.text("UPDATE spools SET highest = :highest, stored = :stored WHERE device = :device AND epoch = :epoch"),
        {**own, "highest": max(highest, spool.contiguous), "stored": stored},
    )


def _insert(connection: sa.Connection, packed: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> None:
    """Insert both lists, and empty them."""
    for table, rows in ((_MESSAGES_TABLE, packed), (_GAPS, gaps)):
        if rows:
            connection.execute(table.insert(), rows)
            rows.clear()


_MESSAGE_COLUMNS = (
    "device", "epoch", "kind", "first_seq", "last_seq", "records", "received_at", "from_t_s", "to_t_s", "pipeline",
    "body",
)  # fmt: skip
_MESSAGES_TABLE = sa.table("messages", *(sa.column(name) for name in _MESSAGE_COLUMNS))
_GAPS = sa.table("spool_gaps", *(sa.column(name) for name in ("device", "epoch", "first_seq", "last_seq", "state")))


def _records(connection: sa.Connection, spool: Any) -> Iterator[Any]:
    body = sa.column("body", sa.JSON())
    columns: list[Any] = [sa.column(name) for name in (*_WIRE, "kind", "received_at")]
    table = sa.table("records", *columns, body, sa.column("device"), sa.column("epoch"))
    query = sa.select(*columns, body).where(table.c.device == spool.device, table.c.epoch == spool.epoch)
    last = 0
    while rows := connection.execute(query.where(table.c.seq > last).order_by(table.c.seq).limit(_ROWS)).all():
        yield from rows
        last = rows[-1].seq


def _gap(own: dict[str, Any], first: int, last: int, contiguous: int) -> list[dict[str, Any]]:
    """The gap from ``first`` to ``last``: up to ``contiguous`` the device dropped it, above it is missing."""
    parts = ((first, min(last, contiguous), "dropped"), (max(first, contiguous + 1), last, "missing"))
    return [
        own | {"first_seq": start, "last_seq": end, "state": state} for start, end, state in parts if start <= end
    ]  # fmt: skip


def _message(own: dict[str, Any], batch: list[Any]) -> dict[str, Any]:
    first = batch[0]
    row = own | {"kind": first.kind, "first_seq": first.seq, "last_seq": batch[-1].seq, "records": len(batch)}
    row |= {"received_at": first.received_at, "pipeline": first.pipeline}
    if first.kind != "telemetry":
        return row | {"from_t_s": first.t_s, "to_t_s": first.t_s, "body": msgspec.json.encode(first.body)}
    times = [record.t_s for record in batch]
    if any(record.pipeline != first.pipeline for record in batch):
        row["pipeline"] = None
    records = [
        {name: value for name in _WIRE if (value := record._mapping[name]) is not None}
        | {name: value for name, value in (record.body or {}).items() if value is not None}
        for record in batch
    ]
    wire = {"epoch": own["epoch"], "oldest": 1, "records": records}
    return row | {"from_t_s": min(times), "to_t_s": max(times), "body": msgspec.msgpack.encode(wire)}


def downgrade() -> None:
    raise NotImplementedError("messages cannot be turned back into records: restore the backup of the version before")
