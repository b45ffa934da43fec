"""An execution becomes a signed assignment. In the caller's transaction.

Invariants:
    * A device's counter always rises, also past the one that the device itself has reported.
    * A device has one assignment at a time: a new one supersedes every unfinished execution of the device in other
      campaigns.
    * The assignment expires when the fleet gives the execution up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from wheeltapper_fleet.campaigns.rules.campaign import Assign, Campaign
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES, log_campaign
from wheeltapper_fleet.campaigns.tables import assignments, executions
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.assignment import Assignment, ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Assigned", "Sign", "assign"]

_LARGEST_COUNTER: Final = 2**52
"""A device that reports more is not believed: JSON readers keep integers exactly up to 2**53."""

Sign = Callable[[Assignment], str]
"""Signs an assignment; gives the DSSE envelope's JSON text."""


@dataclass(frozen=True)
class Assigned:
    """What became of the executions that were to be assigned."""

    envelopes: Sequence[tuple[str, str]]
    """Each device, and the envelope to send it."""
    failed: Mapping[str, str]
    """Executions that cannot be assigned, and the code that says why."""


def assign(
    connection: Connection, campaign: Campaign, wanted: Sequence[Assign], sign: Sign, who: str, now: float
) -> Assigned:
    """Sign and store an assignment for each execution in ``wanted``.

    Args:
        connection: within the transaction that also stores the campaign.
        campaign: which the executions belong to.
        wanted: which executions, on which devices, until when.
        sign: the director.
        who: for the log of campaigns that lose a device to this one.
        now: Unix seconds.
    """
    envelopes: list[tuple[str, str]] = []
    failed: dict[str, str] = {}
    target = _target(connection, campaign.spec)
    for effect in wanted:
        device = connection.execute(select(devices).where(devices.c.id == effect.device)).one_or_none()
        pipelines = _pipelines(campaign.spec, None if device is None else device.status)
        if device is None or device.revoked or not pipelines:
            failed[effect.execution] = "execution.no_pipeline" if not pipelines else "device.revoked"
            continue
        assignment = Assignment(
            device=effect.device,
            counter=_next_counter(connection, device),
            issued_at=now,
            expires_at=effect.deadline_at,
            pipelines=dict.fromkeys(pipelines, target),
            executions=[
                ExecutionOrder(
                    execution=effect.execution,
                    campaign=campaign.id,
                    pipelines=list(dict.fromkeys(pipelines)),
                    deadline=effect.deadline_at,
                )
            ],
        )
        envelope = sign(assignment)
        _store(connection, assignment, effect.execution, envelope)
        _supersede(connection, campaign.id, effect.device, who, now)
        envelopes.append((effect.device, envelope))
    return Assigned(envelopes, failed)


def _target(connection: Connection, spec: CampaignSpec) -> PipelineTarget:
    row = connection.execute(
        select(releases.c.path, releases.c.length, releases.c.sha256).where(
            releases.c.model == spec.model, releases.c.release == spec.release
        )
    ).one()
    return PipelineTarget(model=spec.model, release=spec.release, path=row.path, length=row.length, sha256=row.sha256)


def _pipelines(spec: CampaignSpec, status: Any) -> list[str]:
    """The pipelines to assign: those that the spec names, or all that the device's last status message names."""
    if spec.pipelines != (ALL_PIPELINES,):
        return list(spec.pipelines)
    return sorted((status or {}).get("pipelines") or {})


def _next_counter(connection: Connection, device: Row[Any]) -> int:
    query = select(assignments.c.counter).where(assignments.c.device == device.id)
    assigned: int = connection.execute(query).scalar_one_or_none() or 0
    return max(assigned, min(int(device.counter), _LARGEST_COUNTER)) + 1


def _store(connection: Connection, assignment: Assignment, execution: str, envelope: str) -> None:
    values = {
        "counter": assignment.counter,
        "execution": execution,
        "envelope": envelope,
        "issued_at": assignment.issued_at,
        "expires_at": assignment.expires_at,
    }
    statement = upsert_statement(connection, assignments).values(device=assignment.device, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))


def _supersede(connection: Connection, by: str, device: str, who: str, now: float) -> None:
    """End every unfinished execution of ``device`` in campaigns other than ``by``."""
    others = select(executions.c.id, executions.c.campaign).where(
        executions.c.device == device, executions.c.campaign != by, executions.c.state.not_in(TERMINAL_STATES)
    )
    for row in connection.execute(others).all():
        connection.execute(
            executions.update()
            .where(executions.c.id == row.id)
            .values(
                state=ExecutionState.SUPERSEDED.value, code="execution.superseded", detail=f"by {by}", updated_at=now
            )
        )
        log_campaign(connection, row.campaign, who, "superseded", f"{device}: by campaign {by}", now)
