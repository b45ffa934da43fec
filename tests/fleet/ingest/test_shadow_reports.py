"""A device's shadow report is kept as a record and acknowledged; it moves no execution."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.tables import executions, records
from wheeltapper_protocols.wire.codec import decode_down
from wheeltapper_protocols.wire.messages import Ack, Report, ShadowReport
from wheeltapper_protocols.wire.topics import Down

EPOCH = "00112233445566aa"


def test_a_shadow_report_is_stored_and_acknowledged(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    body = ShadowReport(execution="e1", pipeline="main", windows=3, agreement=1.0)
    report = Report(epoch=EPOCH, oldest=1, seq=1, at=1.7e9, body=body)
    with engine.begin() as connection:
        applied = apply_batch(
            connection, [DeviceMessage("press-1", report), DeviceMessage("press-1", report)], [], 1.7e9
        )
    with engine.begin() as connection:
        kept = connection.execute(select(records.c.body)).scalars().all()
        assert [(one["body"]["type"], one["body"]["windows"]) for one in kept] == [("shadow", 3)]
        assert connection.execute(select(executions.c.id)).all() == []
    assert [decode_down(Down.ACK, each.payload) for each in applied.publications] == [Ack(epoch=EPOCH, seq=1)]
