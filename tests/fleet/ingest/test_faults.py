"""The ingest when the database, the broker or one message is at fault: nothing good is refused, nothing else waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from tests.fleet.records import stored_records
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ingest import ingest as ingest_module
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.tables import refused
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Telemetry, TelemetryRecord

EPOCH = "00112233445566aa"


def batch(*devices: str) -> list[tuple[str, bytes]]:
    record = TelemetryRecord(seq=1, pipeline="main", window=0, t_s=0.0, score=0.5)
    payload = encode(Telemetry(epoch=EPOCH, oldest=1, records=[record]))
    return [(f"wt/v1/{device}/up/telemetry", payload) for device in devices]


class Rig:
    def __init__(self, tmp_path: Path, publish: Any = None) -> None:
        self.engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
        self.published: list[str] = []
        self.ingest = Ingest(self.engine, publish or (lambda topic, payload, retain: self.published.append(topic)))

    def stored(self) -> list[str]:
        return sorted(each.device for each in stored_records(self.engine))

    def refused(self) -> list[tuple[str, str]]:
        with reading(self.engine) as connection:
            return [(row.device, row.code) for row in connection.execute(select(refused))]


@pytest.mark.parametrize("fault", [NoConnectionError("no connection came back"), OSError(28, "no space left")])
def test_a_fault_of_the_database_refuses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    rig, faults = Rig(tmp_path), [fault, fault]

    def apply(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return apply_batch(*args)

    monkeypatch.setattr(ingest_module, "apply_batch", apply)
    rig.ingest.process(batch("dev-1", "dev-2"))
    assert (rig.stored(), rig.refused(), rig.ingest.counts.refused) == (["dev-1", "dev-2"], [], 0)


def test_a_repeated_fault_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    faults: list[Exception] = [OperationalError("INSERT a secret", {}, Exception("disk I/O error")) for _ in range(3)]

    def apply(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return apply_batch(*args)

    monkeypatch.setattr(ingest_module, "apply_batch", apply)
    monkeypatch.setattr(ingest_module, "_FIRST_RETRY_SECONDS", 0.001)
    rig.ingest.process(batch("dev-1"))
    said = [record.getMessage() for record in caplog.records if record.name == ingest_module.__name__]
    assert len(said) == 2
    assert "disk I/O error" in said[0]
    assert "secret" not in said[0]
    assert "try 4" in said[1]


def test_one_message_that_cannot_be_stored_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)

    def apply(connection: Any, messages: Sequence[Any], *rest: Any) -> Any:
        if any(each.device == "dev-2" for each in messages):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return apply_batch(connection, messages, *rest)

    monkeypatch.setattr(ingest_module, "apply_batch", apply)
    rig.ingest.process(batch("dev-1", "dev-2", "dev-3"))
    assert rig.stored() == ["dev-1", "dev-3"]
    assert rig.refused() == [("dev-2", "ingest.unstorable")]


def test_a_broker_that_takes_no_answer_refuses_no_record(tmp_path: Path) -> None:
    def publish(topic: str, payload: bytes, retain: bool) -> None:
        raise RuntimeError("the queue is full")

    rig = Rig(tmp_path, publish)
    rig.ingest.process(batch("dev-1", "dev-2"))
    assert (rig.stored(), rig.refused()) == (["dev-1", "dev-2"], [])
    assert rig.ingest.counts.commits == 1
