"""An assignment is the whole desired state: executions are withdrawn, go on, and come one after the other."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.agent.bundles import make_bundle
from tests.agent.device import Device, device_with_release_1
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, until
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.journal import Execution, Journal
from wheeltapper_protocols.wire.assignment import ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport

TIMESTAMP = "/v1/tuf/timestamp.json"
DOWN = (503, b"{}")
LONG: dict[str, Any] = {"shadow_windows": 10**6, "shadow_timeout_seconds": 3600.0}
"""The shadow run does not end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServer]:
    made = DeviceServer(Authority(tmp_path_factory.mktemp("ca")), Repository())
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, server: DeviceServer) -> Path:
    """The state of a device that runs release 1 and was ended cleanly."""
    folder = tmp_path_factory.mktemp("template") / "device"
    device_with_release_1(folder, server).close()
    return folder


@pytest.fixture(scope="module")
def targets(server: DeviceServer) -> dict[int, PipelineTarget]:
    """By number: releases that are all good; 1 is the one that the device runs."""
    made = {
        number: server.repository.publish(number, make_bundle(number, gain=0.5 + number / 100)) for number in (2, 3)
    }
    return made | {1: server.repository.publish(1, make_bundle(1))}


class Rig:
    """A device that runs release 1, started with other settings as often as a test wants."""

    def __init__(self, folder: Path, server: DeviceServer, targets: dict[int, PipelineTarget]) -> None:
        self.folder, self.server, self.targets = folder, server, targets
        self._devices: list[Device] = []

    def start(self, **settings: Any) -> Device:
        self._devices.append(Device(self.folder, self.server, **settings))
        return self._devices[-1]

    def close(self) -> None:
        while self._devices:
            self._devices.pop().close()

    def assignment(self, counter: int, *orders: tuple[str, str, int], **more: int) -> bytes:
        """An assignment with executions of one pipeline each: id, pipeline, release; ``more``: pipelines without."""
        pipelines = {name: self.targets[release] for _, name, release in orders}
        pipelines |= {name: self.targets[release] for name, release in more.items()}
        executions = [ExecutionOrder(execution=one, campaign="c1", pipelines=[name]) for one, name, _ in orders]
        return self.server.repository.assign(self.targets[1], counter, pipelines=pipelines, executions=executions)


@pytest.fixture
def rig(tmp_path: Path, template: Path, server: DeviceServer, targets: dict[int, PipelineTarget]) -> Iterator[Rig]:
    shutil.copytree(template, tmp_path / "device", symlinks=True)
    made = Rig(tmp_path / "device", server, targets)
    yield made
    server.planted.clear()
    made.close()


def ended(device: Device, execution: str) -> tuple[str, str]:
    """State and code that ``execution`` reported last."""
    found = [body for body in device.bodies() if isinstance(body, ExecutionReport) and body.execution == execution]
    return (found[-1].state.value, found[-1].code) if found else ("", "")


def runs(device: Device, release: int, pipeline: str = "main") -> bool:
    return str(device.slots.active(pipeline)).startswith(f"bearing-{release}-")


def refusals(device: Device) -> list[AssignmentRefused]:
    return [body for body in device.bodies() if isinstance(body, AssignmentRefused)]


def asked(server: DeviceServer) -> int:
    return server.requests.count(TIMESTAMP)


# --- an assignment that cannot be judged now has a next time ----------------------------------------------------------


