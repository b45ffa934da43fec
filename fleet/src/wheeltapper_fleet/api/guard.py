"""What every HTTP request must pass before a route sees it: host check, size caps; and the headers of every answer.

Invariants:
    * A request whose ``Host`` is not one of ours is refused: a foreign name that resolves to loopback (DNS rebinding)
      cannot reach the API through a browser.
    * No body is longer than its cap, whatever ``Content-Length`` says: the bytes are counted as they come.

What this module does not do: authentication.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Guard", "host_name"]

_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def host_name(header: str) -> str:
    """The host in a ``Host`` header, without the port and in lower case; ``[::1]:80`` gives ``::1``."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


class Guard:
    """ASGI middleware.

    Args:
        app: what comes behind.
        hosts: the names by which this server may be called.
        cap_bytes: the longest body for a path.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], cap_bytes: Callable[[str], int]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._cap_bytes = cap_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        refused: list[FleetError] = []

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if refused and not started:
                return  # the app took our refusal for a broken body; the answer is ours
            if message["type"] == "http.response.start":
                started = True
                names = {name for name, _ in message.get("headers", ())}
                added = [header for header in _HEADERS if header[0] not in names]
                if b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            capped = self._check(scope, receive, refused)
            await self._app(scope, capped, send_with_headers)
        except FleetError as error:
            if started:
                raise
            refused.append(error)
        if refused and not started:
            refusal = refused[0]
            refused.clear()
            await _answer(send_with_headers, refusal)

    def _check(self, scope: Scope, receive: Receive, refused: list[FleetError]) -> Receive:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or host_name(hosts[0].decode("latin-1")) not in self._hosts:
            raise FleetError("api.host", "this service does not answer to that host name; see public_hosts", 421)
        cap = self._cap_bytes(scope["path"])
        too_large = FleetError("api.too_large", f"the body is longer than {cap} bytes", 413)
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > cap):
                raise too_large
        received = 0

        async def capped() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > cap:
                refused.append(too_large)
                raise too_large
            return message

        return capped


async def _answer(send: Send, error: FleetError) -> None:
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
