"""The buffer below paho's client: the same bytes, with fewer calls of the socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet.broker.rig import Rig
from wheeltapper_fleet.broker.buffered_client import BufferedSocket, published


class Pieces:
    """A socket whose bytes come in ``pieces``; then it has nothing."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.calls = list(pieces), 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        if not self.pieces:
            raise BlockingIOError
        piece, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        return piece

    def pending(self) -> int:
        return 0

    def fileno(self) -> int:
        return 7


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(1, 20), min_size=1))
def test_the_bytes_are_those_of_the_socket(pieces: list[bytes], sizes: list[int]) -> None:
    below = Pieces(pieces)
    buffered = BufferedSocket(below)
    found = b""
    for size in [*sizes, *[7] * 100]:
        try:
            part = buffered.recv(size)
        except BlockingIOError:
            assert buffered.pending() == 0
            break
        assert 1 <= len(part) <= size
        found += part
        assert buffered.pending() > 0 or below.calls <= len(pieces)
    assert found == b"".join(pieces)
    assert below.calls == len(pieces) + 1
    assert buffered.fileno() == 7


def test_an_end_is_an_end() -> None:
    class Ended:
        def recv(self, _size: int) -> bytes:
            return b""

    assert BufferedSocket(Ended()).recv(1) == b""
    with pytest.raises(AttributeError):
        BufferedSocket(Ended()).nothing  # noqa: B018  # asks for it


def test_the_fleet_s_own_connection_uses_it(tmp_path: Any) -> None:
    rig = Rig(tmp_path)
    try:
        assert isinstance(rig.link._client.socket(), BufferedSocket)
    finally:
        rig.stop()


MESSAGES = [("wt/v1/d-1/up/telemetry", b"\x00" * 300), ("a", b""), ("wt/v1/é/up/alert", b"x" * 20_000)]


def packet(topic: str, payload: bytes, first: int = 0x30, *, properties: bytes | None = None) -> bytes:
    """A PUBLISH packet at QoS 0 (MQTT 3.1.1 and 5.0, 3.3)."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (b"" if properties is None else properties) + payload
    length, left = b"", len(body)
    while True:
        left, digit = divmod(left, 128)[0], left % 128
        length += bytes([digit | (128 if left else 0)])
        if not left:
            return bytes([first]) + length + body


@pytest.mark.parametrize("properties", [None, b"\x00", b"\x05\x02\x00\x00\x00\x10"])
@pytest.mark.parametrize("first", [0x30, 0x31])
def test_messages_are_taken_as_far_as_they_are_whole(first: int, properties: bytes | None) -> None:
    packets = [packet(*each, first, properties=properties) for each in MESSAGES]
    stream = b"".join(packets)
    for cut in (*range(700), len(stream) - 1, len(stream)):
        whole = 0
        while whole < len(packets) and len(b"".join(packets[: whole + 1])) <= cut:
            whole += 1
        size, found = published(memoryview(stream[:cut]), of_version_5=properties is not None)
        assert found == MESSAGES[:whole]
        assert size == len(b"".join(packets[:whole]))


@pytest.mark.parametrize(
    "stopper",
    [
        packet("a", b"x", 0x32),
        b"\xd0\x00",
        b"\x30\x01\x00",
        b"\x30\x04\x00\x09ab",
        b"\x30\xff\xff\xff\xff\x01",
        packet("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), b"").replace(b"\xc3", b"\xff"),
    ],
    ids=["QoS 1", "PINGRESP", "no topic", "topic beyond the packet", "length of five bytes", "no UTF-8"],
)
def test_what_is_no_whole_message_at_qos_0_is_left_to_paho(stopper: bytes) -> None:
    before = packet(*MESSAGES[0])
    assert published(memoryview(before + stopper + before), of_version_5=False) == (len(before), MESSAGES[:1])
