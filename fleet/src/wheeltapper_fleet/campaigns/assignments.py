"""The assignment of a device is composed, signed and stored.

Reading, deciding and signing (:meth:`Composer.compose`) need no write lock; :meth:`Composed.store` then writes all of a
slice in one short transaction, but for devices to which something has happened since.

An assignment is the device's whole desired state (:mod:`wheeltapper_protocols.wire.assignment`): it is composed from
all campaigns and default releases that apply, by the rules of :mod:`wheeltapper_fleet.campaigns.rules.meeting` and
:mod:`wheeltapper_fleet.campaigns.rules.default_release`.

Invariants:
    * A device's counter always rises, also past the one that the device itself has reported.
    * It is signed anew only where what it says has changed, has expired, or where the device knows a higher counter.
    * It expires when the fleet gives up the last of its executions.
    * A device whose assignment cannot be composed is tried again, and the reason is logged once; the others go on.

Cost: some 0.6 ms a device on SQLite, of which signing is a quarter, and writing, under the lock, a tenth. Nothing is
done for devices to which nothing happened.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, bindparam, select

from wheeltapper_fleet.campaigns.claims import (
    DeviceFacts,
    KnownExecution,
    executions_of_devices,
    facts_of_devices,
    nobody,
)
from wheeltapper_fleet.campaigns.due import mark_each
from wheeltapper_fleet.campaigns.moves import lock_executions, new_execution_id, write_moves
from wheeltapper_fleet.campaigns.rules.default_release import (
    ATTEMPT_SECONDS,
    DefaultRelease,
    choose_default_releases,
    next_attempt_at,
    release_shown,
    wants,
)
from wheeltapper_fleet.campaigns.rules.execution import (
    SUCCESS,
    Deadline,
    ExecutionEvent,
    Fail,
    Supersede,
    is_terminal,
    move,
)
from wheeltapper_fleet.campaigns.rules.meeting import Claim, Decision, Standing, decide
from wheeltapper_fleet.campaigns.store import log_campaign
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.assignment import MAX_PIPELINES, Assignment, ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Composed", "Composer", "Sign", "Signed"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_LARGEST_COUNTER: Final = 2**52
"""A device that reports more is not believed: JSON readers keep integers exactly up to 2**53."""
_IDLE_SECONDS: Final = 30 * 86_400.0
"""How long an assignment without executions is valid. A device that comes back later is sent a fresh one."""
_RETRY_SECONDS: Final = 10.0
_NAMED_AT_MOST: Final = 10

_TOLD: Final = (Standing.ORDERED, Standing.HELD, Standing.CALLED_OFF)
_RESOLVE_PIPELINES: Final = (
    executions.update().where(executions.c.id == bindparam("execution")).values(pipelines=bindparam("covers"))
)

Sign = Callable[[Assignment], str]
"""Signs an assignment; gives the DSSE envelope's JSON text."""


@dataclass(frozen=True)
class Signed:
    """An assignment to publish: the envelope that is to be retained for ``device``."""

    device: str
    counter: int
    envelope: str


