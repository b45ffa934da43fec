"""Messages in the database: the same records, acks and counts as a row a record, whatever comes in whatever cuts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, func, select

from tests.fleet.records import stored_records
from tests.fleet.telemetry.test_spool import RecordByRecord
from wheeltapper_fleet import tables
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.telemetry import spool as spool_module
from wheeltapper_fleet.telemetry.store import Delivered, store_messages
from wheeltapper_fleet.telemetry.views import newest_scores, record_totals
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Alert, LossReport, Report, Severity, Telemetry, TelemetryRecord

EPOCHS = ("00112233445566aa", "00112233445566bb")
NOW = 1_790_000_000.0


def score_of(seq: int) -> float:
    return seq / 8


def window(seq: int, pipeline: str = "main", **changes: Any) -> TelemetryRecord:
    place: dict[str, Any] = {"seq": seq, "pipeline": pipeline, "window": seq, "t_s": NOW + seq}
    return TelemetryRecord(
        **(place | {"model": "m", "release": 1, "score": score_of(seq), "latency_ms": 1.5} | changes)
    )


def kind_of(seq: int) -> str:
    """What a record is depends on its number alone, as a device never gives a number twice."""
    return "alert" if seq % 11 == 0 else "report" if seq % 7 == 0 else "telemetry"


def said(epoch: str, seqs: list[int], oldest: int, after: int | None) -> list[tuple[list[int], Delivered]]:
    """Messages with the records ``seqs``: one of telemetry, and one for each alert or report."""
    found: list[tuple[list[int], Delivered]] = []
    same: dict[str, Any] = {"epoch": epoch, "oldest": oldest, "after": after}
    windows = [window(seq, "main" if seq % 2 else "other") for seq in seqs if kind_of(seq) == "telemetry"]
    if windows:
        message = Telemetry(**same, records=windows)
        found.append(([record.seq for record in windows], ("dev-1", message, encode(message))))
    for seq in seqs:
        if kind_of(seq) == "alert":
            fields: dict[str, Any] = {"pipeline": "main", "window": seq, "t_s": NOW, "at": NOW, "model": "m"}
            alert = Alert(**same, seq=seq, **fields, release=1, score=2.0, severity=Severity.WARNING)
            found.append(([seq], ("dev-1", alert, encode(alert))))
        if kind_of(seq) == "report":
            report = Report(**same, seq=seq, at=NOW, body=LossReport(why="spool.full"))
            found.append(([seq], ("dev-1", report, b"")))
    return found


MESSAGE = st.tuples(
    st.sampled_from(EPOCHS),
    st.one_of(
        st.builds(lambda first, count: list(range(first, first + count)), st.integers(1, 30), st.integers(1, 10)),
        st.lists(st.integers(1, 40), min_size=1, max_size=8),
    ),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(0, 40)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.tuples(st.booleans(), st.lists(MESSAGE, min_size=1, max_size=4)), max_size=8))
def test_whatever_comes_the_records_are_those_of_a_row_a_record(engine: Engine, batches: list[Any]) -> None:
    models = {epoch: RecordByRecord() for epoch in EPOCHS}
    with engine.begin() as connection:
        for table in (tables.messages, tables.spools, tables.spool_gaps, tables.rollups, tables.latest):
            connection.execute(table.delete())
    for number, (dies, batch) in enumerate(batches):
        messages = [each for message in batch for each in said(*message)]
        with engine.connect() as connection, connection.begin() as transaction:
            stored = store_messages(connection, [each for _, each in messages], NOW + number)
            if dies:  # between the statements and the commit: nothing of it is there, and nothing was acknowledged
                transaction.rollback()
                continue
        by_epoch: dict[str, list[tuple[list[int], int, int | None]]] = {}
        for seqs, (_, message, _) in messages:
            by_epoch.setdefault(message.epoch, []).append((seqs, message.oldest, message.after))
        for epoch, its in by_epoch.items():
            models[epoch].batch(its)
            assert stored.acks["dev-1", epoch] == models[epoch].contiguous
    found = stored_records(engine)
    expected = sorted((epoch, seq) for epoch, model in models.items() for seq in model.stored)
    assert sorted((each.epoch, each.seq) for each in found) == expected
    for each in found:
        assert each.kind == kind_of(each.seq)
        if each.kind == "telemetry":
            assert (each.window, each.score) == (each.seq, score_of(each.seq))
    telemetry = [each for each in found if each.kind == "telemetry"]
    with reading(engine) as connection:
        totals = record_totals(connection, ["dev-1"])["dev-1"]
        assert (totals.stored, totals.dropped) == (len(found), sum(model.dropped for model in models.values()))
        for span in (300, 3600, 86_400):
            sums = [func.sum(tables.rollups.c[name]) for name in ("windows", "score_sum", "alerts")]
            row = connection.execute(select(*sums).where(tables.rollups.c.span == span)).one()
            assert (row[0] or 0) == len(telemetry)
            assert (row[1] or 0) == sum(score_of(each.seq) for each in telemetry)
            assert (row[2] or 0) == sum(each.kind == "alert" for each in found)
        windows = connection.execute(select(func.sum(tables.latest.c.windows))).scalar_one()
        assert (windows or 0) == len(telemetry)


def test_an_overlap_keeps_only_what_is_new(engine: Engine) -> None:
    for first, last in ((1, 10), (5, 14)):
        message = Telemetry(epoch=EPOCHS[0], oldest=1, records=[window(seq) for seq in range(first, last + 1)])
        with engine.begin() as connection:
            assert store_messages(connection, [("dev-1", message, encode(message))], NOW).acks == {
                ("dev-1", EPOCHS[0]): last
            }
    with reading(engine) as connection:
        columns = (tables.messages.c.first_seq, tables.messages.c.last_seq, tables.messages.c.records)
        assert connection.execute(select(*columns).order_by(tables.messages.c.id)).all() == [(1, 10, 10), (11, 14, 4)]


def test_a_batch_of_many_devices_costs_as_many_statements_as_one_of_few(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def cost(devices: int, first: int) -> int:
        records = [window(first), window(first + 1)]
        message = Telemetry(epoch=EPOCHS[0], oldest=1, records=records)
        batch: list[Delivered] = [(f"dev-{number}", message, encode(message)) for number in range(devices)]
        statements.clear()
        with engine.begin() as connection:
            store_messages(connection, batch, NOW)
        return len(statements)

    cost(200, 1)
    assert cost(200, 3) == cost(2, 5)


def test_the_newest_score_is_that_of_the_newest_window(engine: Engine) -> None:
    def deliver(now: float, *records: TelemetryRecord, epoch: str = EPOCHS[0]) -> tuple[float, float]:
        with engine.begin() as connection:
            store_messages(connection, [("dev-1", Telemetry(epoch=epoch, oldest=1, records=list(records)), b"")], now)
            newest = newest_scores(connection, ["dev-1"])["dev-1"]["main"]
            return newest.score, newest.at

    assert deliver(NOW, window(4), window(5)) == (score_of(5), NOW)
    assert deliver(NOW + 1, window(2), window(3)) == (score_of(5), NOW)  # they come late
    assert deliver(NOW + 2, window(6), window(7, score=None)) == (score_of(6), NOW + 2)
    assert deliver(NOW + 3, window(8, score=None)) == (score_of(6), NOW + 2)
    assert deliver(NOW + 4, window(1), epoch=EPOCHS[1]) == (score_of(1), NOW + 4)  # a new spool


def test_a_window_counts_at_its_own_time_where_that_can_be(engine: Engine) -> None:
    times = {1: NOW, 2: NOW - 5 * 86_400, 3: NOW - 60 * 86_400, 4: NOW + 86_400, 5: 17.0}
    records = [window(seq, t_s=t_s) for seq, t_s in times.items()]
    records.append(window(6, t_s=NOW - 86_400, undated=True))
    with engine.begin() as connection:
        store_messages(connection, [("dev-1", Telemetry(epoch=EPOCHS[0], oldest=1, records=records), b"")], NOW)
        fine = select(tables.rollups.c.bucket, tables.rollups.c.windows).where(tables.rollups.c.span == 300)
        found = {row.bucket: row.windows for row in connection.execute(fine)}
    assert found == {NOW // 300 * 300: 5, (NOW - 5 * 86_400) // 300 * 300: 1}


@pytest.mark.parametrize("score", [1e300, -1e300])
def test_a_score_out_of_all_bounds_spoils_no_sum(engine: Engine, score: float) -> None:
    message = Telemetry(epoch=EPOCHS[0], oldest=1, records=[window(1, score=score, latency_ms=1e300), window(2)])
    with engine.begin() as connection:
        store_messages(connection, [("dev-1", message, b"")], NOW)
        row = connection.execute(select(tables.rollups).where(tables.rollups.c.span == 300)).one()
    assert (row.windows, row.scored, row.missing, row.score_sum, row.latency_count) == (2, 1, 1, score_of(2), 1)


def test_a_scattered_spool_is_refused_and_goes_on_from_below(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_GAPS", 3)

    def deliver(*seqs: int) -> tuple[int, list[str]]:
        message = Telemetry(epoch=EPOCHS[0], oldest=1, records=[window(seq) for seq in seqs])
        with engine.begin() as connection:
            stored = store_messages(connection, [("dev-1", message, b"")], NOW)
        return stored.acks["dev-1", EPOCHS[0]], [each.code for each in stored.refusals]

    assert deliver(2, 4, 6) == (0, [])
    assert deliver(8) == (0, ["spool.scattered"])
    assert deliver(1, 3) == (4, [])
    assert deliver(8) == (4, [])
    assert deliver(5, 7) == (8, [])
    assert [each.seq for each in stored_records(engine)] == [2, 4, 6, 1, 3, 8, 5, 7]


def test_processes_that_store_the_same_at_once_store_it_once(engine: Engine) -> None:
    """A device sends again to another ingest process while the first one still stores what it sent before."""
    errors: list[Exception] = []

    def work(shift: int) -> None:
        try:
            for first in range(1 + shift, 60, 4):
                message = Telemetry(epoch=EPOCHS[0], oldest=1, records=[window(seq) for seq in range(first, first + 8)])
                with engine.begin() as connection:
                    store_messages(connection, [(f"dev-{first % 2}", message, b""), ("dev-1", message, b"")], NOW)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = [each.seq for each in stored_records(engine, "dev-1")]
    assert len(found) == len(set(found))
    assert set(found) >= set(range(1, 67))
    with reading(engine) as connection:
        assert record_totals(connection, ["dev-1"])["dev-1"].stored == len(found)
        fine = select(func.sum(tables.rollups.c.windows)).where(
            tables.rollups.c.span == 300, tables.rollups.c.device == "dev-1"
        )
        assert connection.execute(fine).scalar_one() == len(found)
