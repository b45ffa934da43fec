"""Connections of urllib3 on which every wait ends.

The time-out of a socket limits one read, but an answer may take any number of reads: a server that sends an endless
head, one interim answer (1xx) after the other, or the size line of a chunk byte by byte would hold its reader for ever.
Here the head as a whole must arrive within the time-out, and so must each piece of the body.

Not done here: limiting the number of pieces; their readers do that.
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
    """A TLS socket on which several reads can share one time-out."""

    _until_seconds = math.inf

    @contextlib.contextmanager
    def one_wait(self) -> Iterator[None]:
        """Let all reads in the ``with`` block share one time-out."""
        timeout_seconds = self.gettimeout()
        self._until_seconds = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            yield
        finally:
            self._until_seconds = math.inf
            if self.fileno() >= 0:  # the end of an answer may close the socket
                self.settimeout(timeout_seconds)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """See :meth:`ssl.SSLSocket.recv_into`.

        Raises:
            TimeoutError: the shared time-out is over.
        """
        if self._until_seconds < math.inf:
            left_seconds = self._until_seconds - time.monotonic()
            if left_seconds <= 0:
                raise TimeoutError("the answer arrives too slowly")
            self.settimeout(left_seconds)
        return super().recv_into(buffer, nbytes, flags)


class _Answer(http.client.HTTPResponse):
    """An answer whose head, and each of whose pieces, must arrive within one time-out."""

    def __init__(self, sock: _Socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._waits = sock.one_wait

    def begin(self) -> None:
        """Read the head of the answer."""
        with self._waits():
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        """The next piece: what has arrived, or else what arrives next."""
        with self._waits():
            return super().read1(n)


class _Connection(HTTPSConnection):
    response_class = _Answer


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


def make_pool(context: ssl.SSLContext, timeout_seconds: float) -> urllib3.PoolManager:
    """A pool of such connections.

    Args:
        context: TLS context; its socket class is replaced.
        timeout_seconds: for the head of an answer and for each piece; connecting may take at most 10 s of it.
    """
    context.sslsocket_class = _Socket
    pool = urllib3.PoolManager(
        ssl_context=context,
        retries=False,
        timeout=urllib3.Timeout(connect=min(timeout_seconds, 10.0), read=timeout_seconds),
        maxsize=4,
    )
    pool.pool_classes_by_scheme = {"https": _Pool}
    return pool
