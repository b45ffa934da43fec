"""Live changes of devices, campaigns and alerts, as server-sent events.

One loop reads the database once a second, compares with the last reading, and sends every listener what changed.

Invariants:
    * The database is read only while someone listens, once a period for all listeners together.
    * A listener first receives the whole present state, then changes.
    * A listener that reads slowly gets the newest state of what changed meanwhile, once: what waits for it is at most
      one text for each device, campaign and alert. However much changes in a period, nobody is cut off for it.
    * Nothing that a row holds ends the live events: a reading that fails is logged once and tried again.

What this module does not do: history. A listener that reconnects starts from the present state.

Source: server-sent events, HTML Living Standard section 9.2.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.devices.views import list_devices
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["EventHub"]

_LOG = logging.getLogger(__name__)
_MAX_LISTENERS: Final = 64
_ALERTS_SHOWN: Final = 100
_KEEP_ALIVE_SECONDS: Final = 15.0


@dataclass(eq=False)
class _Listener:
    """What waits for one listener: the newest text of each thing that changed, first changed first."""

    waiting: dict[tuple[str, str], str] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class EventHub:
    """Sends live changes to every listener.

    Args:
        engine: the fleet's database.
        period_seconds: time between two readings of the database.
    """

    def __init__(self, engine: Engine, period_seconds: float = 1.0) -> None:
        self._engine = engine
        self._period_seconds = period_seconds
        self._listeners: set[_Listener] = set()
        self._known: dict[tuple[str, str], str] = {}
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def listen(self) -> AsyncIterator[str]:
        """Events in the text format of server-sent events, until the hub closes."""
        if self._closed or len(self._listeners) >= _MAX_LISTENERS:
            return
        listener = _Listener()
        async with self._starting:
            if self._task is None or self._task.done():
                self._known = await asyncio.to_thread(self._snapshot)
                self._task = asyncio.create_task(self._watch())
            self._listeners.add(listener)  # at once with the next line, so that no change falls between the two
            first = dict(self._known)
        try:
            yield "retry: 2000\n\n" + _reset([key for key in first if key[0] == "device"])
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
                now = await asyncio.to_thread(self._snapshot)
            except Exception:  # noqa: BLE001  # whatever a row holds, the others stay live
                if not failing:
                    _LOG.exception("cannot read the database for live events; trying again every period")
                failing = True
                continue
            if failing:
                _LOG.info("live events go on")
            failing = False
            for key, text in now.items():
                if self._known.get(key) != text:
                    self._tell(key, text)
            self._known = now

    def _tell(self, key: tuple[str, str], text: str) -> None:
        for listener in self._listeners:
            listener.waiting[key] = text
            listener.wake.set()

    def _snapshot(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for device in list_devices(self._engine, limit=MAX_LIMIT).items:
            found[("device", device.id)] = device.model_dump_json()
        for campaign in reversed(list_campaigns(self._engine).items):
            found[("campaign", campaign.id)] = campaign.model_dump_json()
        for alert in reversed(list_alerts(self._engine, _ALERTS_SHOWN).items):
            found[("alert", str(alert.id))] = alert.model_dump_json()
        return found


def _event(kind: str, text: str) -> str:
    return f"event: {kind}\ndata: {text}\n\n"


def _reset(keys: list[tuple[str, str]]) -> str:
    return _event("reset", json.dumps({"devices": [name for _, name in keys]}))
