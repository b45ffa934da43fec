"""A simulated device without a network: its executions with and without faults, and that the seed decides all."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from typing import Any

import pytest

from wheeltapper_fleet.sim import faults as f
from wheeltapper_fleet.sim.assignments import NotSignedError
from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.device import HangUp, SimulatedDevice
from wheeltapper_fleet.sim.messages import Say
from wheeltapper_fleet.sim.updates import Memory
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.assignment import (
    PAYLOAD_TYPE,
    Assignment,
    ExecutionOrder,
    PipelineTarget,
    encode_assignment,
)
from wheeltapper_protocols.wire.codec import decode, encode
from wheeltapper_protocols.wire.commands import (
    CancelCommand,
    CaptureCommand,
    Command,
    CommandReport,
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
    Settings,
    SettingsCommand,
)
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    AssignmentRefused,
    CaptureReport,
    ExecutionReport,
    Report,
    Status,
    Telemetry,
)
from wheeltapper_protocols.wire.topics import Down

NAME, START = "sim-00001", 1_800_000_000.0
TARGET = PipelineTarget(model="pump", release=2, path="releases/pump/2/manifest.json", length=10, sha256="1" * 64)


class Metadata:
    """Believes signatures that say ``good``, and releases whose team agrees."""

    reason: str | None = ""

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None:
        if not any(each.signature == "ab" for each in signatures.values()):
            raise ValueError("another key")

    def disagreement(self, target: PipelineTarget) -> str | None:
        return self.reason


def envelope(counter: int, executions: list[str], *, signature: str = "ab", **changed: Any) -> bytes:
    orders = [
        ExecutionOrder(
            execution=name, campaign="c-1", pipelines=["main"], deadline=changed.pop("deadline", START + 900)
        )
        for name in executions
    ]
    values = {"device": NAME, "issued_at": START, "expires_at": START + 3600, **changed}
    assignment = Assignment(counter=counter, pipelines={"main": TARGET}, executions=orders, **values)
    payload = base64.b64encode(encode_assignment(assignment)).decode()
    signatures = [{"keyid": "k", "sig": base64.b64encode(bytes.fromhex(signature)).decode()}]
    return json.dumps({"payload": payload, "payloadType": PAYLOAD_TYPE, "signatures": signatures}).encode()


class Rig:
    """A device, the time, and a fleet that acknowledges what it can read."""

    def __init__(self, *faults: f.Fault, memory: Memory | None = None, seed: int = 1) -> None:
        self.now = START
        self.metadata = Metadata()
        behaviour = Behaviour(seed=seed, records_per_second=1.0, batch_seconds=5.0, update_seconds=10.0)
        self.device = SimulatedDevice(NAME, behaviour, faults, memory or Memory(), self.metadata, START)
        self.transcript: list[tuple[float, object]] = []
        self.heard: dict[int, object] = {}
        self.statuses: list[Status] = []
        self.reconnect_at = math.inf
        self.damaged = 0
        self.take(self.device.on_connected(self.now))

    def take(self, out: list[Say | HangUp]) -> None:
        for action in out:
            self.transcript.append((self.now, action))
            if isinstance(action, HangUp):
                self.reconnect_at = math.inf if action.seconds is None else self.now + action.seconds
                continue
            try:
                message = decode(action.kind, action.payload)
            except WireError:
                self.damaged += 1
                continue
            if isinstance(message, Status):
                self.statuses.append(message)
            elif isinstance(message, Telemetry):
                self.heard.update({record.seq: record for record in message.records})
            elif isinstance(message, Alert | Report):
                self.heard[message.seq] = message if isinstance(message, Alert) else message.body

    def tell(self, kind: Down, payload: bytes) -> None:
        self.take(self.device.on_message(kind, payload, self.now))

    def live(self, seconds: float) -> None:
        """Let time pass in steps; everything that came without a gap is acknowledged."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(max(self.device.next_at(), self.now + 0.05), self.reconnect_at, end)
            if self.now >= self.reconnect_at:
                self.reconnect_at = math.inf
                self.take(self.device.on_connected(self.now))
            self.take(self.device.turn(self.now))
            if self.device.connected:
                seq = next(seq for seq in range(1, 10**6) if seq not in self.heard) - 1
                self.tell(Down.ACK, encode(Ack(epoch=self.device.spool.epoch, seq=seq)))

    @property
    def states(self) -> list[str]:
        """What was reported of executions, in order."""
        found = (body for _, body in sorted(self.heard.items()))
        return [body.state.value for body in found if isinstance(body, ExecutionReport)]


