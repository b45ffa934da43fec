"""One simulated device: what it hears and how time passes come in, what it says and when it hangs up go out. Pure.

Invariants:
    * All that it decides follows from the seed, its name, its faults, and what it heard at which time.
    * Records leave through its spool, and are sent until they are acknowledged.
    * Every execution that it accepts ends once, unless a fault keeps it from that.

What this module does not do: connect (:mod:`simulator`), know TUF (:mod:`trust`).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from wheeltapper_fleet.sim import faults as f
from wheeltapper_fleet.sim.assignments import NotSignedError, RefusedError, judged
from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.draws import draw, hex_digits
from wheeltapper_fleet.sim.machine import Machine
from wheeltapper_fleet.sim.messages import MessageFaults, Say
from wheeltapper_fleet.sim.spool import Spool
from wheeltapper_fleet.sim.updates import Memory, Metadata, Updates
from wheeltapper_protocols.wire.codec import decode_down, encode
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
    AssignmentRefused,
    CaptureReport,
    ExecutionState,
    PipelineStatus,
    Report,
    ReportBody,
    Status,
)
from wheeltapper_protocols.wire.topics import Down, Up

__all__ = ["HangUp", "SimulatedDevice"]

_F = TypeVar("_F", bound=f.Fault)


@dataclass(frozen=True)
class HangUp:
    """The connection is to be cut without a word, and made again after ``seconds``; None: never."""

    seconds: float | None


@dataclass
class SimulatedDevice:
    """A device.

    Args:
        name: its id.
        behaviour: what all devices have in common.
        faults: its own.
        memory: from the run before.
        metadata: the verified TUF metadata.
        started: Unix time of the simulation's start.
    """

    name: str
    behaviour: Behaviour
    faults: Sequence[f.Fault]
    memory: Memory
    metadata: Metadata
    started: float
    connected: bool = False
    acked_after: list[float] = field(default_factory=list)
    """Seconds that each message waited for its ack; whoever reads them empties the list."""

    def __post_init__(self) -> None:
        seed = self.behaviour.seed
        self.memory.life += 1
        self._life = self.memory.life
        capacity = self._fault(f.DiskFull)
        self.spool = Spool(
            hex_digits(seed, self.name, self._life, "epoch"),
            capacity=capacity.records if capacity is not None else 10_000,
            resend_seconds=self.behaviour.resend_seconds * (0.9 + 0.2 * draw(seed, self.name, "resend")),
        )
        self._machine = Machine(self.name, self.behaviour.pipelines, seed, self.faults, self.started)
        self._messages = MessageFaults(self.name, seed, self.faults)
        self._starts = 0
        self._out: list[Say | HangUp] = []
        self.updates = Updates(self.name, self.behaviour, self.faults, self.memory, self.metadata, self)
        self._later: list[tuple[float, ReportBody]] = []
        self._answered: set[str] = set()
        self._refused = ""
        self._settings_version, self._settings = 0, Settings()
        self._dead_until = -math.inf
        self._status_at = self.started
        first = draw(seed, self.name, "first batch")
        self._batch_at = self.started + self.behaviour.batch_seconds * first
        flap = self._fault(f.Flap)
        self._flap_at = self.started + flap.every_seconds * (0.5 + first) if flap is not None else math.inf
        vanish = self._fault(f.Vanish)
        at = vanish.after_seconds if vanish is not None and vanish.after_seconds is not None else math.inf
        self._vanish_at = self.started + at

    # What happens to it

    @property
    def instance(self) -> str:
        """Of the process that runs now, or that will run next."""
        starts = self._starts + (self._dead_until > -math.inf)
        return hex_digits(self.behaviour.seed, self.name, self._life, starts, "instance")

    @property
    def will(self) -> bytes:
        """What the broker says of it when its connection is lost."""
        return encode(Status(online=False, instance=self.instance))

    def on_connected(self, now: float) -> list[Say | HangUp]:
        """The connection stands and is subscribed."""
        self.connected = True
        self.spool.rewind(now)
        self._status_at = now
        return self.turn(now)

    def on_disconnected(self) -> None:
        """The connection is lost."""
        self.connected = False

    def on_message(self, kind: Down, payload: bytes, now: float) -> list[Say | HangUp]:
        """A message came.

        Raises:
            NotSignedError: an assignment whose signature does not hold by the metadata; nothing changed.
            WireError: it cannot be read.
        """
        if kind is Down.ASSIGNMENT:
            self._on_assignment(payload, now)
        else:
            match decode_down(kind, payload):
                case Ack() as ack:
                    self.acked_after += self.spool.on_ack(ack, now)
                case Command() as command:
                    self._on_command(command, now)
        return self.turn(now)

    def turn(self, now: float) -> list[Say | HangUp]:
        """What it does at ``now``: to be called when :meth:`next_at` has come."""
        if self._dead_until > now:
            return self._taken()
        if self._dead_until > -math.inf:
            self._dead_until, self._starts = -math.inf, self._starts + 1
            self._machine.restart(self.behaviour, now)
            self._batch_at = now + self.behaviour.batch_seconds
            self.updates.resume(now)
        self._produce(now)
        self.updates.carry_out(now)
        self._say_later(now)
        if self.connected and now >= min(self._flap_at, self._vanish_at):
            self._lose_connection(now)
        if self.connected:
            if now >= self._status_at:
                self._status_at = now + (self._settings.status_seconds or self.behaviour.status_seconds)
                self._out += self._messages.passed(Say(Up.STATUS, encode(self._status(now)), retain=True), now)
            for kind, message in self.spool.due(now):
                self._out += self._messages.passed(Say(kind, encode(message)), now)
            self._out += self._messages.overdue(now)
        return self._taken()

    def next_at(self) -> float:
        """Unix time at which :meth:`turn` is to be called; sooner does no harm."""
        if self._dead_until > -math.inf:
            return self._dead_until
        times = [self._batch_at, self.updates.next_at(), *(at for at, _ in self._later)]
        if self.connected:
            times += [self._status_at, self._flap_at, self._vanish_at, self._messages.overdue_at]
            resend_at = self.spool.next_at()
            times += [resend_at] if resend_at is not None else []
        return min(times)

    def goodbye(self, now: float) -> Say:
        """What it says before it ends cleanly."""
        return Say(Up.STATUS, encode(self._status(now, online=False)), retain=True)

    def twin_status(self, now: float) -> Say:
        """What a second device with the same identity says when it connects."""
        other = hex_digits(self.behaviour.seed, self.name, "twin")
        return Say(Up.STATUS, encode(Status(online=True, at=self.clock(now), instance=other)), retain=True)

    def clock(self, now: float) -> float:
        """Unix time by the device's own clock."""
        jump = self._fault(f.ClockJump)
        wrong = jump is not None and now - self.started >= jump.after_seconds
        return max(0.0, now + jump.jump_seconds) if jump is not None and wrong else now

    # Assignments and commands

    def _on_assignment(self, raw: bytes, now: float) -> None:
        verify, memory = self.metadata.verify_director, self.memory
        try:
            found = judged(raw, self.name, memory.counter, memory.payload_sha256, verify, self.clock(now))
            if found is None:
                return
            self.updates.check_willing(found[0])
        except NotSignedError:
            raise
        except RefusedError as error:
            if self._refused != error.message:  # the fleet says it again, and knows the answer
                self._refused = error.message
                for execution in error.executions or (None,):
                    self.report(AssignmentRefused(code=error.code, detail=error.message, execution=execution), now)
                    if error.release:
                        self.updates.ends.append((error.release, ExecutionState.REJECTED.value))
            return
        assignment, memory.payload_sha256 = found
        memory.counter = assignment.counter
        self.updates.take_over(assignment, now)
        self._status_at = now

    def refuse_unsigned(self, error: NotSignedError, now: float) -> list[Say | HangUp]:
        """Say that an assignment was not signed, which newer metadata did not change."""
        if self._refused != error.message:
            self._refused = error.message
            self.report(AssignmentRefused(code=error.code, detail=error.message), now)
        return self.turn(now)

    def _on_command(self, command: Command, now: float) -> None:
        if command.id in self._answered or command.expires_at < self.clock(now):
            return
        self._answered.add(command.id)
        match command.body:
            case CancelCommand(execution=name):
                self.updates.cancel(name, now)
            case SettingsCommand(version=version, settings=settings):
                if version > self._settings_version:
                    self._settings_version, self._settings = version, settings
                self._status_at = now
            case DiagnosticsCommand():
                said = {"simulated": True, "faults": [f.kind_of(each) for each in self.faults]}
                self.report(CommandReport(command=command.id, bundle=zlib.compress(json.dumps(said).encode())), now)
            case RestartPipelineCommand(pipeline=pipeline) if pipeline in self.behaviour.pipelines:
                self._machine.restart(self.behaviour, now)
                self.report(CommandReport(command=command.id), now)
            case RestartPipelineCommand(pipeline=pipeline):
                detail = f"there is no pipeline {pipeline}"
                self.report(CommandReport(command=command.id, code="pipeline.unknown", detail=detail), now)
            case ResetBaselineCommand():
                detail = "a simulated device learns no baseline"
                self.report(CommandReport(command=command.id, code="baseline.none", detail=detail), now)
            case CaptureCommand(pipeline=pipeline):
                detail = "a simulated device has no samples to record"
                self.report(
                    CaptureReport(command=command.id, pipeline=pipeline, code="capture.failed", detail=detail), now
                )

    # Records

    def _produce(self, now: float) -> None:
        """Make the telemetry and the alerts that are due."""
        behaviour = self.behaviour
        while self._batch_at <= now:
            at, self._batch_at = self._batch_at, self._batch_at + behaviour.batch_seconds
            shift = self.clock(at) - at
            self._machine.produce(self.spool, behaviour, at, shift, self.memory.running, self._degrade())

    def _degrade(self) -> f.Degrade | None:
        """The fault ``degrade``, where a release that it concerns runs."""
        fault = self._fault(f.Degrade)
        if fault is None or not any(fault.concerns(release) for _, release in self.memory.running.values()):
            return None
        return fault

    # What its executions ask of it

    def report(self, body: ReportBody, now: float, later_seconds: float = 0.0) -> None:
        """Write a report into the spool, now or later."""
        if later_seconds:
            self._later.append((now + later_seconds, body))
            return
        at, twice = self.clock(now), self._fault(f.AnswerTwice) is not None
        for _ in range(1 + twice):
            self.spool.add(
                lambda epoch, seq, oldest, after: Report(
                    epoch=epoch, seq=seq, oldest=oldest, after=after, at=at, body=body
                ),
                now,
            )

    def _say_later(self, now: float) -> None:
        due = [body for at, body in self._later if at <= now]
        self._later = [(at, body) for at, body in self._later if at > now]
        for body in due:
            self.report(body, now)

    def _status(self, now: float, *, online: bool = True) -> Status:
        execution, state = self.updates.newest or (None, None)
        return Status(
            online=online,
            at=self.clock(now),
            epoch=self.spool.epoch,
            seq=self.spool.seq,
            acked=self.spool.acked,
            agent_version="simulated",
            profile="simulated",
            counter=self.memory.counter,
            execution=execution,
            execution_state=state,
            pipelines={name: self._pipeline(name) for name in self.behaviour.pipelines},
            instance=self.instance,
            attributes={"simulated": "yes"},
            settings_version=self._settings_version,
            settings=self._settings if self._settings_version else None,
        )

    def _pipeline(self, name: str) -> PipelineStatus:
        model, release = self.memory.running.get(name, (None, None))
        runtime = "simulated" if model is not None else ""
        return PipelineStatus(model=model, release=release, windows=self._machine.windows, runtime=runtime)

    def changed(self, now: float) -> None:
        """What a status shows is another now."""
        self._status_at = now

    def die(self, until: float) -> None:
        """Be without a process until then."""
        self._dead_until = until

    # The connection

    def _lose_connection(self, now: float) -> None:
        flap, vanish = self._fault(f.Flap), self._fault(f.Vanish)
        if now >= self._vanish_at and vanish is not None:
            self._vanish_at = math.inf
            self.hang_up(vanish.seconds)
        elif flap is not None:
            self._flap_at = now + flap.every_seconds
            self.hang_up(flap.seconds)

    def hang_up(self, seconds: float | None) -> None:
        """Cut the connection, for so long or for good."""
        self.connected = False
        self._out.append(HangUp(seconds))

    def _taken(self) -> list[Say | HangUp]:
        out, self._out = self._out, []
        return out

    def _fault(self, kind: type[_F]) -> _F | None:
        return next((each for each in self.faults if isinstance(each, kind)), None)
