"""The assignment of a device is composed, signed and stored. In the caller's transaction.

An assignment is the device's whole desired state (:mod:`wheeltapper_protocols.wire.assignment`): it is composed from
all campaigns and default releases that apply, by the rules of :mod:`wheeltapper_fleet.campaigns.rules.meeting` and
:mod:`wheeltapper_fleet.campaigns.rules.default_release`.

Invariants:
    * A device's counter always rises, also past the one that the device itself has reported.
    * It is signed anew only where what it says has changed, has expired, or where the device knows a higher counter.
    * It expires when the fleet gives up the last of its executions.
    * A device whose assignment cannot be composed is tried again, and the reason is logged once; the others go on.

Cost: signing takes some 0.15 ms, the rest of one composition about 1.5 ms on SQLite. Nothing is done for devices to
which nothing happened.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select

from wheeltapper_fleet.campaigns.claims import DeviceFacts, KnownExecution, device_facts, known_executions
from wheeltapper_fleet.campaigns.due import mark_device
from wheeltapper_fleet.campaigns.rules.default_release import (
    ATTEMPT_SECONDS,
    DefaultRelease,
    choose_default_releases,
    next_attempt_at,
    release_shown,
    wants,
)
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.meeting import Claim, Decision, Standing, decide
from wheeltapper_fleet.campaigns.store import log_campaign
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.assignment import MAX_PIPELINES, Assignment, ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Composer", "Sign", "Signed"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_LARGEST_COUNTER: Final = 2**52
"""A device that reports more is not believed: JSON readers keep integers exactly up to 2**53."""
_IDLE_SECONDS: Final = 30 * 86_400.0
"""How long an assignment without executions is valid. A device that comes back later is sent a fresh one."""
_RETRY_SECONDS: Final = 10.0
_NAMED_AT_MOST: Final = 10

Sign = Callable[[Assignment], str]
"""Signs an assignment; gives the DSSE envelope's JSON text."""


@dataclass(frozen=True)
class Signed:
    """An assignment to publish: the envelope that is to be retained for ``device``."""

    device: str
    counter: int
    envelope: str


