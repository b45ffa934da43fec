"""The engine: moves campaigns along, signs assignments, says what to publish.

Invariants:
    * One tick is one transaction: a campaign's new state and the assignments that follow from it are stored together,
      and published only afterwards. What was stored but not published is published at the next start, or when the
      device says that its counter is older (see the ingest).
    * A device's counter always rises, also past what the device itself has said.
    * A new assignment supersedes every unfinished execution of the device in other campaigns.

What this module does not do: decide (that is ``domain.campaign``), sign (the director is handed in), send.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, or_, select
from sqlalchemy import Engine as Database

from wheeltapper_fleet.campaigns.rules.campaign import Assign, Campaign, CampaignState, Effect, Tick, step
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec
from wheeltapper_fleet.campaigns.service import record_effects
from wheeltapper_fleet.campaigns.store import load_campaign, log_campaign, save_campaign
from wheeltapper_fleet.campaigns.tables import assignments, campaigns, executions
from wheeltapper_fleet.db.engine import reading, upsert_statement
from wheeltapper_fleet.devices.commands import pending_payloads
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.assignment import Assignment, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["Engine", "Publication", "Sign"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_TERMINAL: Final = tuple(state.value for state in ExecutionState if state.terminal)
_ACTIVE: Final = (CampaignState.SCHEDULED.value, CampaignState.RUNNING.value, CampaignState.PAUSED.value)
_LARGEST_COUNTER: Final = 2**52
_MAX_STEPS: Final = 250

Sign = Callable[[Assignment], str]
"""Signs an assignment; gives the DSSE envelope's JSON text."""


@dataclass(frozen=True)
class Publication:
    """One message to say."""

    topic: str
    payload: bytes
    retain: bool = False


