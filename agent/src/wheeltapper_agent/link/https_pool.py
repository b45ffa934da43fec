"""urllib3's connections, with an end to every wait.

The time-out of a socket bounds one read of it, and nothing bounds how many of them an answer takes: a head that never
ends, one interim answer (1xx) after the other, or the line before a chunk, a byte at a time, would hold the reader for
ever. Here the head as a whole must come within the time-out, and so must each piece of the body.

What this module does not do: bound the number of pieces; their readers do.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.connection import HTTPSConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["make_pool"]


class _Socket(ssl.SSLSocket):
    """Can be read several times within one time-out."""

    _until_seconds = math.inf

    @contextlib.contextmanager
    def one_wait(self) -> Iterator[None]:
        """What is read in here comes within one time-out, all of it together."""
        timeout_seconds = self.gettimeout()
        self._until_seconds = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            yield
        finally:
            self._until_seconds = math.inf
            if self.fileno() >= 0:  # the end of an answer may close it
                self.settimeout(timeout_seconds)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """As of any socket.

        Raises:
            TimeoutError: the wait is over.
        """
        if self._until_seconds < math.inf:
            left_seconds = self._until_seconds - time.monotonic()
            if left_seconds <= 0:
                raise TimeoutError("the answer comes too slowly")
            self.settimeout(left_seconds)
        return super().recv_into(buffer, nbytes, flags)


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: _Socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._waits = sock.one_wait

    def begin(self) -> None:
        """Read the head."""
        with self._waits():
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        """What is there, or the next to come."""
        with self._waits():
            return super().read1(n)


class _Connection(HTTPSConnection):
    response_class = _Answer


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


def make_pool(context: ssl.SSLContext, timeout_seconds: float) -> urllib3.PoolManager:
    """Connections with ``context``, whose class of sockets is set here."""
    context.sslsocket_class = _Socket
    pool = urllib3.PoolManager(
        ssl_context=context,
        retries=False,
        timeout=urllib3.Timeout(connect=min(timeout_seconds, 10.0), read=timeout_seconds),
        maxsize=4,
    )
    pool.pool_classes_by_scheme = {"https": _Pool}
    return pool
