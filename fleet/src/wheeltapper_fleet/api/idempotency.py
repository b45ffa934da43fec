"""Lets a client repeat a POST whose answer it did not get: with the same ``Idempotency-Key`` it is done once.

A request without the header passes untouched. What is kept, and for how long: :mod:`wheeltapper_fleet.access.repeats`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final

from sqlalchemy import Engine
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.access import repeats
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.api.problem import problem_response
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Idempotency"]

_KEY: Final = re.compile(r'"?[A-Za-z0-9._:-]{1,100}"?')
_SECRETS: Final = ("/tokens", "/api-tokens", "/device-tokens")
"""Paths that answer with a secret, which is shown once."""


class Idempotency:
    """ASGI middleware around the admin API, inside of its guard, which limits the body.

    Args:
        app: the app that answers.
        engine: the fleet's database.
        authenticator: says whose key it is.
        clock: Unix seconds.
    """

    def __init__(self, app: ASGIApp, engine: Engine, authenticator: Authenticator, clock: Callable[[], float]) -> None:
        self._app = app
        self._engine = engine
        self._authenticator = authenticator
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            if not _KEY.fullmatch(key):
                raise FleetError("api.idempotency", "an Idempotency-Key has 1 to 100 letters, digits and -._:", 422)
            who = await asyncio.to_thread(self._who, scope)
            body = await _whole(receive)
            digest = hashlib.sha256(f"{scope['path']}?{scope['query_string'].decode('latin-1')}\n".encode() + body)
            before = await asyncio.to_thread(repeats.begin, self._engine, who, key, digest.hexdigest(), self._clock())
        except FleetError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            await problem_response(error.code, error.message, error.status, headers)(scope, receive, send)
            return
        if before is None:
            await self._first(scope, body, send, who, key)
        elif before.body is None:
            message = "this was done already; its answer holds a secret, which is shown once: make a new one"
            await problem_response("api.already_done", message, 409)(scope, receive, send)
        else:
            headers = {"Idempotency-Replayed": "true"}
            answer = Response(before.body, before.status, headers, before.media_type or None)
            await answer(scope, receive, send)

    def _who(self, scope: Scope) -> str:
        """Whose key it is: by the token or login that the request shows.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        headers = Headers(scope=scope)
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            found = None
        cookie = None if found is None else found.value
        principal = self._authenticator.principal(
            "POST", headers.get("authorization"), cookie, headers.get("x-csrf-token")
        )
        return f"{principal.via} {principal.name}"[:200]

    async def _first(self, scope: Scope, body: bytes, send: Send, who: str, key: str) -> None:
        """Answer a new request, and keep the answer before it is sent."""
        started: list[Message] = []
        pieces: list[bytes] = []
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            elif message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))

        try:
            await self._app(scope, receive_again, collect)
        finally:
            if started and 200 <= started[0]["status"] < 300:
                kind = Headers(raw=started[0].get("headers", [])).get("content-type", "")
                content = None if scope["path"].endswith(_SECRETS) else b"".join(pieces)
                kept = repeats.Answer(started[0]["status"], kind, content)
                await asyncio.to_thread(repeats.keep, self._engine, who, key, kept)
            elif started and started[0]["status"] < 500:
                await asyncio.to_thread(repeats.drop, self._engine, who, key)
            # else nobody knows what was done: the key stays begun, and whoever repeats it is told to look
        for message in started:
            await send(message)
        await send({"type": "http.response.body", "body": b"".join(pieces)})


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
