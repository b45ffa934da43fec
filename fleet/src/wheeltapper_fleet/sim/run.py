"""One simulation from its beginning to its end: fault table, enrolment, devices, figures."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from msgspec.structs import replace

from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.fault_table import read_faults
from wheeltapper_fleet.sim.faults import Fault, faults_of
from wheeltapper_fleet.sim.identities import Identities, enrol
from wheeltapper_fleet.sim.result import summary
from wheeltapper_fleet.sim.simulator import Simulation
from wheeltapper_fleet.sim.trust import SharedMetadata

__all__ = ["MAX_DEVICES", "Order", "load_faults", "simulate"]

MAX_DEVICES: Final = 100_000
_PROGRESS_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 30.0
_LIMITED_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to simulate.

    Args:
        devices: how many, ``PREFIX-00001`` and on.
        seconds: for how long.
        behaviour: of all devices.
        faults: the fault table.
        state_dir: where identities are kept.
        server: the devices' API, ``https://host:port``.
        mqtt_port: of the broker; 0: the one that the devices were told at their enrolment.
        prefix: what the devices' names begin with.
        tags: what new devices are tagged with; every device besides with ``simulated=yes``.
    """

    devices: int
    seconds: float
    behaviour: Behaviour
    faults: tuple[Fault, ...] = ()
    state_dir: Path
    server: str
    mqtt_port: int = 0
    prefix: str = "sim"
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The devices' ids."""
        return [f"{self.prefix}-{number:05d}" for number in range(1, self.devices + 1)]


def load_faults(file: Path | None) -> tuple[Fault, ...]:
    """The fault table in ``file``: TOML, or JSON where its name ends so.

    Raises:
        FleetError: ``sim.faults``.
    """
    if file is None:
        return ()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("sim.faults", f"the fault table {file} cannot be read: {error}", 422) from error
    return read_faults(text, as_json=file.suffix.lower() == ".json")


def simulate(order: Order, client: FleetClient, say: Callable[[str], None]) -> dict[str, Any]:
    """Enrol the devices that are new, run all, and return what it has come to (:func:`.result.summary`).

    SIGINT and SIGTERM end it early and in order.

    Args:
        order: what to simulate.
        client: of the admin API, which makes the enrolment tokens.
        say: told how it goes, in sentences.

    Raises:
        FleetError: ``sim.*``, ``client.*``.
    """
    return asyncio.run(_simulate(order, client, say))


async def _simulate(order: Order, client: FleetClient, say: Callable[[str], None]) -> dict[str, Any]:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    names, identities = order.names, Identities(order.state_dir)
    missing = sum(name not in identities.certificates for name in names)
    if missing:
        say(f"enrolling {missing} devices")
        await _enrol(order, identities, client, stop, say)
    told, started = identities.endpoints, time.monotonic()
    endpoints = replace(told, https_url=order.server, mqtt_port=order.mqtt_port or told.mqtt_port)
    context = identities.https_context(names[0])
    with httpx.Client(base_url=endpoints.https_url, verify=context, trust_env=False, timeout=_TIMEOUT_SECONDS) as https:
        memories = identities.memories()
        simulation = Simulation(
            faults_of(names, order.faults, order.behaviour.seed),
            order.behaviour,
            {name: memories[name] for name in names if name in memories},
            endpoints,
            identities.tls_maker(endpoints.mqtt_host),
            SharedMetadata(order.state_dir / "tuf", identities.root, https),
        )
        watch = asyncio.create_task(_watch(simulation, say))
        try:
            await simulation.run(0.0 if stop.is_set() else order.seconds, stop)
        finally:
            watch.cancel()
        connected = simulation.connected_at_end
        identities.remember(simulation.memories)
    return summary(simulation.count(), simulation.plans, connected, time.monotonic() - started)


async def _enrol(
    order: Order, identities: Identities, client: FleetClient, stop: asyncio.Event, say: Callable[[str], None]
) -> None:
    told = time.monotonic()

    def progress(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            say(f"enrolled {done}")

    def token_of(device: str) -> str:
        while True:
            try:
                return str(client.create_token(device, tags={"simulated": "yes", **order.tags})["token"])
            except FleetError as error:
                if error.code != "api.rate_limited" or stop.is_set():
                    raise
                time.sleep(_LIMITED_SECONDS)

    work = asyncio.create_task(enrol(identities, order.names, order.server, token_of, progress))
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not work.done():
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        raise FleetError("sim.stopped", "stopped while devices were enrolled; the next run goes on from here", 500)
    try:
        work.result()
    except* FleetError as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _watch(simulation: Simulation, say: Callable[[str], None]) -> None:
    """Say every few seconds how it goes."""
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        figures = simulation.count()
        ends = sum(sum(found.values()) for found in figures.ends.values())
        say(
            f"connected {simulation.connected}/{len(simulation.plans)}, records {figures.records},"
            f" acknowledged {figures.acked}, executions ended {ends}"
        )
