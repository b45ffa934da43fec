"""Processes that fit one net together, each on a part of every batch.

All execute the same recipe with the same seed, so they draw the same weights, orders and noise. Each computes the
gradient of its part of a batch; the sum of all parts is the gradient of the batch, and all take the same step with it.
Only sums travel: some ten thousand numbers a step, by one connection from each process to a :class:`Meeting`.

Invariants:
    * All members get the same sum, to the bit: it is computed in one place, in the order of their ranks.
    * A member that is lost ends the fit of all, with ``crew.lost``; nothing is computed without it.
    * Who does not know the meeting's token is not heard.

What this module does not do: start processes (:mod:`wheeltapper_fleet.training.runs.together`).
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from wheeltapper_fleet.training.errors import TrainingError

__all__ = ["ALONE", "Alone", "Crew", "Meeting", "Member", "Seat"]

Array = npt.NDArray[np.float32]
_WAIT_SECONDS: Final = 600.0
"""For a member to begin, or to give its part: it may still read its data."""
_HELLO_SECONDS: Final = 5.0
"""For who connects to say the token."""
_HEAD: Final = struct.Struct("!Q")
_MOST_BYTES: Final = 256 * 1024 * 1024
_TOKEN_BYTES: Final = 32


class Crew(Protocol):
    """What a fit asks: which part of a batch is mine, and what is the sum of all parts."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(self, values: Sequence[Array]) -> list[Array]:
        """The sum over all processes of arrays of the same shapes.

        Raises:
            TrainingError: ``crew.lost``.
        """


class Alone:
    """One process."""

    rank: Final = 0
    size: Final = 1

    def sum(self, values: Sequence[Array]) -> list[Array]:
        """See :class:`Crew`."""
        return list(values)


ALONE: Final = Alone()


class Seat(Struct, frozen=True, kw_only=True):
    """Where a member meets the others: the address and the token of the meeting, its rank, and how many they are."""

    host: str
    port: int
    token: str
    rank: int
    size: int


class Member:
    """A process of several; implements :class:`Crew`.

    Raises:
        TrainingError: ``crew.lost``: the meeting is not there.
    """

    def __init__(self, seat: Seat) -> None:
        self.rank, self.size = seat.rank, seat.size
        try:
            self._socket = socket.create_connection((seat.host, seat.port), _WAIT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(bytes.fromhex(seat.token) + _HEAD.pack(seat.rank))
        except OSError as error:
            raise _lost(f"{seat.host}:{seat.port} does not answer") from error

    def sum(self, values: Sequence[Array]) -> list[Array]:
        """See :class:`Crew`."""
        flat = np.concatenate([np.asarray(value, dtype=np.float32).ravel() for value in values])
        try:
            self._socket.sendall(_HEAD.pack(flat.nbytes) + flat.tobytes())
            summed = np.frombuffer(_message(self._socket), dtype=np.float32)
        except OSError as error:
            raise _lost("another process of this training ended, or is not heard") from error
        if len(summed) != len(flat):
            raise _lost("the processes do not fit the same net")
        parts = np.split(summed, np.cumsum([value.size for value in values])[:-1])
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]


class Meeting:
    """Adds up what members give, in a thread of its own, until one of them leaves.

    Example:
        >>> with Meeting(2, "127.0.0.1") as meeting:
        ...     start_processes([meeting.seat(rank) for rank in range(2)])

    Args:
        size: how many members.
        host: the address of this computer where members reach it.
    """

    def __init__(self, size: int, host: str) -> None:
        self._size, self._host, self._token = size, host, secrets.token_bytes(_TOKEN_BYTES)
        self._server = socket.create_server((host, 0), backlog=size)
        self._server.settimeout(_WAIT_SECONDS)
        self._members: dict[int, socket.socket] = {}
        self._thread = threading.Thread(target=self._serve, name="crew", daemon=True)

    def seat(self, rank: int) -> Seat:
        """The seat of one member."""
        port = int(self._server.getsockname()[1])
        return Seat(host=self._host, port=port, token=self._token.hex(), rank=rank, size=self._size)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._server, *self._members.values()):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._members) < self._size:
                self._welcome(*self._server.accept()[:1])
            while True:
                self._round()
        for each in self._members.values():
            each.close()

    def _welcome(self, connection: socket.socket) -> None:
        """Take in a member; who does not know the token is left outside."""
        connection.settimeout(_HELLO_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            said = _exactly(connection, _TOKEN_BYTES + _HEAD.size)
        except OSError:
            connection.close()
            return
        connection.settimeout(_WAIT_SECONDS)
        (rank,) = _HEAD.unpack(said[_TOKEN_BYTES:])
        if not hmac.compare_digest(said[:_TOKEN_BYTES], self._token) or rank >= self._size or rank in self._members:
            connection.close()
            return
        self._members[rank] = connection

    def _round(self) -> None:
        """One sum. OSError where a member left, or gives another number of values."""
        total: npt.NDArray[np.float64] | None = None
        for rank in range(self._size):
            given = np.frombuffer(_message(self._members[rank]), dtype=np.float32)
            if total is not None and len(total) != len(given):
                raise OSError("the members differ")
            total = given.astype(np.float64) if total is None else total + given
        assert total is not None  # there is a member
        body = total.astype(np.float32).tobytes()
        for rank in range(self._size):
            self._members[rank].sendall(_HEAD.pack(len(body)) + body)


def _message(connection: socket.socket) -> bytes:
    """The next message. OSError where there is none."""
    (length,) = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if length > _MOST_BYTES or length % 4:
        raise OSError("this is no message of a crew")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes. OSError where the other side closed."""
    held = bytearray(count)
    view = memoryview(held)
    while view:
        got = connection.recv_into(view)
        if not got:
            raise ConnectionError("the other side has closed")
        view = view[got:]
    return bytes(held)


def _lost(why: str) -> TrainingError:
    return TrainingError(
        "crew.lost", f"{why}; look at the log of each worker, and see that all of them can run at once"
    )
