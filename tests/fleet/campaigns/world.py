"""The fleet without a broker, for tests of campaigns: a real database, simulated devices, collected publications."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import Engine, select

from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.schemas import CampaignDetail, ExecutionView, LogEntry
from wheeltapper_fleet.campaigns.views import get_campaign, list_campaigns, list_executions, list_log
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.tags import write_tags
from wheeltapper_fleet.ground.paging import MAX_LIMIT
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.tables import commands as command_table
from wheeltapper_fleet.tables import devices, releases
from wheeltapper_protocols.wire.assignment import Assignment, decode_assignment, encode_assignment
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    AssignmentRefused,
    CaptureReport,
    ExecutionReport,
    ExecutionState,
    PipelineStatus,
    Report,
    Status,
)
from wheeltapper_protocols.wire.topics import Down, Up, down_topic, up_topic

EPOCH = "00000000000000aa"
SPEC: dict[str, Any] = {
    "model": "bearing",
    "release": 1,
    "waves": [{"count": 2}, {}],
    "execution_deadline_seconds": 60.0,
}


class Action(Protocol):
    """One of the actions of ``campaigns/service.py``."""

    def __call__(self, engine: Engine, campaign: str, *, version: int, who: str, now: float) -> None: ...


class Shown(CampaignDetail):
    """A campaign as it is shown, with its first executions and log lines."""

    execution_list: list[ExecutionView]
    log: list[LogEntry]


class World:
    """The fleet without a broker: what is published is collected."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.now = 1000.0
        self.published: list[tuple[str, bytes, bool]] = []
        self.engine = CampaignEngine(database, lambda assignment: encode_assignment(assignment).decode())
        self.ingest = Ingest(database, lambda *message: self.published.append(message), clock=lambda: self.now)
        self.seq: dict[str, int] = {}
        self.retained: dict[str, Assignment] = {}
        """By device: what the broker retains."""
        self.assigned: dict[str, Assignment] = {}
        """By device: the newest assignment with something to do."""

    def populate(self, count: int) -> None:
        with self.database.begin() as connection:
            for index in range(count):
                row: dict[str, Any] = {"id": f"dev-{index}", "tags": {}, "enrolled_at": 0.0}
                connection.execute(
                    devices.insert().values(certificate_sha256="0" * 64, certificate_expires_at=1e10, **row)
                )
            write_tags(connection, {f"dev-{index}": {"site": "a" if index < 2 else "b"} for index in range(count)})
            for release in (1, 2):
                path = f"releases/bearing/{release}/manifest.json"
                connection.execute(
                    releases.insert().values(
                        model="bearing",
                        release=release,
                        path=path,
                        sha256="1" * 64,
                        length=10,
                        manifest={},
                        published_at=0.0,
                        published_by="t",
                    )
                )

    def tick(self, seconds: float = 1.0) -> list[str]:
        """Let time pass and the engine tick; gives the devices that were sent an execution which they had not yet."""
        self.now += seconds
        given = []
        for each in self.engine.tick(self.now):
            if not each.topic.endswith("/assignment"):
                continue
            assert each.retain
            assignment = decode_assignment(each.payload)
            before = self.retained.get(assignment.device)
            assert before is None or assignment == before or assignment.counter > before.counter
            self.retained[assignment.device] = assignment
            if assignment.executions:
                known = self.assigned.get(assignment.device)
                self.assigned[assignment.device] = assignment
                if known is None or not self.orders(assignment) <= self.orders(known):
                    given.append(assignment.device)
        return given

    @staticmethod
    def orders(assignment: Assignment) -> set[str]:
        """Ids of the executions of an assignment."""
        return {order.execution for order in assignment.executions}

    def wanted(self, device: str) -> dict[str, int]:
        """By pipeline: the release that the retained assignment orders."""
        assignment = self.retained.get(device)
        if assignment is None:
            return {}
        targets = [assignment.targets(order) for order in assignment.executions]
        return {name: target.release for found in targets for name, target in found.items()}

    def send(self, device: str, kind: Up, payload: bytes) -> None:
        self.ingest.process([(up_topic(device, kind), payload)])

    def online(self, device: str, counter: int = 0, **pipelines: tuple[str, int] | None) -> None:
        """A status message: the counter of the assignment that the device has, and what its pipelines run."""
        shown = {
            name: PipelineStatus() if found is None else PipelineStatus(model=found[0], release=found[1])
            for name, found in pipelines.items()
        }
        self.send(device, Up.STATUS, encode(Status(online=True, counter=counter, pipelines=shown)))

    def offline(self, device: str) -> None:
        """The will of a device that is gone."""
        self.send(device, Up.STATUS, encode(Status(online=False)))

    def sent(self, device: str) -> Assignment | None:
        """The assignment that the device was sent since this was asked last; None if there was none."""
        topic = down_topic(device, Down.ASSIGNMENT)
        found = [decode_assignment(payload) for each, payload, _ in self.published if each == topic]
        self.published = [each for each in self.published if each[0] != topic]
        return found[-1] if found else None

    def connect_all(self) -> None:
        """Every device is online, without a word."""
        with self.database.begin() as connection:
            connection.execute(devices.update().values(online=True))

    def act(self, campaign: str, action: Action) -> None:
        """A person acts on a campaign at its present version."""
        version = self.campaign(campaign).version
        action(self.database, campaign, version=version, who="ann", now=self.now)

    def report(self, device: str, body: ExecutionReport | AssignmentRefused | CaptureReport) -> None:
        self.seq[device] = seq = self.seq.get(device, 0) + 1
        self.send(device, Up.REPORT, encode(Report(epoch=EPOCH, oldest=1, seq=seq, at=self.now, body=body)))

    def end(self, device: str, state: ExecutionState, code: str = "") -> None:
        execution = self.assigned[device].executions[0].execution
        self.report(device, ExecutionReport(execution=execution, state=state, code=code))

    def states(self, campaign: str) -> dict[str, str]:
        return {each.device: each.state for each in self.campaign(campaign).execution_list}

    def campaign_ids(self) -> list[str]:
        """All campaigns, newest first."""
        return [each.id for each in list_campaigns(self.database).items]

    def campaign(self, campaign: str) -> Shown:
        """The campaign with its executions and its log, the first thousand of each."""
        found = get_campaign(self.database, campaign)
        return Shown(
            **found.model_dump(),
            execution_list=list_executions(self.database, campaign, MAX_LIMIT).items,
            log=list_log(self.database, campaign, MAX_LIMIT).items,
        )

    def commands(self) -> list[Any]:
        with reading(self.database) as connection:
            return list(connection.execute(select(command_table)))


def create(world: World, *, start: bool = True, **fields: Any) -> str:
    """A new campaign, by default started."""
    campaign = create_campaign(world.database, {**SPEC, **fields}, who="ann", now=world.now)
    if start:
        campaigns.start_campaign(world.database, campaign, version=1, who="ann", now=world.now)
    return campaign


def moves_to(world: World, device: str, site: str) -> None:
    with world.database.begin() as connection:
        write_tags(connection, {device: {"site": site}})
        write_log(connection, [Entry(device, "tags", "active")], "ann", world.now)


def enrols(world: World, device: str, site: str) -> None:
    row = {"id": device, "tags": {}, "enrolled_at": world.now, "certificate_sha256": "0" * 64}
    with world.database.begin() as connection:
        connection.execute(devices.insert().values(certificate_expires_at=1e10, **row))
    moves_to(world, device, site)
