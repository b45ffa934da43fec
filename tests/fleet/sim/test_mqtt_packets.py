"""MQTT packets: bytes of the specification, any cut of the stream, and bytes that are none."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.sim.mqtt_packets import (
    Connack,
    MalformedError,
    Packet,
    Puback,
    Publish,
    Reader,
    Suback,
    connect_packet,
    publish_packet,
    subscribe_packet,
)

LONG = b"x" * 20_000
STREAM = (
    b"\x20\x02\x00\x00"
    b"\x90\x03\x00\x01\x00"
    b"\x31\x07\x00\x03a/bhi"
    b"\xd0\x00"
    b"\x40\x02\x01\x02"
    b"\x32\x09\x00\x03a/b\x00\x07ho"
    b"\x30" + b"\xa5\x9c\x01" + b"\x00\x03a/c" + LONG
)
PACKETS: list[Packet] = [
    Connack(0),
    Suback(1, b"\x00"),
    Publish("a/b", b"hi", 0, 0, True),
    Puback(0x102),
    Publish("a/b", b"ho", 1, 7, False),
    Publish("a/c", LONG, 0, 0, False),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_however_the_stream_is_cut_the_packets_are_the_same(cuts: list[int]) -> None:
    reader, places, found = Reader(), [0, *sorted(cuts), len(STREAM)], []
    for begin, end in itertools.pairwise(places):
        found += reader.feed(STREAM[begin:end])
    assert found == PACKETS


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_malformed(content: bytes) -> None:
    with contextlib.suppress(MalformedError):
        Reader().feed(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x30\xff\xff\xff\xff\x01",  # 2.2.3: at most four bytes of length
        b"\x30\xff\xff\xff\x7f",  # 256 MB
        b"\x30\x03\x00\x09a",  # a topic longer than the packet
        b"\x10\x00",  # CONNECT comes from clients only
    ],
)
def test_what_no_server_sends_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedError):
        Reader().feed(content)


def test_what_a_device_sends_is_as_the_specification_says() -> None:
    connect = connect_packet("a", 60, "t", b"w")
    assert connect == b"\x10\x13\x00\x04MQTT\x04\x2e\x00\x3c\x00\x01a\x00\x01t\x00\x01w"  # 3.1
    assert subscribe_packet(1, "a/+") == b"\x82\x08\x00\x01\x00\x03a/+\x00"  # 3.8
    assert publish_packet("a", b"p", 2, retain=True) == b"\x33\x06\x00\x01a\x00\x02p"  # 3.3
    assert publish_packet("a", b"p" * 200, 2)[:3] == b"\x32\xcd\x01"
