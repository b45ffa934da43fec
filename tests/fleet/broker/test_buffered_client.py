"""The buffer below paho's client: the same bytes, with fewer calls of the socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet.broker.rig import Rig
from wheeltapper_fleet.broker.buffered_client import BufferedSocket


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
