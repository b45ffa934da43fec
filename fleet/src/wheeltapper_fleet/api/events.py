"""Live changes of what screens show, as server-sent events.

One loop reads once a period what the open screens show (:mod:`wheeltapper_fleet.api.screens`), compares with the last
reading, and sends every listener what changed on its own screen.

Invariants:
    * The database is read only while someone listens, once a period for all listeners together. What it costs follows
      from what the screens show and what changed there, not from the size of the fleet.
    * A listener first receives the whole present state of its screen, then changes.
    * A listener that reads slowly gets the newest state of what changed meanwhile, once: what waits for it is at most
      one text for each thing on its screen. However much changes in a period, nobody is cut off for it.
    * Nothing that a row holds ends the live events: a reading that fails is logged once and tried again.

What this module does not do: history. A listener that reconnects starts from the present state.

Source: server-sent events, HTML Living Standard section 9.2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.api.screens import Key, Screens
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.api.view import View
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["EventHub"]

_LOG = logging.getLogger(__name__)
_MAX_LISTENERS: Final = 64
_KEEP_ALIVE_SECONDS: Final = 15.0
RESET: Final = ("reset", "")
"""The key of what tells which devices are on a screen. It is sent first, and again when others are."""


@dataclass(eq=False)
class _Listener:
    """What waits for one listener: the newest text of each thing that changed, first changed first."""

    view: View
    waiting: dict[Key, str] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class EventHub:
    """Sends live changes to every listener.

    Args:
        engine: the fleet's database.
        numbers: of the same fleet.
        period_seconds: time between two readings of the database.
    """

    def __init__(self, engine: Engine, numbers: FleetNumbers, period_seconds: float = 1.0) -> None:
        self._screens = Screens(engine, numbers)
        self._period_seconds = period_seconds
        self._listeners: set[_Listener] = set()
        self._known: dict[View, dict[Key, str]] = {}
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether no more listeners are taken: a screen that asks now would hear nothing."""
        return self._closed or len(self._listeners) >= _MAX_LISTENERS

    @property
    def listening(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    async def check(self, view: View) -> None:
        """Read a view once.

        Raises:
            FleetError: ``query.invalid``, ``cursor.invalid``; ``api.busy``: too many listen already.
        """
        if self.full:
            raise FleetError("api.busy", f"{_MAX_LISTENERS} screens are open already; close one and try again", 503)
        async with self._starting:
            if view not in self._known:
                self._known[view] = (await asyncio.to_thread(self._screens.read, [view]))[view]

    async def listen(self, view: View | None = None) -> AsyncIterator[str]:
        """Events of a view in the text format of server-sent events, until the hub closes."""
        if self.full:
            return
        listener = _Listener(view or View())
        await self.check(listener.view)
        async with self._starting:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            self._listeners.add(listener)  # at once with the next lines, so that no change falls between the two
            first = dict(self._known.get(listener.view, {}))
        try:
            yield "retry: 2000\n\n"
            for (kind, _), text in first.items():
                yield _event(kind, text)
            while not listener.ended:
                try:
                    await asyncio.wait_for(listener.wake.wait(), _KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"
                while listener.waiting:
                    key = next(iter(listener.waiting))
                    yield _event(key[0], listener.waiting.pop(key))
                listener.wake.clear()
        finally:
            self._listeners.discard(listener)

    async def close(self) -> None:
        """Disconnect every listener and stop reading the database."""
        self._closed = True
        for listener in list(self._listeners):
            listener.ended = True
            listener.waiting.clear()
            listener.wake.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        failing = False
        while self._listeners:
            await asyncio.sleep(self._period_seconds)
            try:
                async with self._starting:
                    views = {listener.view for listener in self._listeners}
                    now = await asyncio.to_thread(self._screens.read, list(views))
            except Exception:  # noqa: BLE001  # whatever a row holds, the others stay live
                if not failing:
                    _LOG.exception("cannot read the database for live events; trying again every period")
                failing = True
                continue
            if failing:
                _LOG.info("live events go on")
            failing = False
            for listener in self._listeners:
                known, found = self._known.get(listener.view, {}), now.get(listener.view, {})
                for key, text in found.items():
                    if known.get(key) != text:
                        listener.waiting[key] = text
                if listener.waiting:
                    listener.wake.set()
            self._known = now
        self._known = {}


def _event(kind: str, text: str) -> str:
    return f"event: {kind}\ndata: {text}\n\n"
