"""What many devices say at once is applied at once, with the result of one message after the other."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select

from tests.fleet.campaigns.world import EPOCH, World, create
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.tables import assignments_due, device_connections, devices, executions
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    AssignmentRefused,
    ExecutionReport,
    ExecutionState,
    PipelineStatus,
    Report,
    Status,
)
from wheeltapper_protocols.wire.topics import Up, up_topic

Messages = list[tuple[str, bytes]]


def world_of(database: Engine, count: int) -> World:
    """So many devices that are online and were sent their assignment."""
    world = World(database)
    world.populate(count)
    world.connect_all()
    create(world, waves=[{}])
    while world.tick(0.1):
        pass
    return world


def said(device: str, seq: int, body: ExecutionReport | AssignmentRefused) -> tuple[str, bytes]:
    return up_topic(device, Up.REPORT), encode(Report(epoch=EPOCH, oldest=1, seq=seq, at=1.0, body=body))


def status(device: str, *, online: bool = True, counter: int = 1, release: int | None = None) -> tuple[str, bytes]:
    pipelines = {} if release is None else {"main": PipelineStatus(model="bearing", release=release)}
    return up_topic(device, Up.STATUS), encode(Status(online=online, counter=counter, epoch=EPOCH, pipelines=pipelines))


def test_a_batch_costs_as_many_statements_for_many_devices_as_for_few(tmp_path: Path) -> None:
    counts = []
    for count in (5, 50):
        world = world_of(open_database(f"sqlite:///{tmp_path}/{count}.db"), count)
        names = [f"dev-{number}" for number in range(count)]
        batch: Messages = [each for name in names for each in (status(name, online=False), status(name, release=1))]
        for name in names:
            execution = world.assigned[name].executions[0].execution
            batch.append(said(name, 1, ExecutionReport(execution=execution, state=ExecutionState.FETCHING)))
        seen: list[str] = []
        event.listen(world.database, "before_cursor_execute", lambda *args, seen=seen: seen.append(args[2]))
        world.ingest.process(batch)
        counts.append(len(seen))
        assert set(world.states(world.campaign_ids()[0]).values()) == {"FETCHING"}
        world.database.dispose()
    assert counts[0] == counts[1]
    assert counts[0] < 40


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_has_the_result_of_one_message_after_the_other(engine: Engine, tmp_path: Path, seed: int) -> None:
    """Devices report twice, out of turn, about executions of others, come, go and come again."""
    found = []
    for database, at_once in ((engine, True), (open_database(f"sqlite:///{tmp_path}/single.db"), False)):
        world = world_of(database, 6)
        dice = random.Random(seed)
        batch: Messages = []
        seqs = dict.fromkeys(world.assigned, 0)
        for _ in range(60):
            name = dice.choice(sorted(world.assigned))
            about = name if dice.random() < 0.9 else "dev-0"
            execution = world.assigned[about].executions[0].execution
            seqs[name] += 1
            batch.append(
                dice.choice(
                    [
                        said(name, seqs[name], ExecutionReport(execution=execution, state=dice.choice(_STATES))),
                        said(name, seqs[name], AssignmentRefused(execution=execution, code="assignment.expired")),
                        status(
                            name, online=dice.random() < 0.7, counter=dice.randrange(3), release=dice.choice((1, 2))
                        ),
                    ]
                )
            )
        reports = [each for each in batch if each[0].endswith("/report")]
        statuses = [each for each in batch if not each[0].endswith("/report")]
        for messages in [batch] if at_once else [[each] for each in (*reports, *statuses)]:
            world.ingest.process(messages)
        with reading(database) as connection:
            moved = connection.execute(select(executions.c.device, executions.c.state).order_by("device")).all()
            known = connection.execute(select(devices.c.id, devices.c.online, devices.c.counter).order_by("id")).all()
            came = connection.execute(select(device_connections.c.device, device_connections.c.online)).all()
            due = connection.execute(select(assignments_due.c.device).order_by("device")).scalars().all()
        found.append((moved, known, sorted(map(tuple, came)), due))
    assert found[0] == found[1]


_STATES = [ExecutionState.FETCHING, ExecutionState.PROBATION, ExecutionState.COMMITTED, ExecutionState.ROLLED_BACK]