@dataclass
class _Changes:
    """What the composition of one device's assignment changes in the database; rows of ``executions`` by columns."""

    ended: dict[str, ExecutionEvent] = field(default_factory=dict)
    """By execution, the event that ends it."""
    made: list[dict[str, Any]] = field(default_factory=list)
    resolved: list[dict[str, Any]] = field(default_factory=list)
    signed: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ``assignments``."""
    superseded: list[tuple[str, str]] = field(default_factory=list)
    """The campaign that lost the device, and what took its place."""
    look_again_at: float = math.inf


@dataclass
class Composed:
    """What was composed of some devices, not stored yet."""

    changes: dict[str, _Changes]
    publish: list[Signed]

    def store(self, connection: Connection, devices: Collection[str], now: float) -> list[Signed]:
        """Write what was composed of ``devices``, each kind in one statement; gives what is to be published.

        What was composed of others is forgotten: something has happened to them since.
        """
        changes = {device: each for device, each in self.changes.items() if device in devices}
        events = {execution: event for each in changes.values() for execution, event in each.ended.items()}
        found = lock_executions(connection, events)
        write_moves(connection, [(each, move(each, events[each.id])) for each in found], now, composing=True)
        if made := [row for each in changes.values() for row in each.made]:
            connection.execute(executions.insert(), made)
        if resolved := [row for each in changes.values() for row in each.resolved]:
            connection.execute(_RESOLVE_PIPELINES, resolved)
        if signed := [row for each in changes.values() for row in each.signed]:
            statement = upsert_statement(connection, assignments)
            values = {name: statement.excluded[name] for name in signed[0] if name != "device"}
            connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values), signed)
        later = {device: each.look_again_at for device, each in changes.items() if math.isfinite(each.look_again_at)}
        mark_each(connection, later)
        superseded: dict[tuple[str, str], list[str]] = defaultdict(list)
        for device, each in changes.items():
            for pair in each.superseded:
                superseded[pair].append(device)
        for (campaign, by), names in superseded.items():
            shown = ", ".join(sorted(names)[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")
            log_campaign(connection, campaign, _WHO, "superseded", f"{shown}: by campaign {by}", now)
        return [each for each in self.publish if each.device in devices]


@dataclass
class Composer:
    """Composes the assignments of some devices: reads all, decides each alone. It writes nothing.

    Args:
        connection: for reading.
        defaults: the default releases that are set.
        sign: the director.
        now: Unix seconds.
        failing: by reason, the devices whose assignment could not be composed; kept from one composer to the next. A
            reason is logged once.
    """

    connection: Connection
    defaults: Sequence[DefaultRelease]
    sign: Sign
    now: float
    failing: dict[str, set[str]] = field(default_factory=dict)
    _targets: dict[tuple[str, int], PipelineTarget | None] = field(default_factory=dict)

    def compose(self, devices: Sequence[str]) -> Composed:
        """Compose the assignments of ``devices``.

        A fault of the database itself is raised: it says nothing of a device.
        """
        enrolled = facts_of_devices(self.connection, devices)
        facts = {device: enrolled.get(device) or nobody(device) for device in devices}
        known = executions_of_devices(self.connection, facts)
        query = select(assignments).where(assignments.c.device.in_(devices))
        stored = {row.device: row for row in self.connection.execute(query)}
        publish: list[Signed] = []
        changes: dict[str, _Changes] = {}
        for device in devices:
            changes[device] = _Changes()
            told = known[device]
            try:
                if not facts[device].active:
                    told = self._fail_told(told, f"device.{facts[device].state}", changes[device])
                signed = self._compose(facts[device], told, stored.get(device), changes[device])
            except Exception as error:
                if database_fault(error) is not None:
                    raise
                self._name_once(device, error)
                changes[device] = _Changes(look_again_at=self.now + _RETRY_SECONDS)
                continue
            publish += [] if signed is None else [signed]
            self._works(device)
        return Composed(changes, publish)

    def _name_once(self, device: str, error: Exception) -> None:
        """Log why an assignment cannot be made, once for each reason."""
        reason = f"{type(error).__name__}: {error}"
        devices = self.failing.setdefault(reason, set())
        if not devices:
            _LOG.error("the assignment of %s cannot be made; it is tried again: %s", device, reason, exc_info=error)
        devices.add(device)

    def _works(self, device: str) -> None:
        for reason in [reason for reason, devices in self.failing.items() if device in devices]:
            self.failing[reason].discard(device)
            if not self.failing[reason]:
                del self.failing[reason]

    def _compose(
        self, facts: DeviceFacts, known: Sequence[KnownExecution], stored: Row[Any] | None, changes: _Changes
    ) -> Signed | None:
        usable = self._usable(known, changes)
        decision = decide([each.claim for each in usable])
        by_id = {each.claim.execution: each for each in usable}
        for execution, by in decision.superseded.items():
            changes.ended[execution] = Supersede(by)
            if (campaign := by_id[execution].campaign) is not None:
                changes.superseded.append((campaign, by))
        made = self._default_executions(facts, usable, decision, changes)
        for each in (*usable, *made):
            unfinished = each.default_release is not None and not is_terminal(each.state)
            if unfinished and each.claim.execution not in decision.superseded:
                changes.look_again_at = min(changes.look_again_at, each.deadline_at)
        return self._sign(facts, [*(by_id[execution] for execution in decision.orders), *made], stored, changes)

    def _usable(self, known: Sequence[KnownExecution], changes: _Changes) -> list[KnownExecution]:
        """Those of ``known`` that are not ended here, because they are overdue or ask for what does not exist."""
        usable = []
        for each in known:
            told = each.claim.standing in _TOLD
            overdue = each.default_release is not None and each.deadline_at <= self.now
            if told and overdue and not is_terminal(each.state):
                changes.ended[each.claim.execution] = Deadline()
            elif each.claim.standing is Standing.ORDERED and not each.claim.pipelines:
                changes.ended[each.claim.execution] = Fail("execution.no_pipeline")
            elif each.claim.standing is Standing.ORDERED and self._target(each.model, each.release) is None:
                changes.ended[each.claim.execution] = Fail("release.not_found")
            else:
                usable.append(each)
        return usable

    def _default_executions(
        self, facts: DeviceFacts, known: Sequence[KnownExecution], decision: Decision, changes: _Changes
    ) -> list[KnownExecution]:
        """New executions for the default releases that this device lacks."""
        taken = {
            pipeline
            for each in known
            if each.claim.standing in (Standing.ORDERED, Standing.HELD)
            and each.claim.execution not in decision.superseded
            for pipeline in each.claim.pipelines
        }
        made: list[KnownExecution] = []
        for pipeline, default in choose_default_releases(self.defaults, facts.id, facts.tags).items():
            if pipeline in taken or pipeline not in facts.shown or not facts.online or not facts.active:
                continue
            mine = [each for each in known if pipeline in each.claim.pipelines and is_terminal(each.state)]
            ended_well = [each for each in mine if each.state == SUCCESS]
            shown = release_shown(facts.shown[pipeline], facts.shown_at, [each.commit for each in ended_well])
            of_campaigns = [each.commit for each in ended_well if each.campaign is not None]
            if self._target(default.model, default.release) is None or not wants(default, shown, of_campaigns):
                continue
            tries = [
                each.attempt
                for each in mine
                if each.default_release == default.id and each.assigned_at >= facts.enrolled_at
            ]
            at = next_attempt_at(tries)
            if at <= self.now:
                made.append(self._make(facts.id, default, changes))
            else:
                changes.look_again_at = min(changes.look_again_at, at)
        return made

    def _make(self, device: str, default: DefaultRelease, changes: _Changes) -> KnownExecution:
        execution, deadline = new_execution_id(), self.now + ATTEMPT_SECONDS
        row = {
            "id": execution,
            "default_release": default.id,
            "device": device,
            "wave": 0,
            "pipelines": [default.pipeline],
            "state": ExecutionState.ASSIGNED.value,
            "assigned_at": self.now,
            "deadline_at": deadline,
            "updated_at": self.now,
        }
        changes.made.append(row)
        claim = Claim(execution, default.id, (default.pipeline,), Standing.ORDERED, since=default.set_at, default=True)
        return KnownExecution(
            claim=claim,
            campaign=None,
            default_release=default.id,
            state=ExecutionState.ASSIGNED.value,
            resolved=True,
            model=default.model,
            release=default.release,
            deadline_at=deadline,
            assigned_at=self.now,
            at=self.now,
        )

    def _sign(
        self, facts: DeviceFacts, orders: Sequence[KnownExecution], stored: Row[Any] | None, changes: _Changes
    ) -> Signed | None:
        """Sign the assignment of a device, if the newest one does not say the same already."""
        pipelines: dict[str, PipelineTarget | None] = {}
        ordered: list[ExecutionOrder] = []
        expires_at = self.now + (0.0 if orders else _IDLE_SECONDS)
        for each in orders:
            if len(pipelines) + len(each.claim.pipelines) > MAX_PIPELINES:
                break  # the rest follows when these have ended
            pipelines |= dict.fromkeys(each.claim.pipelines, self._target(each.model, each.release))
            expires_at = max(expires_at, each.deadline_at)
            ordered.append(
                ExecutionOrder(
                    execution=each.claim.execution,
                    campaign=each.claim.origin,
                    pipelines=list(each.claim.pipelines),
                    deadline=each.deadline_at,
                )
            )
            if not each.resolved:
                changes.resolved.append({"execution": each.claim.execution, "covers": list(each.claim.pipelines)})
        for name, shown in sorted(facts.shown.items()):
            target = None if shown is None else self._target(*shown)
            if target is not None and len(pipelines) < MAX_PIPELINES:
                pipelines.setdefault(name, target)
        content = msgspec.json.encode([pipelines, ordered], order="deterministic")
        digest = hashlib.sha256(content).hexdigest()
        if not _is_needed(stored, facts, digest, len(ordered), self.now):
            return _again(stored, facts)
        known = 0 if stored is None else stored.counter
        assignment = Assignment(
            device=facts.id,
            counter=max(known, min(facts.counter, _LARGEST_COUNTER)) + 1,
            issued_at=self.now,
            expires_at=expires_at,
            pipelines=pipelines,
            executions=ordered,
        )
        envelope = self.sign(assignment)
        row = {"device": facts.id, "counter": assignment.counter, "envelope": envelope, "digest": digest}
        row |= {"orders": len(ordered), "published": False, "issued_at": self.now, "expires_at": expires_at}
        changes.signed.append(row)
        return Signed(facts.id, assignment.counter, envelope)

    def _target(self, model: str, release: int) -> PipelineTarget | None:
        """What a device needs to know of a release; None if there is no such release."""
        if (model, release) not in self._targets:
            row = self.connection.execute(
                select(releases.c.path, releases.c.length, releases.c.sha256).where(
                    releases.c.model == model, releases.c.release == release
                )
            ).one_or_none()
            target = None
            if row is not None:
                target = PipelineTarget(
                    model=model, release=release, path=row.path, length=row.length, sha256=row.sha256
                )
            self._targets[model, release] = target
        return self._targets[model, release]

    def _fail_told(self, known: Sequence[KnownExecution], code: str, changes: _Changes) -> list[KnownExecution]:
        """End what a device was told that is enrolled no more; gives the executions that are left."""
        told = [each for each in known if each.claim.standing in _TOLD]
        for each in told:
            changes.ended[each.claim.execution] = Fail(code)
        return [each for each in known if each not in told]


def _is_needed(stored: Row[Any] | None, facts: DeviceFacts, digest: str, orders: int, now: float) -> bool:
    """Whether an assignment with ``digest`` and ``orders`` executions is signed where ``stored`` is the newest."""
    if stored is None:
        return orders > 0
    if facts.counter > stored.counter:
        return True
    if stored.expires_at <= now and facts.counter < stored.counter:
        return True
    return digest != stored.digest and (orders > 0 or stored.orders > 0)


def _again(stored: Row[Any] | None, facts: DeviceFacts) -> Signed | None:
    """The newest assignment, if a device that is online does not have it."""
    if stored is None or not facts.online or facts.counter >= stored.counter:
        return None
    return Signed(facts.id, stored.counter, stored.envelope)