@dataclass
class Composer:
    """Composes the assignments of some devices, one after the other, in one transaction.

    Args:
        connection: within the transaction.
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
    _superseded: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def compose(self, device: str) -> Signed | None:
        """Compose the assignment of ``device``; gives it if there is something to publish.

        A fault of the database itself is raised: it says nothing of the device.
        """
        try:
            with self.connection.begin_nested():
                signed = self._compose(device)
        except Exception as error:
            if database_fault(error) is not None:
                raise
            reason = f"{type(error).__name__}: {error}"
            devices = self.failing.setdefault(reason, set())
            if not devices:
                _LOG.error("the assignment of %s cannot be made; it is tried again: %s", device, reason, exc_info=error)
            devices.add(device)
            mark_device(self.connection, device, self.now + _RETRY_SECONDS)
            return None
        for reason in [reason for reason, devices in self.failing.items() if device in devices]:
            self.failing[reason].discard(device)
            if not self.failing[reason]:
                del self.failing[reason]
        return signed

    def log_superseded(self) -> None:
        """Write into the logs of campaigns which of their executions others have superseded."""
        for (campaign, by), names in self._superseded.items():
            shown = ", ".join(sorted(names)[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")
            log_campaign(self.connection, campaign, _WHO, "superseded", f"{shown}: by campaign {by}", self.now)
        self._superseded.clear()

    def _compose(self, device: str) -> Signed | None:
        facts = device_facts(self.connection, device)
        if facts is None or facts.revoked:
            self._fail_told(device, "device.not_found" if facts is None else "device.revoked")
            return None
        known = self._usable(known_executions(self.connection, facts))
        decision = decide([each.claim for each in known])
        by_id = {each.claim.execution: each for each in known}
        for execution, by in decision.superseded.items():
            self._end(execution, ExecutionState.SUPERSEDED, "execution.superseded", f"by {by}")
        orders = [by_id[execution] for execution in decision.orders]
        made, later = self._default_executions(facts, known, decision)
        orders += made
        signed = self._sign_if_needed(facts, orders)
        open_ones = [
            each for each in (*known, *made) if each.default_release is not None and not is_terminal(each.state)
        ]
        later += [each.deadline_at for each in open_ones if each.claim.execution not in decision.superseded]
        if later:
            mark_device(self.connection, device, min(later))
        for execution, by in decision.superseded.items():
            if (campaign := by_id[execution].campaign) is not None:
                self._superseded[campaign, by].append(device)
        return signed

    def _usable(self, known: list[KnownExecution]) -> list[KnownExecution]:
        """Those of ``known`` that are not ended here, because they are overdue or ask for what does not exist."""
        usable = []
        for each in known:
            told = each.claim.standing in (Standing.ORDERED, Standing.HELD, Standing.CALLED_OFF)
            overdue = each.default_release is not None and each.deadline_at <= self.now
            if told and overdue and not is_terminal(each.state):
                self._end(each.claim.execution, ExecutionState.FAILED, "execution.deadline", f"was {each.state}")
            elif each.claim.standing is Standing.ORDERED and not each.claim.pipelines:
                self._end(each.claim.execution, ExecutionState.FAILED, "execution.no_pipeline", "")
            elif each.claim.standing is Standing.ORDERED and self._target(each.model, each.release) is None:
                self._end(each.claim.execution, ExecutionState.FAILED, "release.not_found", "")
            else:
                usable.append(each)
        return usable

    def _default_executions(
        self, facts: DeviceFacts, known: Sequence[KnownExecution], decision: Decision
    ) -> tuple[list[KnownExecution], list[float]]:
        """New executions for the default releases that this device lacks, and when to look again (Unix seconds)."""
        taken = {
            pipeline
            for each in known
            if each.claim.standing in (Standing.ORDERED, Standing.HELD)
            and each.claim.execution not in decision.superseded
            for pipeline in each.claim.pipelines
        }
        made: list[KnownExecution] = []
        later: list[float] = []
        for pipeline, default in choose_default_releases(self.defaults, facts.id, facts.tags).items():
            if pipeline in taken or pipeline not in facts.shown or not facts.online:
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
                made.append(self._insert(facts.id, default))
            elif math.isfinite(at):
                later.append(at)
        return made, later

    def _insert(self, device: str, default: DefaultRelease) -> KnownExecution:
        execution, deadline = f"e-{secrets.token_hex(8)}", self.now + ATTEMPT_SECONDS
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
        self.connection.execute(executions.insert().values(row))
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

    def _sign_if_needed(self, facts: DeviceFacts, orders: Sequence[KnownExecution]) -> Signed | None:
        stored = self.connection.execute(select(assignments).where(assignments.c.device == facts.id)).one_or_none()
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
                values = {"pipelines": list(each.claim.pipelines)}
                self.connection.execute(
                    executions.update().where(executions.c.id == each.claim.execution).values(values)
                )
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
        return self._store(assignment, digest)

    def _store(self, assignment: Assignment, digest: str) -> Signed:
        envelope = self.sign(assignment)
        values = {
            "counter": assignment.counter,
            "envelope": envelope,
            "digest": digest,
            "orders": len(assignment.executions),
            "published": False,
            "issued_at": assignment.issued_at,
            "expires_at": assignment.expires_at,
        }
        statement = upsert_statement(self.connection, assignments).values(device=assignment.device, **values)
        self.connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))
        return Signed(assignment.device, assignment.counter, envelope)

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

    def _end(self, execution: str, state: ExecutionState, code: str, detail: str) -> None:
        values = {"state": state.value, "code": code, "detail": detail, "updated_at": self.now}
        self.connection.execute(executions.update().where(executions.c.id == execution).values(values))

    def _fail_told(self, device: str, code: str) -> None:
        """End what a device was told that cannot be told anything any more."""
        told = (executions.c.device == device, executions.c.assigned_at.is_not(None))
        unfinished = executions.c.state.not_in([state.value for state in ExecutionState if state.terminal])
        values = {"state": ExecutionState.FAILED.value, "code": code, "updated_at": self.now}
        self.connection.execute(executions.update().where(*told, unfinished).values(values))


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
