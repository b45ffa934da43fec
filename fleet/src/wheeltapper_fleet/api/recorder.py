"""Records every request that changes something, before its answer is sent.

Invariants:
    * A change that was answered with success is in the table of changes, with its request id, which the answer carries.
    * So is a request that was forbidden, and one that failed within, which may have changed something. What was refused
      otherwise changed nothing.
    * Where the record cannot be written, the change is in the log instead, whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.access.permissions import ROUTES, SAID_AGAIN_AND_AGAIN
from wheeltapper_fleet.audit.store import Change, record_change
from wheeltapper_fleet.ground.request import current_request

__all__ = ["Recorder"]

_LOG: Final = logging.getLogger(__name__)
_READING: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
_FORBIDDEN: Final = 403


class Recorder:
    """ASGI middleware around the admin API.

    Args:
        app: the app that answers.
        engine: the fleet's database.
        clock: Unix seconds.
    """

    def __init__(self, app: ASGIApp, engine: Engine, clock: Callable[[], float]) -> None:
        self._app = app
        self._engine = engine
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                change = self._change(scope, int(message["status"]))
                if change is not None:
                    await asyncio.to_thread(self._record, change)
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            change = self._change(scope, 500)
            if change is not None:
                await asyncio.to_thread(self._record, change)
            raise

    def _change(self, scope: Scope, status: int) -> Change | None:
        principal = scope.get("state", {}).get("principal")
        if principal is None or (400 <= status < 500 and status != _FORBIDDEN):
            return None
        template = getattr(scope.get("route"), "path", scope["path"])
        if status != _FORBIDDEN and ROUTES.get(f"{scope['method']} {template}") == "read":
            return None  # it asks with a body, as the plan of a campaign does, and changes nothing
        if 200 <= status < 300 and f"{scope['method']} {template}" in SAID_AGAIN_AND_AGAIN:
            return None
        notes = current_request()
        subject: dict[str, Any] = {**scope.get("path_params", {}), **(notes.subject if notes else {})}
        return Change(
            at=self._clock(),
            who=principal.name,
            via=principal.via,
            route=f"{scope['method']} {template}",
            subject={name: str(value) for name, value in subject.items()},
            status=status,
            request=notes.id if notes else "",
            address=str((scope.get("client") or ("",))[0]),
        )

    def _record(self, change: Change) -> None:
        try:
            record_change(self._engine, change)
        except SQLAlchemyError as error:
            _LOG.error("a change could not be recorded (%s): %s", type(error).__name__, change)
