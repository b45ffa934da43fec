"""A batch applied to the database: rows of records, and acknowledgements."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Engine, select

from tests.fleet.records import stored_records
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.notices import notices_of
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.tables import executions
from wheeltapper_protocols.wire.codec import decode_down
from wheeltapper_protocols.wire.messages import Ack, Report, ShadowReport, Telemetry, TelemetryRecord
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
    kept = [each.body or {} for each in stored_records(engine)]
    assert [(one["body"]["type"], one["body"]["windows"]) for one in kept] == [("shadow", 3)]
    with engine.begin() as connection:
        assert connection.execute(select(executions.c.id)).all() == []
    assert [decode_down(Down.ACK, each.payload) for each in applied.publications] == [Ack(epoch=EPOCH, seq=1)]


def test_label_value_and_zone_are_stored_beside_the_score(engine: Engine) -> None:
    plain = TelemetryRecord(seq=1, pipeline="main", window=0, t_s=0.0, score=0.5)
    telemetry = [
        plain,
        msgspec.structs.replace(plain, seq=2, label="inner race", zone="C"),
        msgspec.structs.replace(plain, seq=3, value=41.5, partial=True),
    ]
    message = DeviceMessage("dev-1", Telemetry(epoch="00112233445566aa", oldest=1, records=telemetry))
    with engine.begin() as connection:
        assert apply_batch(connection, [message], [], 1.0).records == 3
        apply_batch(connection, [message], [], 1.0)
    said = [(each.label, each.value, each.zone, each.partial) for each in stored_records(engine)]
    assert said == [(None, None, None, False), ("inner race", None, "C", False), (None, 41.5, None, True)]


def test_records_that_a_device_cannot_date_are_counted_and_shown(engine: Engine) -> None:
    plain = TelemetryRecord(seq=1, pipeline="main", window=0, t_s=12.0, undated=True)
    telemetry = [plain, msgspec.structs.replace(plain, seq=2), msgspec.structs.replace(plain, seq=3, undated=False)]
    report = Report(epoch=EPOCH, oldest=1, seq=4, at=9.0, body=ShadowReport(), undated=True)
    messages: list[Telemetry | Report] = [Telemetry(epoch=EPOCH, oldest=1, records=telemetry), report]
    with engine.begin() as connection:
        apply_batch(connection, [DeviceMessage("dev-1", each) for each in messages], [], 1.0)
        dated = Telemetry(epoch=EPOCH, oldest=1, records=[msgspec.structs.replace(plain, seq=5, undated=False)])
        apply_batch(connection, [DeviceMessage("dev-2", dated)], [], 1.0)
    with reading(engine) as connection:
        assert [(each.code, each._mapping["count"]) for each in notices_of(connection, "dev-1")] == [
            ("record.undated", 3)
        ]
        assert not notices_of(connection, "dev-2")
