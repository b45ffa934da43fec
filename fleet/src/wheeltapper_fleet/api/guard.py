"""Checks every HTTP request before a route sees it (host name, body size), and adds security headers to every answer.

Invariants:
    * A request whose ``Host`` is not one of the service's names is refused. A foreign name that resolves to loopback
      (DNS rebinding) can therefore not reach the API through a browser.
    * Every answer carries the id of its request, ``X-Request-Id``; the log and the records have it too.
    * What fails within is answered here, with problem details and the same headers, and logged once with its traceback.
    * No body is longer than its limit, whatever ``Content-Length`` says: bytes are counted as they arrive.

What this module does not do: authentication.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.api.problem import failure_response
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.problem import PROBLEM_JSON, problem
from wheeltapper_fleet.ground.request import begin_request

__all__ = ["Guard", "host_name"]

_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"media-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def host_name(header: str) -> str:
    """The host name in a ``Host`` header, in lower case and without the port. ``[::1]:80`` gives ``::1``."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


class Guard:
    """ASGI middleware in front of the admin API and the page.

    Args:
        app: the app that receives the requests that pass.
        hosts: the host names and addresses under which the service may be called.
        max_bytes: gives the longest request body for a path.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], max_bytes: Callable[[str], int]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = begin_request(_wanted_id(scope))
        started = False
        refused: list[FleetError] = []

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if refused and not started:
                return  # the app answers the refused body as a broken one; the guard's own answer follows
            if message["type"] == "http.response.start":
                started = True
                names = {name for name, _ in message.get("headers", ())}
                added = [header for header in _HEADERS if header[0] not in names]
                added.append((b"x-request-id", notes.id.encode()))
                if b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            limited_receive = self._check(scope, receive, refused)
            await self._app(scope, limited_receive, send_with_headers)
        except FleetError as error:
            if started:
                raise
            refused.append(error)
        except Exception as error:
            if started:
                raise
            if not refused:
                await failure_response(error)(scope, receive, send_with_headers)
        if refused and not started:
            refusal = refused[0]
            refused.clear()
            await _answer(send_with_headers, refusal)

    def _check(self, scope: Scope, receive: Receive, refused: list[FleetError]) -> Receive:
        """Check host and announced length; give a ``receive`` that counts the body's bytes.

        Raises:
            FleetError: ``api.host``, ``api.too_large``.
        """
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or host_name(hosts[0].decode("latin-1")) not in self._hosts:
            raise FleetError(
                "api.host", "this service is not reachable under that host name; add it to public_hosts", 421
            )
        limit = self._max_bytes(scope["path"])
        too_large = FleetError("api.too_large", f"the body is longer than {limit} bytes", 413)
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > limit):
                raise too_large
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                refused.append(too_large)
                raise too_large
            return message

        return receive_limited


def _wanted_id(scope: Scope) -> str | None:
    """The request id that the client chose, such as a proxy in front of the service; None if it did not."""
    found = [value for name, value in scope["headers"] if name == b"x-request-id"]
    return found[0].decode("latin-1") if len(found) == 1 else None


async def _answer(send: Send, error: FleetError) -> None:
    body = json.dumps(problem(error.code, error.message, error.status)).encode()
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
