"""HTTPS to the fleet service: mutual TLS, streamed answers, no redirects, no trust in Content-Length.

Invariants:
    * A piece of an answer is handed on as soon as it is there.
    * No wait for the server is longer than the time-out, whatever the server sends. Between two pieces the reader can
      decide whether to go on.
    * An answer that is read as a whole (:meth:`HttpsClient.request`) must arrive within a fixed time.
    * An error that the reader raises itself, e.g. to break off, is passed on as it is.

Example::

    client = HttpsClient("https://fleet.example:8443", tls_context(ca, certificate, key))
    answer = client.request("GET", "/v1/enrol/ca", max_bytes=65536)

Not done here: how long or how slow an answer in pieces may be (:mod:`wheeltapper_agent.update.blobs`,
:mod:`wheeltapper_agent.update.tuf_client`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import ssl
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import brief

if TYPE_CHECKING:  # loaded at the first request: an agent that has nothing to fetch saves the memory
    import urllib3

__all__ = ["CHUNK_BYTES", "HttpsClient", "HttpsError"]

CHUNK_BYTES: Final = 64 * 1024
"""Pieces of an answer are at most so large, unless the reader asks for others."""
_MAX_ERROR_BYTES: Final = 4096
_WHOLE_TIMEOUTS: Final = 3.0
"""An answer that is read as a whole must be complete so many time-outs after its head."""


class HttpsError(AgentError):
    """A request failed.

    Args:
        code: ``fetch.unreachable`` (no answer, or it broke off), ``fetch.status`` (the status is not 2xx),
            ``fetch.slow``, ``fetch.range`` or ``fetch.too_long``.
        message: for a person.
        status: the HTTP status; 0 where there was no answer.
        remote_code: the service's own error code, where its answer has one.
    """

    def __init__(self, code: str, message: str, status: int = 0, remote_code: str = "") -> None:
        super().__init__(code, message)
        self.status = status
        self.remote_code = remote_code


class HttpsClient:
    """Requests to one server.

    Args:
        base_url: ``https://host:port``.
        context: TLS context: which CA to trust, which certificate to present.
        timeout_seconds: limit for connecting, for the head of an answer, and for each piece of it.

    Raises:
        AgentError: ``fetch.url``: the address does not begin with https://.
    """

    def __init__(self, base_url: str, context: ssl.SSLContext, timeout_seconds: float = 20.0) -> None:
        if not base_url.startswith("https://"):
            raise AgentError("fetch.url", f"the server's address must begin with https://, not {base_url[:80]!r}")
        self.base_url = base_url.rstrip("/")
        self._context = context
        self._timeout_seconds = timeout_seconds

    @functools.cached_property
    def _pool(self) -> urllib3.PoolManager:
        from wheeltapper_agent.link.https_pool import make_pool

        return make_pool(self._context, self._timeout_seconds)

    @contextlib.contextmanager
    def _open(
        self, method: str, url: str, body: bytes | Iterable[bytes] | None, headers: dict[str, str] | None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send a request; gives the answer once its head is there, if its status is 2xx."""
        import urllib3

        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, preload_content=False, redirect=False, decode_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HttpsError("fetch.unreachable", f"{method} {url}: {brief(error)}") from error
        try:
            if not 200 <= response.status < 300:
                raise self._refused(method, url, response)
            yield response
        finally:
            response.close()

    def stream(self, url: str) -> Generator[bytes, None, None]:
        """Read the answer to a GET request piece by piece; the reader limits its length.

        Args:
            url: absolute, or a path of the server.

        Raises:
            HttpsError: ``fetch.unreachable`` or ``fetch.status``; also while iterating.
        """
        full = url if url.startswith("https://") else self.base_url + url
        with self._open("GET", full, None, {"Accept-Encoding": "identity"}) as response:
            yield from _pieces(full, response)

    @contextlib.contextmanager
    def stream_from(
        self, url: str, offset: int, piece_bytes: int = CHUNK_BYTES
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Read the answer to a GET request from a byte on, to resume a download.

        Args:
            url: a path of the server.
            offset: the first byte wanted.
            piece_bytes: largest piece.

        Returns:
            The byte at which the answer begins, and its pieces. A server may ignore the range (RFC 9110, section
            14.2): then the answer begins at 0.

        Raises:
            HttpsError: ``fetch.unreachable``, ``fetch.status`` (with ``status`` 416 where there is nothing from
                ``offset`` on), ``fetch.range`` (the answer begins at another byte); also while iterating.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._open("GET", self.base_url + url, None, headers) as response:
            begins = 0
            if response.status == 206:
                unit, _, span = response.headers.get("Content-Range", "").strip().partition(" ")
                first = span.partition("-")[0]
                if unit != "bytes" or not first.isascii() or not first.isdigit() or int(first) != offset:
                    raise HttpsError("fetch.range", f"GET {url}: asked for byte {offset} on, got {span[:40]!r}")
                begins = offset
            yield begins, _pieces(url, response, piece_bytes)

    def request(
        self,
        method: str,
        path: str,
        max_bytes: int,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Send a request and read the whole answer.

        Args:
            method: e.g. ``GET``.
            path: of the server.
            max_bytes: a longer answer is an error.
            body: of the request; one in pieces needs a Content-Length in ``headers``.
            headers: of the request.

        Raises:
            HttpsError: ``fetch.unreachable``, ``fetch.status``, ``fetch.too_long``, ``fetch.slow``.
        """
        with self._open(method, self.base_url + path, body, headers) as response:
            whole = self._whole(path, response, max_bytes)
        if len(whole) > max_bytes:
            raise HttpsError("fetch.too_long", f"{method} {path}: the answer exceeds {max_bytes} bytes")
        return whole

    def head(self, path: str) -> dict[str, str]:
        """Send a HEAD request; returns the headers of the answer, with names in lower case.

        Raises:
            HttpsError: ``fetch.unreachable``, ``fetch.status``.
        """
        with self._open("HEAD", self.base_url + path, None, None) as response:
            return {name.lower(): value for name, value in response.headers.items()}

    def use(self, context: ssl.SSLContext) -> None:
        """Make every further connection with another TLS context. Requests that are under way end as they began."""
        self._context = context
        pool = self.__dict__.pop("_pool", None)
        if pool is not None:
            pool.clear()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _whole(self, url: str, response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
        """The whole answer; one that is longer than ``max_bytes`` is cut off somewhat above that."""
        until_seconds = time.monotonic() + _WHOLE_TIMEOUTS * self._timeout_seconds
        whole = bytearray()
        for piece in _pieces(url, response, until_seconds=until_seconds):
            whole += piece
            if len(whole) > max_bytes:
                break
        return bytes(whole)

    def _refused(self, method: str, url: str, response: urllib3.BaseHTTPResponse) -> HttpsError:
        """The error for an answer whose status is not 2xx, with the service's own code if it has one."""
        code, message = "", ""
        try:
            body = json.loads(self._whole(url, response, _MAX_ERROR_BYTES)[:_MAX_ERROR_BYTES])
            if isinstance(body, dict):
                code, message = str(body.get("code", ""))[:80], brief(body.get("detail") or body.get("message", ""))
        except (ValueError, RecursionError, HttpsError):
            message = ""
        text = f"{method} {url}: HTTP {response.status} {code} {message}".rstrip()
        return HttpsError("fetch.status", text, response.status, code)


def _pieces(
    url: str, response: urllib3.BaseHTTPResponse, piece_bytes: int = CHUNK_BYTES, until_seconds: float = math.inf
) -> Iterator[bytes]:
    """The pieces of an answer as they arrive.

    Raises:
        HttpsError: ``fetch.unreachable``; ``fetch.slow`` after ``until_seconds`` of the monotonic clock.
    """
    import urllib3

    while True:
        try:
            piece = response.read1(piece_bytes)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HttpsError("fetch.unreachable", f"{url} broke off: {brief(error)}") from error
        if not piece:
            return
        if time.monotonic() > until_seconds:
            raise HttpsError("fetch.slow", f"{url}: the answer arrives too slowly")
        yield piece
