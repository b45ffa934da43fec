"""Reading a message of a device: a message or a refusal, never an exception."""

from __future__ import annotations

import pytest

from wheeltapper_fleet.ingest.message import DeviceMessage, read_message
from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Status
from wheeltapper_protocols.wire.topics import Down, Up, down_topic, up_topic


def test_a_valid_message_is_read() -> None:
    status = Status(online=True, counter=3)
    assert read_message(up_topic("dev-1", Up.STATUS), encode(status)) == DeviceMessage("dev-1", status)


@pytest.mark.parametrize(
    ("topic", "payload", "device", "code"),
    [
        (up_topic("dev-1", Up.STATUS), b"nonsense", "dev-1", "wire.malformed"),
        (down_topic("dev-1", Down.ACK), b"{}", "dev-1", "wire.topic"),
        ("elsewhere", b"", "unknown", "wire.topic"),
        ("wt1/d/UPPER/up/status", b"", "unknown", "id.invalid"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_code(topic: str, payload: bytes, device: str, code: str) -> None:
    refusal = read_message(topic, payload)
    assert isinstance(refusal, Refusal)
    assert (refusal.device, refusal.code) == (device, code)