WALK = ["ASSIGNED", "FETCHING", "VERIFYING", "STAGED", "SELF_TEST", "ACTIVATING", "PROBATION"]


def test_an_update_walks_through_its_states_and_the_device_runs_the_release() -> None:
    rig = Rig()
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(30.0)
    assert rig.states == [*WALK, "COMMITTED"]
    status = rig.statuses[-1]
    assert (status.counter, status.execution, status.execution_state) == (1, "e-1", "COMMITTED")
    assert (status.pipelines["main"].model, status.pipelines["main"].release) == ("pump", 2)
    assert rig.device.spool.held <= 5
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(30.0)
    assert rig.states == [*WALK, "COMMITTED"], "the same assignment again changes nothing"


@pytest.mark.parametrize(
    ("fault", "states"),
    [
        (f.FailSelfTest(share=1.0), [*WALK[:5], "REJECTED"]),
        (f.DiskFull(share=1.0), [*WALK[:2], "FAILED"]),
        (f.RollBack(share=1.0), [*WALK, "ROLLING_BACK", "ROLLED_BACK"]),
        (f.Lie(share=1.0), [*WALK, "COMMITTED"]),
        (f.Degrade(share=1.0, score_shift=0.5), [*WALK, "COMMITTED"]),
        (f.Vanish(share=1.0, state="STAGED", seconds=7.0), [*WALK, "COMMITTED"]),
        (f.Vanish(share=1.0, state="STAGED"), WALK[:3]),
        (f.Hang(share=1.0, state="STAGED"), WALK[:4]),
        (f.Hang(share=1.0, state="STAGED", seconds=20.0), [*WALK, "COMMITTED"]),
        (f.Kill(share=1.0, state="STAGED"), [*WALK[:4], "STAGED", *WALK[4:], "COMMITTED"]),
        (f.Kill(share=1.0, state="STAGED", side="after"), [*WALK[:4], "STAGED", *WALK[4:], "COMMITTED"]),
        (f.AnswerTwice(share=1.0), [state for state in (*WALK, "COMMITTED") for _ in range(2)]),
        (f.AnswerLate(share=1.0, seconds=30.0), [*WALK, "COMMITTED"]),
        (f.FailSelfTest(share=1.0, releases=(3,)), [*WALK, "COMMITTED"]),
    ],
    ids=lambda value: f.kind_of(value) if isinstance(value, f.Fault) else "",
)
def test_a_fault_of_the_update_has_its_end(fault: f.Fault, states: list[str]) -> None:
    rig = Rig(fault)
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(100.0)
    assert rig.states == states
    runs = rig.device.memory.running.get("main")
    gone = isinstance(fault, f.Lie) or "COMMITTED" not in states
    assert runs == (None if gone else ("pump", 2))
    expected = f.expected_ends({NAME: (fault,)}, 2)
    if rig.device.updates.ends:
        assert Counter(state for _, state in rig.device.updates.ends) == expected


def test_a_liar_goes_on_with_what_it_had() -> None:
    rig = Rig(f.Lie(share=1.0), memory=Memory(running={"main": ("pump", 1)}))
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(60.0)
    assert rig.states[-1] == "COMMITTED"
    assert rig.statuses[-1].pipelines["main"].release == 1


