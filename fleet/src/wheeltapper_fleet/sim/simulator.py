"""Runs many simulated devices in one process: their connections, their timers, and what they have come to.

Invariants:
    * A device decides by itself (:mod:`device`); here its words are sent and its connection is made and cut.
    * A connection that is lost unasked is made again after a pause that doubles up to 30 s, never all at one time.
    * At its end every device says goodbye, and what it must remember is kept.

Cost: a device takes about 60 KB, a message about 50 µs of CPU here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.sim.assignments import NotSignedError
from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.device import HangUp, SimulatedDevice
from wheeltapper_fleet.sim.draws import draw
from wheeltapper_fleet.sim.faults import Fault, Twin
from wheeltapper_fleet.sim.identities import Endpoints
from wheeltapper_fleet.sim.messages import Say
from wheeltapper_fleet.sim.result import Figures
from wheeltapper_fleet.sim.tls_link import KEEPALIVE_SECONDS, TlsLink
from wheeltapper_fleet.sim.trust import SharedMetadata
from wheeltapper_fleet.sim.updates import Memory
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.topics import Down

__all__ = ["Simulation"]

_LOG: Final = logging.getLogger(__name__)
_HANDSHAKES: Final = 100
"""Connections that are being made at a time."""
_HANDSHAKE_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_LAST_PAUSE_SECONDS: Final = 30.0
_REFRESH_SECONDS: Final = 5.0
_TWIN_SECONDS: Final = 3.0
_LEAVE_SECONDS: Final = 2.0
_OTHER_FILES: Final = 500
"""Open files beside one connection for each device: those of handshakes under way, of twins, of Python."""

MakeTls = Callable[[str], Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]]


@dataclass(eq=False)
class _Connected:
    """A device with its connection and its timer."""

    device: SimulatedDevice
    link: TlsLink | None = None
    timer: asyncio.TimerHandle | None = None
    connecting: bool = False
    failures: int = 0
    pause: float | None = 0.0
    """Seconds until it connects again after it hung up; None: never."""
    hung_up: bool = False
    said_at: float = 0.0


@dataclass
class Simulation:
    """Simulated devices of one fleet.

    Args:
        plans: the devices' names and faults.
        behaviour: what they have in common.
        memories: what they remember; filled for those that are new.
        endpoints: where the broker is.
        make_tls: makes the TLS connection of a device.
        metadata: the verified TUF metadata.
    """

    plans: Mapping[str, Sequence[Fault]]
    behaviour: Behaviour
    memories: dict[str, Memory]
    endpoints: Endpoints
    make_tls: MakeTls
    metadata: SharedMetadata
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(_HANDSHAKES)
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshed_at = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self._devices: dict[str, _Connected] = {}
        self.connected_at_end = 0

    @property
    def connected(self) -> int:
        """Devices whose connection stands."""
        return sum(each.device.connected for each in self._devices.values())

    def device(self, name: str) -> SimulatedDevice:
        """The device called ``name``, once the simulation runs."""
        return self._devices[name].device

    async def run(self, seconds: float, stop: asyncio.Event) -> None:
        """Let the devices live for ``seconds``, or until ``stop`` is set.

        Raises:
            FleetError: ``sim.metadata``, ``sim.files``: the process may not open so many connections.
        """
        _allow_files(len(self.plans) + _OTHER_FILES)
        await asyncio.to_thread(self.metadata.refresh)
        started = time.time()
        for name, faults in self.plans.items():
            memory = self.memories.setdefault(name, Memory())
            device = SimulatedDevice(name, self.behaviour, faults, memory, self.metadata, started)
            each = self._devices[name] = _Connected(device)
            self._connect_soon(each, 0.0)
            self._schedule(each)
            twin = next((fault for fault in faults if isinstance(fault, Twin)), None)
            if twin is not None:
                self._spawn(self._twins(each, twin.every_seconds))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
        await self._leave()

    def count(self) -> Figures:
        """The figures up to now."""
        found = self.figures
        spools = [each.device.spool for each in self._devices.values()]
        found.records = sum(spool.seq for spool in spools)
        found.unacknowledged = sum(spool.held for spool in spools)
        found.dropped = sum(spool.dropped for spool in spools)
        found.acked = found.records - found.unacknowledged - found.dropped
        found.resent = sum(spool.resent for spool in spools)
        found.verified = self.metadata.verified
        found.ends = {}
        for each in self._devices.values():
            for release, state in each.device.updates.ends:
                found.ends.setdefault(release, Counter())[state] += 1
        return found

    # Connections

    def _connect_soon(self, each: _Connected, seconds: float) -> None:
        if not (self._stopping or each.connecting):
            each.connecting = True
            self._spawn(self._connect(each, seconds))

    async def _connect(self, each: _Connected, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ready = asyncio.Event()
        async with self._slots:
            each.connecting = False
            if self._stopping:
                return
            each.link = link = self._link(each, ready)
            try:
                await self._open(link)
            except OSError as error:
                self._on_lost(each, link, f"unreachable: {type(error).__name__}")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), _HANDSHAKE_SECONDS)
            if not ready.is_set():
                link.cut()

    def _link(self, each: _Connected, ready: asyncio.Event) -> TlsLink:
        name = each.device.name

        def on_ready() -> None:
            ready.set()
            each.failures, each.said_at = 0, time.monotonic()
            self.figures.connections += 1
            self._act(each, each.device.on_connected(time.time()))

        def on_lost(reason: str) -> None:
            ready.set()
            self._on_lost(each, link, reason)

        link = TlsLink(
            name, each.device.will, self.make_tls(name), on_ready, lambda *heard: self._hear(each, *heard), on_lost
        )
        return link

    async def _open(self, link: TlsLink) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: link, self.endpoints.mqtt_host, self.endpoints.mqtt_port)

    def _on_lost(self, each: _Connected, link: TlsLink, reason: str) -> None:
        self.figures.lost[reason] += 1
        if each.link is not link:
            return
        each.link = None
        each.device.on_disconnected()
        if each.hung_up:
            each.hung_up = False
            if each.pause is not None:
                self._connect_soon(each, each.pause)
            return
        each.failures += 1
        longest = min(_FIRST_PAUSE_SECONDS * 2 ** min(each.failures - 1, 10), _LAST_PAUSE_SECONDS)
        jitter = draw(self.behaviour.seed, each.device.name, "pause", each.failures, self.figures.connections)
        self._connect_soon(each, longest * (0.5 + jitter))

    async def _twins(self, each: _Connected, every_seconds: float) -> None:
        """Let a second device with the same identity connect again and again."""
        name = each.device.name
        while not self._stopping:
            await asyncio.sleep(every_seconds)
            twin: TlsLink

            def greet() -> None:
                twin.publish(each.device.twin_status(time.time()))  # noqa: B023  # called before the next round

            twin = TlsLink(name, each.device.will, self.make_tls(name), greet, lambda *_: None, lambda reason: None)
            with contextlib.suppress(OSError):
                await self._open(twin)
                await asyncio.sleep(_TWIN_SECONDS)
            twin.cut()

    # Words

    def _hear(self, each: _Connected, topic: str, payload: bytes) -> None:
        self.figures.heard += 1
        try:
            kind = Down(topic.rpartition("/")[2])
            out = each.device.on_message(kind, payload, time.time())
        except NotSignedError as error:
            self._spawn(self._with_newer_metadata(each, payload, error))
            return
        except (WireError, ValueError):
            self.figures.unreadable += 1
            return
        self._act(each, out)

    async def _with_newer_metadata(self, each: _Connected, payload: bytes, error: NotSignedError) -> None:
        """Judge an assignment again by newer metadata; they may know another key of the director."""
        if self._refreshing is None or (
            self._refreshing.done() and time.monotonic() - self._refreshed_at > _REFRESH_SECONDS
        ):
            self._refreshed_at = time.monotonic()
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.wait([self._refreshing])
        try:
            out = each.device.on_message(Down.ASSIGNMENT, payload, time.time())
        except NotSignedError:
            out = each.device.refuse_unsigned(error, time.time())
        self._act(each, out)

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self.metadata.refresh)
        except FleetError as error:
            _LOG.warning("%s", error)

    def _act(self, each: _Connected, out: Sequence[Say | HangUp]) -> None:
        """Send what a device says, hang up if it does, and wake it when it is next due."""
        for action in out:
            if isinstance(action, Say):
                if each.link is not None:
                    each.link.publish(action)
                    self.figures.messages += 1
                    each.said_at = time.monotonic()
            else:
                each.pause, each.hung_up = action.seconds, True
                if each.link is not None:
                    each.link.cut()
                else:
                    each.hung_up = False
        if each.device.acked_after:
            self.figures.ack_seconds.extend(each.device.acked_after)
            each.device.acked_after.clear()
        self._schedule(each)

    def _schedule(self, each: _Connected) -> None:
        if each.timer is not None:
            each.timer.cancel()
        if not self._stopping:
            wait = min(max(each.device.next_at() - time.time(), 0.01), KEEPALIVE_SECONDS / 2)
            each.timer = asyncio.get_running_loop().call_later(wait, self._turn, each)

    def _turn(self, each: _Connected) -> None:
        link = each.link
        if link is not None and each.device.connected and time.monotonic() - each.said_at > KEEPALIVE_SECONDS / 2:
            link.ping()
            each.said_at = time.monotonic()
        self._act(each, each.device.turn(time.time()))

    # The end

    async def _leave(self) -> None:
        self._stopping, self.connected_at_end = True, self.connected
        for task in list(self._tasks):
            task.cancel()
        for each in self._devices.values():
            if each.timer is not None:
                each.timer.cancel()
            if each.link is not None and each.device.connected:
                each.link.publish(each.device.goodbye(time.time()))
                each.link.leave()
        until = time.monotonic() + _LEAVE_SECONDS
        while any(each.link is not None for each in self._devices.values()) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for each in self._devices.values():
            if each.link is not None:
                each.link.cut()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("simulator: a task failed", exc_info=task.exception())


def _allow_files(count: int) -> None:
    """Let this process have ``count`` files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise FleetError(
            "sim.files",
            f"so many devices need {count} open files, and this process may have {hard}: raise `ulimit -Hn`",
            500,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
