"""HTTPS to the fleet service: mutual TLS, streamed answers, no redirects, no trust in Content-Length.

Invariants: a piece of an answer is handed on as soon as it is there; no wait for the server, whatever it sends, is
longer than the time-out, so whoever takes the pieces can look in between whether to go on; an answer that is taken
whole has an end by the clock, too. An error of the caller's own is never taken for one of the line.

Not done here: how long or how slow an answer in pieces may be (:mod:`blobs`, :mod:`tuf_client`).
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

if TYPE_CHECKING:  # imported at the first request: an agent that has nothing to fetch does without it
    import urllib3

__all__ = ["CHUNK_BYTES", "HttpsClient", "HttpsError"]

CHUNK_BYTES: Final = 64 * 1024
_MAX_ERROR_BYTES: Final = 4096
_WHOLE_TIMEOUTS: Final = 3.0
"""So many time-outs after its head, an answer that is taken whole must be there."""


class HttpsError(AgentError):
    """``fetch.unreachable`` (no answer; ``status`` 0), ``fetch.status`` (an answer that is not 2xx), ``fetch.slow``."""

    def __init__(self, code: str, message: str, status: int = 0, remote_code: str = "") -> None:
        super().__init__(code, message)
        self.status = status
        self.remote_code = remote_code


class HttpsClient:
    """Requests to one server.

    Args:
        base_url: ``https://host:port``.
        context: TLS context: whom to trust, which certificate to present.
        timeout_seconds: for connecting, for the head of an answer, and for each piece of it.
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
        import urllib3

        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, preload_content=False, redirect=False, decode_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HttpsError("fetch.unreachable", f"{method} {url}: {str(error)[:300]}") from error
        try:
            if not 200 <= response.status < 300:
                raise self._refused(method, url, response)
            yield response
        finally:
            response.close()

    def stream(self, url: str) -> Generator[bytes, None, None]:
        """The pieces of the answer to GET ``url`` (absolute, or a path of the server); the reader counts them.

        Raises:
            HttpsError: also while iterating.
        """
        full = url if url.startswith("https://") else self.base_url + url
        with self._open("GET", full, None, {"Accept-Encoding": "identity"}) as response:
            yield from _pieces(full, response)

    @contextlib.contextmanager
    def partly(self, url: str, offset: int, piece_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, Iterator[bytes]]]:
        """GET the path ``url`` from byte ``offset`` on: where the answer begins, and its pieces.

        A server may ignore the range (RFC 9110, section 14.2): the answer then begins at 0.

        Raises:
            HttpsError: also while iterating; ``fetch.range`` where the answer begins elsewhere; ``status`` 416 where
                there is nothing from ``offset`` on.
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
                    raise HttpsError("fetch.range", f"GET {url}: asked from byte {offset}, got {span[:40]!r}")
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
        """The whole answer, at most ``max_bytes`` long. A body in pieces needs a Content-Length in ``headers``.

        Raises:
            HttpsError: as above, ``fetch.too_long``, and ``fetch.slow``.
        """
        with self._open(method, self.base_url + path, body, headers) as response:
            whole = self._whole(path, response, max_bytes)
        if len(whole) > max_bytes:
            raise HttpsError("fetch.too_long", f"{method} {path}: the answer exceeds {max_bytes} bytes")
        return whole

    def head(self, path: str) -> dict[str, str]:
        """The headers of the answer to HEAD, their names in lower case.

        Raises:
            HttpsError: as above.
        """
        with self._open("HEAD", self.base_url + path, None, None) as response:
            return {name.lower(): value for name, value in response.headers.items()}

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _whole(self, url: str, response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
        """The answer; of one that is longer than ``max_bytes`` that much and some more."""
        until_seconds = time.monotonic() + _WHOLE_TIMEOUTS * self._timeout_seconds
        whole = bytearray()
        for piece in _pieces(url, response, until_seconds=until_seconds):
            whole += piece
            if len(whole) > max_bytes:
                break
        return bytes(whole)

    def _refused(self, method: str, url: str, response: urllib3.BaseHTTPResponse) -> HttpsError:
        """The error for an answer that is not 2xx, with the server's own code where there is one."""
        code, message = "", ""
        try:
            body = json.loads(self._whole(url, response, _MAX_ERROR_BYTES)[:_MAX_ERROR_BYTES])
            if isinstance(body, dict):
                code, message = str(body.get("code", ""))[:80], str(body.get("message", ""))[:300]
        except (ValueError, RecursionError, HttpsError):
            message = ""
        text = f"{method} {url}: HTTP {response.status} {code} {message}".rstrip()
        return HttpsError("fetch.status", text, response.status, code)


def _pieces(
    url: str, response: urllib3.BaseHTTPResponse, piece_bytes: int = CHUNK_BYTES, until_seconds: float = math.inf
) -> Iterator[bytes]:
    """What comes, as it comes, up to ``until_seconds`` of the monotonic clock."""
    import urllib3

    while True:
        try:
            piece = response.read1(piece_bytes)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HttpsError("fetch.unreachable", f"{url} broke off: {str(error)[:300]}") from error
        if not piece:
            return
        if time.monotonic() > until_seconds:
            raise HttpsError("fetch.slow", f"{url}: the answer comes too slowly")
        yield piece