def test_a_refusal_is_said_once_for_each_execution() -> None:
    rig = Rig(f.Refuse(share=1.0, code="assignment.expired"))
    for _ in range(3):
        rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
        rig.live(5.0)
    refused = [body for body in rig.heard.values() if isinstance(body, AssignmentRefused)]
    assert [(each.code, each.execution) for each in refused] == [("assignment.expired", "e-1")]
    assert rig.statuses[-1].counter == 0


@pytest.mark.parametrize(
    ("raw", "code", "names"),
    [
        (b"{", "assignment.malformed", False),
        (envelope(1, ["e-1"], device="sim-00002"), "assignment.device", False),
        (envelope(4, ["e-1"]), "assignment.counter", True),
        (envelope(6, ["e-1"], expires_at=START - 1), "assignment.expired", True),
    ],
)
def test_what_an_agent_refuses_is_refused(raw: bytes, code: str, names: bool) -> None:
    rig = Rig(memory=Memory(counter=5))
    rig.tell(Down.ASSIGNMENT, raw)
    rig.live(5.0)
    refused = [body for body in rig.heard.values() if isinstance(body, AssignmentRefused)]
    assert [(each.code, each.execution) for each in refused] == [(code, "e-1" if names else None)]
    assert rig.states == []


def test_an_unsigned_assignment_changes_nothing_until_newer_metadata_are_asked() -> None:
    rig = Rig()
    raw = envelope(1, ["e-1"], signature="cd")
    with pytest.raises(NotSignedError) as error:
        rig.tell(Down.ASSIGNMENT, raw)
    assert rig.device.memory.counter == 0
    rig.take(rig.device.refuse_unsigned(error.value, rig.now))
    refused = [body for body in rig.heard.values() if isinstance(body, AssignmentRefused)]
    assert [(each.code, each.execution) for each in refused] == [("assignment.signature", None)]


def test_a_release_that_its_team_did_not_sign_is_rejected_and_an_unknown_one_waits() -> None:
    rig = Rig()
    rig.metadata.reason = None
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(60.0)
    assert rig.states == WALK[:3]
    rig.metadata.reason = "update.disagree"
    rig.live(5.0)
    assert rig.states == [*WALK[:3], "REJECTED"]