def test_a_superseding_assignment_that_met_one_503_is_tried_again(rig: Rig) -> None:
    device = rig.start(**LONG)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    before = asked(rig.server)
    rig.server.planted[TIMESTAMP] = DOWN
    device.updater.assign(rig.assignment(3, ("e3", "main", 3)))
    until(lambda: asked(rig.server) > before, 10, "an attempt")
    assert device.states("e2")[-1] == "SHADOW"
    rig.server.planted.clear()
    until(lambda: ended(device, "e2") == ("SUPERSEDED", "update.superseded"), 15, "the next attempt")
    until(lambda: device.states("e3")[-1:] == ["SHADOW"], 15, "the execution that came")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_what_turns_out_to_be_nothing_replaces_no_assignment_that_waits(rig: Rig, busy: bool) -> None:
    device = rig.start(**(LONG if busy else {}))
    if busy:
        device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
        until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    before = asked(rig.server)
    rig.server.planted[TIMESTAMP] = DOWN
    device.updater.assign(rig.assignment(3, ("e3", "main", 3)))
    until(lambda: asked(rig.server) > before, 10, "an attempt")
    device.updater.assign(b"{}")
    forged = rig.server.repository.assign(rig.targets[3], 4, key=Repository().signers["director"])
    device.updater.assign(forged)
    until(lambda: "assignment.malformed" in [each.code for each in refusals(device)], 10, "a refusal without metadata")
    rig.server.planted.clear()
    until(lambda: "assignment.signature" in [each.code for each in refusals(device)], 15, "the other refusal")
    until(lambda: bool(device.states("e3")), 15, "the assignment that waited")


def test_a_fault_in_judging_is_no_end_of_what_is_under_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    device = rig.start(**LONG)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    faults = 0

    def faulty(*_args: Any) -> Any:
        nonlocal faults
        faults += 1
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(device.metadata, "refresh", faulty)
        device.updater.assign(rig.assignment(3, ("e3", "main", 3)))
        until(lambda: faults > 1, 15, "the faults")
        assert device.states("e2")[-1] == "SHADOW"
    until(lambda: ended(device, "e2") == ("SUPERSEDED", "update.superseded"), 15, "the next attempt")


def test_an_execution_that_a_fault_interrupted_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    device = rig.start()
    progress = device.updater._progress
    real, faults = progress.enter, 0

    def faulty(state: Any, result: Any) -> None:
        nonlocal faults
        if state == "FETCHING" and faults < 2:
            faults += 1
            raise RuntimeError("planted")
        real(state, result)

    monkeypatch.setattr(progress, "enter", faulty)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: ended(device, "e2")[0] == "COMMITTED", 20, "the end, without a restart")
    assert faults == 2


# --- withdrawn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["WAITING", "FETCHING", "SHADOW"])
@pytest.mark.parametrize("by", ["withdrawn", "superseded"])
def test_what_is_called_off_before_activation_touches_nothing(rig: Rig, state: str, by: str) -> None:
    now = (time.gmtime().tm_hour + 3) % 24
    settings: dict[str, dict[str, Any]] = {
        "WAITING": {"maintenance_windows": (f"{now:02d}:00-{now:02d}:30",)},
        "FETCHING": {"fetch_attempts": 1000},
        "SHADOW": LONG,
    }
    if state == "FETCHING":
        rig.server.planted[f"/v1/blobs/{rig.targets[2].sha256}"] = DOWN
    device = rig.start(**settings[state])
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == [state], 15, state)
    device.updater.assign(rig.assignment(3, ("e3", "main", 1)) if by == "superseded" else rig.assignment(3, main=2))
    end = ("SUPERSEDED", "update.superseded") if by == "superseded" else ("CANCELLED", "update.withdrawn")
    until(lambda: ended(device, "e2") == end, 15, "the end")
    if by == "superseded":
        until(lambda: ended(device, "e3") == ("COMMITTED", ""), 15, "what runs already")
    until(lambda: device.updater.entry.counter == 3, 5, "the counter")
    assert runs(device, 1)


def test_what_is_called_off_in_probation_goes_back_and_stays_there(rig: Rig) -> None:
    device = rig.start(probation_windows=10**6)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["PROBATION"] and device.scores_with() == 2, 15, "probation")
    device.updater.assign(rig.assignment(3, main=2))
    until(lambda: ended(device, "e2") == ("ROLLED_BACK", "update.withdrawn"), 15, "the way back")
    until(lambda: device.scores_with() == 1, 10, "release 1")
    rig.close()
    device = rig.start()
    device.updater.assign(rig.assignment(3, main=2))
    time.sleep(0.5)
    assert runs(device, 1)
    assert device.states("e2")[-1] == "ROLLED_BACK"


