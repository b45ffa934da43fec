"""Limits how fast one requester may ask, and how often one address may fail to say who it is.

Invariants:
    * Each token and each session has a bucket of its own: a program that runs wild slows nobody else down.
    * An address that failed too often is refused with 429, except for tokens and cookies that were right just before:
      whoever shares the address of one that guesses, behind a proxy, goes on.
    * ``Retry-After`` says when to ask again. What is remembered is bounded (:mod:`wheeltapper_fleet.ground.buckets`).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.api.problem import problem_response
from wheeltapper_fleet.ground.buckets import MAX_KEYS, Buckets

__all__ = ["Limits", "RateLimits"]

_UNAUTHORIZED: Final = 401


@dataclass(frozen=True)
class RateLimits:
    """How much one requester may ask on average and at once, and how often an address may fail likewise."""

    per_second: float = 300.0
    burst: float = 3000.0
    failures_per_second: float = 0.5
    failures_burst: float = 30.0


class Limits:
    """ASGI middleware in front of the admin API and the page.

    Args:
        app: the app that receives the requests that pass.
        limits: how much is allowed.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, app: ASGIApp, limits: RateLimits, monotonic: Callable[[], float]) -> None:
        self._app = app
        self._monotonic = monotonic
        self._requests = Buckets(limits.per_second, limits.burst)
        self._failures = Buckets(limits.failures_per_second, limits.failures_burst)
        self._right: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = str((scope.get("client") or ("",))[0])
        shown = _credentials(scope)
        now = self._monotonic()
        wait = self._requests.take(shown or f"address {address}", now)
        if wait == 0.0 and shown is not None and shown not in self._right:
            wait = self._failures.wait(address, now)
        if wait > 0.0:
            seconds = math.ceil(wait)
            message = f"too many requests, or too many with a wrong token; ask again in {seconds} s"
            headers = {"Retry-After": str(seconds)}
            await problem_response("api.rate_limited", message, 429, headers)(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and shown is not None:
                self._learn(address, shown, int(message["status"]))
            await send(message)

        await self._app(scope, receive, send_counted)

    def _learn(self, address: str, shown: str, status: int) -> None:
        """Remember that what was shown is right, or count a failure of the address."""
        if status == _UNAUTHORIZED:
            self._right.pop(shown, None)
            self._failures.take(address, self._monotonic())
            return
        self._right[shown] = None
        self._right.move_to_end(shown)
        if len(self._right) > MAX_KEYS:
            self._right.popitem(last=False)


def _credentials(scope: Scope) -> str | None:
    """A digest of the token or cookie that a request shows; None if it shows neither."""
    headers = dict(scope["headers"])
    shown = headers.get(b"authorization") or headers.get(b"cookie")
    return None if shown is None else hashlib.sha256(shown).hexdigest()