def test_what_an_assignment_leaves_out_or_a_command_cancels_is_given_up() -> None:
    for withdraw in (
        (Down.ASSIGNMENT, envelope(2, [])),
        (Down.COMMAND, encode(Command(id="m-1", expires_at=START + 99, body=CancelCommand(execution="e-1")))),
    ):
        rig = Rig()
        rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
        rig.tell(*withdraw)
        rig.live(5.0)
        assert rig.states == ["ASSIGNED", "CANCELLED"]
    rig = Rig(f.Hang(share=1.0, state="PROBATION"), memory=Memory(running={"main": ("pump", 1)}))
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(60.0)
    assert rig.states[-1] == "PROBATION"
    rig.tell(Down.ASSIGNMENT, envelope(2, []))
    rig.live(5.0)
    assert rig.states[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    assert rig.device.memory.running == {"main": ("pump", 1)}


def test_commands_are_answered_once_and_settings_are_taken_over() -> None:
    rig = Rig()

    def order(name: str, body: Any) -> None:
        for _ in range(2):
            rig.tell(Down.COMMAND, encode(Command(id=name, expires_at=START + 99, body=body)))

    order("m-1", DiagnosticsCommand())
    order("m-2", RestartPipelineCommand(pipeline="main"))
    order("m-3", RestartPipelineCommand(pipeline="other"))
    order("m-4", CaptureCommand(pipeline="main", snapshots=3))
    order("m-5", SettingsCommand(version=3, settings=Settings(status_seconds=5.0)))
    order("m-7", ResetBaselineCommand(pipeline="main"))
    order("m-6", SettingsCommand(version=2, settings=Settings(status_seconds=600.0)))
    rig.live(21.0)
    answers = [body for _, body in sorted(rig.heard.items()) if isinstance(body, CommandReport | CaptureReport)]
    assert [(each.command, each.code) for each in answers] == [
        ("m-1", ""),
        ("m-2", ""),
        ("m-3", "pipeline.unknown"),
        ("m-4", "capture.failed"),
        ("m-7", "baseline.none"),
    ]
    assert isinstance(answers[0], CommandReport)
    assert json.loads(zlib.decompress(answers[0].bundle)) == {"simulated": True, "faults": []}
    assert rig.statuses[-1].settings_version == 3
    assert rig.statuses[-1].settings == Settings(status_seconds=5.0)
    assert len([status for status in rig.statuses if status.at > START + 1]) == 4, "every five seconds now"


def test_an_execution_that_is_too_late_fails_by_its_deadline() -> None:
    rig = Rig(f.Hang(share=1.0, state="STAGED", seconds=500.0))
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"], deadline=START + 20))
    rig.live(30.0)
    assert rig.states == [*WALK[:4], "FAILED"]


def test_every_record_arrives_through_duplicates_losses_damage_and_disorder() -> None:
    rig = Rig(
        f.Duplicate(share=1.0, chance=0.3),
        f.Reorder(share=1.0, chance=0.3),
        f.Corrupt(share=1.0, chance=0.3),
        f.Lose(share=1.0, chance=0.3),
        f.Flap(share=1.0, every_seconds=40.0, seconds=3.0),
    )
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(600.0)
    assert rig.damaged > 0
    assert rig.device.spool.resent > 0
    rig.device.faults = ()
    assert sorted(rig.heard)[:500] == list(range(1, 501))
    assert rig.states == [*WALK, "COMMITTED"]


def test_a_kill_begins_another_instance_and_counts_windows_anew() -> None:
    rig = Rig(f.Kill(share=1.0, state="SELF_TEST", seconds=4.0))
    rig.live(20.0)
    rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
    rig.live(60.0)
    instances = list(dict.fromkeys(status.instance for status in rig.statuses))
    assert len(instances) == 2
    assert rig.device.instance == instances[1]
    windows = [status.pipelines["main"].windows for status in rig.statuses if status.instance == instances[1]]
    assert windows[0] == 0
    assert len({status.epoch for status in rig.statuses}) == 1, "the spool outlives the process"


def test_an_alarm_is_raised_and_cleared_and_a_clock_is_wrong_when_they_say() -> None:
    rig = Rig(
        f.Alarm(share=1.0, after_seconds=10.0, seconds=20.0),
        f.ClockJump(share=1.0, after_seconds=50.0, jump_seconds=-3600.0),
        memory=Memory(running={"main": ("pump", 1)}),
    )
    rig.live(80.0)
    alerts = [body for body in rig.heard.values() if isinstance(body, Alert)]
    assert [each.raised for each in alerts] == [True, False]
    assert 10.0 <= alerts[0].at - START <= 16.0
    early = [status.at for status in rig.statuses if status.at < START]
    assert early
    assert all(START - 3600 + 50 <= at <= START - 3600 + 80 for at in early)


def test_the_seed_decides_everything() -> None:
    faults: tuple[f.Fault, ...] = (
        f.Kill(share=1.0),
        f.Reorder(share=1.0, chance=0.5),
        f.Corrupt(share=1.0, chance=0.2),
        f.Flap(share=1.0),
    )

    def transcript(seed: int) -> list[tuple[float, object]]:
        rig = Rig(*faults, seed=seed, memory=Memory(running={"main": ("pump", 1)}))
        rig.tell(Down.ASSIGNMENT, envelope(1, ["e-1"]))
        rig.live(120.0)
        return rig.transcript

    assert transcript(3) == transcript(3)
    assert transcript(3) != transcript(4)


def test_each_run_has_an_epoch_and_an_instance_of_its_own() -> None:
    memory = Memory()
    first, second = Rig(memory=memory).device, Rig(memory=memory).device
    assert first.spool.epoch != second.spool.epoch
    assert first.instance != second.instance