class Engine:
    """See the module.

    Args:
        database: the fleet's database. sign: the director.
        repeat_seconds: pause between two repetitions of an unanswered command.
    """

    def __init__(self, database: Database, sign: Sign, *, repeat_seconds: float = 5.0) -> None:
        self._database = database
        self._sign = sign
        self._repeat_seconds = repeat_seconds
        self._said: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> list[Publication]:
        """Move every active campaign as far as it goes; returns what to publish."""
        out: list[Publication] = []
        unfinished = select(executions.c.campaign).where(executions.c.state.not_in(_TERMINAL))
        active = (
            select(campaigns.c.id)
            .where(
                or_(
                    campaigns.c.state.in_(_ACTIVE),
                    (campaigns.c.state == CampaignState.ABORTED.value) & campaigns.c.id.in_(unfinished),
                )
            )
            .order_by(campaigns.c.created_at, campaigns.c.id)
        )
        with reading(self._database) as connection:
            idle = connection.execute(active.limit(1)).first() is None
        if not idle:
            with self._database.begin() as connection:
                for campaign in connection.execute(active).scalars().all():
                    out += self._tick_campaign(connection, campaign, now)
        return out + self._commands(now)

    def republish(self) -> list[Publication]:
        """Every assignment whose execution has not ended: said again at the start, and when the broker came back."""
        query = select(assignments.c.device, assignments.c.envelope).where(
            assignments.c.execution.in_(select(executions.c.id).where(executions.c.state.not_in(_TERMINAL)))
        )
        with reading(self._database) as connection:
            return [_publication(row.device, row.envelope) for row in connection.execute(query)]

    def start(self, publish: Callable[[str, bytes, bool], None], *, interval_seconds: float = 0.5) -> None:
        """Tick on a thread of its own, and publish."""

        def run() -> None:
            again = True
            while not self._stopping.is_set():
                try:
                    said = self.republish() if again else []
                    for each in said + self.tick(time.time()):
                        publish(each.topic, each.payload, each.retain)
                    again = False
                except Exception:  # noqa: BLE001  # the service goes on, whatever came
                    _LOG.exception("a tick failed; it will be tried again")
                self._stopping.wait(interval_seconds)

        self._thread = threading.Thread(target=run, name="campaign-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; done when the thread is gone."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick_campaign(self, connection: Connection, identity: str, now: float) -> list[Publication]:
        out: list[Publication] = []
        before, version = load_campaign(connection, identity)
        campaign = before
        for _ in range(_MAX_STEPS):
            after, effects = step(campaign, Tick(now))
            if after == campaign:
                break
            after = self._assign(connection, after, effects, now, out)
            record_effects(connection, identity, effects, _WHO, now)
            campaign = after
        if campaign != before:
            save_campaign(connection, before, campaign, version, now)
        return out

    def _assign(
        self,
        connection: Connection,
        campaign: Campaign,
        effects: tuple[Effect, ...],
        now: float,
        out: list[Publication],
    ) -> Campaign:
        wanted = [effect for effect in effects if isinstance(effect, Assign)]
        if not wanted:
            return campaign
        target = _target(connection, campaign.spec)
        failed: dict[str, str] = {}
        for effect in wanted:
            device = connection.execute(select(devices).where(devices.c.id == effect.device)).one_or_none()
            pipelines = _pipelines(campaign.spec, None if device is None else device.status)
            if device is None or device.revoked or not pipelines:
                failed[effect.execution] = "execution.no_pipeline" if not pipelines else "device.revoked"
                continue
            stored = select(assignments.c.counter).where(assignments.c.device == effect.device)
            last = max(connection.execute(stored).scalar_one_or_none() or 0, min(device.counter, _LARGEST_COUNTER))
            assignment = Assignment(
                device=effect.device,
                counter=last + 1,
                issued_at=now,
                expires_at=effect.deadline_at,
                campaign=campaign.id,
                execution=effect.execution,
                pipelines=dict.fromkeys(pipelines, target),
                deadline=effect.deadline_at,
            )
            envelope = self._sign(assignment)
            _store(connection, assignment, envelope)
            _supersede(connection, campaign.id, effect.device, now)
            out.append(_publication(effect.device, envelope))
        return replace(
            campaign,
            executions=tuple(
                replace(each, state=ExecutionState.FAILED.value, code=failed[each.id]) if each.id in failed else each
                for each in campaign.executions
            ),
        )

    def _commands(self, now: float) -> list[Publication]:
        with reading(self._database) as connection:
            pending = pending_payloads(connection, now)
        self._said = {command: self._said[command] for command, _, _ in pending if command in self._said}
        out = []
        for command, device, payload in pending:
            if now - self._said.get(command, float("-inf")) >= self._repeat_seconds:
                self._said[command] = now
                out.append(Publication(down_topic(device, Down.COMMAND), payload))
        return out


def _publication(device: str, envelope: str) -> Publication:
    return Publication(down_topic(device, Down.ASSIGNMENT), envelope.encode(), retain=True)


def _target(connection: Connection, spec: CampaignSpec) -> PipelineTarget:
    row = connection.execute(
        select(releases.c.path, releases.c.length, releases.c.sha256).where(
            releases.c.model == spec.model, releases.c.release == spec.release
        )
    ).one()
    return PipelineTarget(model=spec.model, release=spec.release, path=row.path, length=row.length, sha256=row.sha256)


def _pipelines(spec: CampaignSpec, status: Any) -> list[str]:
    if spec.pipelines != (ALL_PIPELINES,):
        return list(spec.pipelines)
    return sorted((status or {}).get("pipelines") or {})


def _store(connection: Connection, assignment: Assignment, envelope: str) -> None:
    values = {
        "counter": assignment.counter,
        "execution": assignment.execution,
        "envelope": envelope,
        "issued_at": assignment.issued_at,
        "expires_at": assignment.expires_at,
    }
    statement = upsert_statement(connection, assignments).values(device=assignment.device, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))


def _supersede(connection: Connection, by: str, device: str, now: float) -> None:
    others = select(executions.c.id, executions.c.campaign).where(
        executions.c.device == device, executions.c.campaign != by, executions.c.state.not_in(_TERMINAL)
    )
    for row in connection.execute(others).all():
        connection.execute(
            executions.update()
            .where(executions.c.id == row.id)
            .values(
                state=ExecutionState.SUPERSEDED.value, code="execution.superseded", detail=f"by {by}", updated_at=now
            )
        )
        log_campaign(connection, row.campaign, _WHO, "superseded", f"{device}: by campaign {by}", now)
