"""The fleet without a broker, for tests of campaigns: a real database, simulated devices, collected publications."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, select

from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.schemas import CampaignDetail
from wheeltapper_fleet.campaigns.views import get_campaign
from wheeltapper_fleet.db.engine import reading
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
    Report,
)
from wheeltapper_protocols.wire.topics import Up, up_topic

EPOCH = "00000000000000aa"
SPEC: dict[str, Any] = {
    "model": "bearing",
    "release": 1,
    "waves": [{"count": 2}, {}],
    "execution_deadline_seconds": 60.0,
}


class World:
    """The fleet without a broker: what is published is collected."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.now = 1000.0
        self.published: list[tuple[str, bytes, bool]] = []
        self.engine = CampaignEngine(database, lambda assignment: encode_assignment(assignment).decode())
        self.ingest = Ingest(database, lambda *message: self.published.append(message), clock=lambda: self.now)
        self.seq: dict[str, int] = {}
        self.assigned: dict[str, Assignment] = {}

    def populate(self, count: int) -> None:
        with self.database.begin() as connection:
            for index in range(count):
                row = {"id": f"dev-{index}", "tags": {"site": "a" if index < 2 else "b"}, "enrolled_at": 0.0}
                connection.execute(
                    devices.insert().values(certificate_sha256="0" * 64, certificate_expires_at=1e10, **row)
                )
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

    def tick(self) -> list[str]:
        self.now += 1.0
        devices_assigned = []
        for each in self.engine.tick(self.now):
            if each.topic.endswith("/assignment"):
                assignment = decode_assignment(each.payload)
                self.assigned[assignment.device] = assignment
                devices_assigned.append(assignment.device)
                assert each.retain
        return devices_assigned

    def send(self, device: str, kind: Up, payload: bytes) -> None:
        self.ingest.process([(up_topic(device, kind), payload)])

    def report(self, device: str, body: ExecutionReport | AssignmentRefused | CaptureReport) -> None:
        self.seq[device] = seq = self.seq.get(device, 0) + 1
        self.send(device, Up.REPORT, encode(Report(epoch=EPOCH, oldest=1, seq=seq, at=self.now, body=body)))

    def end(self, device: str, state: ExecutionState, code: str = "") -> None:
        execution = self.assigned[device].executions[0].execution
        self.report(device, ExecutionReport(execution=execution, state=state, code=code))

    def states(self, campaign: str) -> dict[str, str]:
        return {each.device: each.state for each in self.campaign(campaign).execution_list}

    def campaign(self, campaign: str) -> CampaignDetail:
        return get_campaign(self.database, campaign)

    def commands(self) -> list[Any]:
        with reading(self.database) as connection:
            return list(connection.execute(select(command_table)))


def create(world: World, **fields: Any) -> str:
    campaign = campaigns.create_campaign(world.database, {**SPEC, **fields}, who="ann", now=world.now)
    campaigns.start_campaign(world.database, campaign, version=1, who="ann", now=world.now)
    return campaign