@pytest.mark.parametrize("state", ["ACTIVATING", "PROBATION"])
def test_what_was_called_off_before_a_kill_is_not_loaded_again(
    rig: Rig, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The withdrawal is in the journal, and the power went before it was obeyed."""
    device = rig.start(probation_windows=10**6)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["PROBATION"], 15, "probation")
    rig.close()
    journal = Journal(rig.folder / "journal.json")
    entry = journal.read()
    assert entry.execution is not None
    execution = msgspec.structs.replace(entry.execution, state=state, withdrawn=True)
    journal.write(msgspec.structs.replace(entry, counter=3, execution=execution))
    loaded: list[int | None] = []
    real = Pipeline.swap

    def swap(self: Pipeline, bundle: Any, *rest: Any) -> None:
        loaded.append(bundle.manifest.release if bundle else None)
        real(self, bundle, *rest)

    monkeypatch.setattr(Pipeline, "swap", swap)
    device = rig.start()
    until(lambda: ended(device, "e2") == ("ROLLED_BACK", "update.withdrawn"), 15, "the way back")
    assert 2 not in loaded
    assert runs(device, 1)


def test_what_is_named_again_goes_on_undisturbed(rig: Rig) -> None:
    device = rig.start(shadow_windows=60, shadow_timeout_seconds=60.0)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    for counter in (3, 4):
        device.updater.assign(rig.assignment(counter, ("e2", "main", 2), elsewhere=3))
        until(lambda counter=counter: device.updater.entry.counter == counter, 10, "the newer one")
    until(lambda: ended(device, "e2") == ("COMMITTED", ""), 20, "the end")
    assert device.states("e2").count("SHADOW") == 1


def test_an_execution_whose_targets_changed_is_refused(rig: Rig) -> None:
    device = rig.start(**LONG)
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    device.updater.assign(rig.assignment(3, ("e2", "main", 3)))
    until(lambda: [each.code for each in refusals(device)] == ["assignment.malformed"], 10, "the refusal")
    assert refusals(device)[0].execution is None  # it goes on, so it is not refused
    assert (device.states("e2")[-1], device.updater.entry.counter) == ("SHADOW", 2)


def test_what_ended_is_not_run_again_and_its_end_is_told_again(rig: Rig) -> None:
    device = rig.start()
    device.updater.assign(rig.assignment(2, ("e2", "main", 2)))
    until(lambda: ended(device, "e2")[0] == "COMMITTED", 15, "release 2")
    device.updater.assign(rig.assignment(3, ("e3", "main", 3)))
    until(lambda: ended(device, "e3")[0] == "COMMITTED", 15, "release 3")
    rig.close()
    device = rig.start()
    device.updater.assign(rig.assignment(4, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-2:] == ["COMMITTED", "COMMITTED"], 10, "the end, once more")
    time.sleep(0.3)
    assert runs(device, 3)
    assert device.states("e2").count("ASSIGNED") == 1


def test_a_refusal_names_no_execution_that_is_under_way(rig: Rig) -> None:
    """An older assignment comes late; the execution that it names is that of the newer one."""
    device = rig.start(**LONG)
    device.updater.assign(rig.assignment(3, ("e2", "main", 2)))
    until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
    device.updater.assign(rig.assignment(2, ("e2", "main", 2), ("gone", "spare", 2)))
    until(lambda: bool(refusals(device)), 10, "the refusal")
    assert [(each.code, each.execution) for each in refusals(device)] == [("assignment.counter", "gone")]


# --- several executions -----------------------------------------------------------------------------------------------


def test_executions_of_two_pipelines_come_one_after_the_other(rig: Rig) -> None:
    device = rig.start(more_pipelines=("spare",))
    device.updater.assign(rig.assignment(2, ("spare-2", "spare", 2), ("main-3", "main", 3)))
    until(lambda: ended(device, "main-3")[0] == "COMMITTED", 20, "the second")
    assert (runs(device, 2, "spare"), runs(device, 3)) == (True, True)
    found = [body.execution for body in device.bodies() if isinstance(body, ExecutionReport)]
    assert device.states("spare-2")[-1] == "COMMITTED"
    last_of_first = max(place for place, one in enumerate(found) if one == "spare-2")
    assert last_of_first < found.index("main-3")


def test_an_execution_that_fails_does_not_stop_the_next(rig: Rig) -> None:
    device = rig.start(more_pipelines=("spare",))
    device.updater.assign(rig.assignment(2, ("nowhere", "unknown", 2), ("spare-2", "spare", 2)))
    until(lambda: ended(device, "spare-2")[0] == "COMMITTED", 20, "the second")
    assert ended(device, "nowhere") == ("REJECTED", "update.unknown_pipeline")


def test_another_pipelines_campaign_supersedes_nothing(rig: Rig) -> None:
    device = rig.start(more_pipelines=("spare",), shadow_windows=40, shadow_timeout_seconds=60.0)
    device.updater.assign(rig.assignment(2, ("main-2", "main", 2)))
    until(lambda: device.states("main-2")[-1:] == ["SHADOW"], 15, "the shadow")
    device.updater.assign(rig.assignment(3, ("spare-3", "spare", 3), ("main-2", "main", 2)))
    until(lambda: ended(device, "spare-3")[0] == "COMMITTED", 30, "the second")
    assert ended(device, "main-2") == ("COMMITTED", "")


def test_what_had_not_begun_is_called_off_too(rig: Rig) -> None:
    device = rig.start(more_pipelines=("spare",), **LONG)
    device.updater.assign(rig.assignment(2, ("main-2", "main", 2), ("spare-2", "spare", 2)))
    until(lambda: device.states("main-2")[-1:] == ["SHADOW"], 15, "the shadow")
    device.updater.assign(rig.assignment(3, ("main-2", "main", 2)))
    until(lambda: ended(device, "spare-2") == ("CANCELLED", "update.withdrawn"), 10, "the second")
    assert device.states("spare-2") == ["CANCELLED"]
    assert device.states("main-2")[-1] == "SHADOW"


def test_what_had_not_begun_goes_on_after_a_restart(rig: Rig) -> None:
    device = rig.start(more_pipelines=("spare",), **LONG)
    device.updater.assign(rig.assignment(2, ("main-2", "main", 2), ("spare-3", "spare", 3)))
    until(lambda: device.states("main-2")[-1:] == ["SHADOW"], 15, "the shadow")
    rig.close()
    device = rig.start(more_pipelines=("spare",))
    until(lambda: ended(device, "spare-3")[0] == "COMMITTED", 20, "the second")
    assert (runs(device, 2), runs(device, 3, "spare")) == (True, True)


def test_a_journal_of_before_is_read(rig: Rig) -> None:
    """Its execution goes on, and an end that it remembers is told once more."""
    journal = Journal(rig.folder / "journal.json")
    entry = journal.read()
    execution = Execution(id="e9", state="FETCHING", targets={"main": rig.targets[2]})
    journal.write(msgspec.structs.replace(entry, execution=execution, ended=[], planned=[]))
    device = rig.start()
    until(lambda: ended(device, "e9")[0] == "COMMITTED", 15, "the end")
    rig.close()
    journal.write(msgspec.structs.replace(journal.read(), ended=[]))
    device = rig.start()
    until(lambda: device.states("e9")[-2:] == ["COMMITTED", "COMMITTED"], 10, "the end, once more")
