"""A device for tests: the agent's parts in this process, without a broker, against a real device API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tests.agent.bundles import SMALL, make_bundle
from tests.agent.servers import DeviceServer, until
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import Source
from wheeltapper_agent.source.simulator import SimulatorConfig, SimulatorSource
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effects import Effects
from wheeltapper_agent.update.floors import FLOORS_FILE, FloorStore
from wheeltapper_agent.update.journal import Journal
from wheeltapper_agent.update.slots import Slots
from wheeltapper_agent.update.tuf_client import TufClient
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.wire.messages import (
    AssignmentRefused,
    ExecutionReport,
    Report,
    ShadowReport,
    TelemetryRecord,
)


class DeviceApi(Protocol):
    """A device API, in this or another process."""

    @property
    def url(self) -> str: ...

    def identity(self, folder: Path) -> Identity: ...


class Device:
    """Pipelines with their spool and updater. Tests read reports from the spool, since there is no broker."""

    def __init__(
        self,
        folder: Path,
        server: DeviceApi,
        source: SimulatorConfig = SMALL,
        root: bytes = b"",
        clock: Clock | None = None,
        started: bool = True,
        http_timeout_seconds: float = 5.0,
        make_source: Callable[[SimulatorConfig, Path, Clock], Source] = SimulatorSource,
        more_pipelines: tuple[str, ...] = (),
        **update: Any,
    ) -> None:
        identity = server.identity(folder / "identity")
        context = tls_context(identity.ca, identity.certificate, identity.key)
        self.client = client = HttpsClient(server.url, context, http_timeout_seconds)
        clock = clock or SystemClock()
        self.spool = Spool(folder / "spool.db")
        self.pipeline = Pipeline("main", make_source(source, folder / "sim.json", clock), self.spool, clock)
        self.floors = FloorStore((folder / FLOORS_FILE, folder / "slots" / FLOORS_FILE))
        self.slots = Slots(folder / "slots")
        fields: dict[str, Any] = {"fetch_attempts": 2, "fetch_retry_seconds": 0.05, "probation_windows": 2}
        config = UpdateConfig(**(fields | {"condition_seconds": 0.05, "shadow_max_load": 1e6} | update))
        trusted = root or identity.root.read_bytes()
        self.metadata = metadata = TufClient(
            folder / "tuf", trusted, client, clock, self.floors, config.metadata_timeout_seconds
        )
        self.pipelines = {"main": self.pipeline}
        for name in more_pipelines:
            also = make_source(source, folder / f"sim-{name}.json", clock)
            self.pipelines[name] = Pipeline(name, also, self.spool, clock)
        blobs = BlobStore(
            folder / "blobs",
            client,
            self.slots.find,
            config.fetch_bytes_per_second,
            config.fetch_least_bytes_per_second,
        )
        effects = Effects(self.pipelines, self.slots, blobs, metadata, config, Profile(name="test"), clock, self.floors)
        journal = Journal(folder / "journal.json")
        self.updater = Updater(
            "device-1", journal, metadata, effects, self.floors, self.spool, clock, 0.2, lambda: None
        )
        self.effects = effects
        if started:
            self.start()

    def start(self) -> None:
        """Load the active release, start the pipeline and the updater."""
        for name, pipeline in self.pipelines.items():
            self.effects.running.load_active(name)
            pipeline.start()
        self.updater.start()

    def bodies(self) -> list[Any]:
        """The bodies of all reports in the spool, oldest first."""
        return [held.item.body for held in self.spool.peek(0, 10_000, ("report",)) if isinstance(held.item, Report)]

    def states(self, execution: str) -> list[str]:
        """The states that ``execution`` reported, oldest first."""
        found = [body for body in self.bodies() if isinstance(body, ExecutionReport) and body.execution == execution]
        return [body.state.value for body in found]

    def last(self) -> tuple[str, str]:
        """State (or ``refused``) and code of the newest report that is not of a shadow run."""
        body = [body for body in self.bodies() if not isinstance(body, ShadowReport)][-1]
        return ("refused" if isinstance(body, AssignmentRefused) else body.state.value), body.code

    def scores_with(self) -> int | None:
        """The release that scored the newest window."""
        held = self.spool.peek(0, 100_000, ("telemetry",))[-1].item
        assert isinstance(held, TelemetryRecord)
        return held.release if held.score is not None else None

    def close(self) -> None:
        """Stop everything."""
        self.updater.stop()
        for pipeline in self.pipelines.values():
            pipeline.stop()
        self.spool.close()


def device_with_release_1(folder: Path, server: DeviceServer) -> Device:
    """A device that has committed release 1."""
    made = Device(folder, server)
    made.updater.assign(server.repository.assign(server.repository.publish(1, make_bundle(1)), 1))
    until(lambda: "COMMITTED" in made.states("e1"), 10, "release 1")
    return made
