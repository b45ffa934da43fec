"""Answers why a device runs what it runs: reads what is known of it, and has it explained. Changes nothing.

Cost: the rows of one device, of its executions the newest :data:`MOST_ATTEMPTS_READ` and as many committed ones; the
size of the fleet does not matter.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, select

from wheeltapper_fleet.campaigns.claims import KnownExecution, device_facts, executions_of_devices
from wheeltapper_fleet.campaigns.default_releases import set_default_releases
from wheeltapper_fleet.campaigns.rules.default_release import choose_default_releases, next_attempt_at
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.explanation import Attempt, SignedOrder, explain
from wheeltapper_fleet.campaigns.rules.meeting import decide
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES
from wheeltapper_fleet.campaigns.schemas import HappeningView, PipelineReasons, Why
from wheeltapper_fleet.campaigns.tables import assignments, campaigns, default_releases, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rules import DeviceState, may_connect
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.assignment import Assignment, decode_assignment

__all__ = ["MOST_ATTEMPTS_READ", "why"]

MOST_ATTEMPTS_READ: Final = 200
_COMMITTED: Final = executions.c.state == SUCCESS


def why(engine: Engine, device: str, pipeline: str | None = None) -> Why:
    """Why each pipeline of ``device``, or only ``pipeline``, runs what it runs.

    Raises:
        FleetError: ``device.not_found``.
    """
    with reading(engine) as connection:
        facts = device_facts(connection, device)
        if facts is None:
            raise FleetError("device.not_found", f"there is no device {device[:63]!r}", 404)
        said = connection.execute(select(devices.c.status).where(devices.c.id == device)).scalar_one() is not None
        known = executions_of_devices(connection, {device: facts})[device]
        covering = _attempts(connection, device, known, tuple(facts.shown))
        defaults = choose_default_releases(set_default_releases(connection), device, facts.tags)
        order = connection.execute(select(assignments).where(assignments.c.device == device)).one_or_none()
    signed = None if order is None else _signed(order)
    names = [pipeline] if pipeline else sorted({*facts.shown, *(name for name in covering if name != ALL_PIPELINES)})
    found = []
    for name in names:
        default = defaults.get(name)
        tries = [
            each.attempt
            for each in known
            if default is not None
            and each.default_release == default.id
            and is_terminal(each.state)
            and each.assigned_at >= facts.enrolled_at
        ]
        explained = explain(
            name,
            shown=facts.shown if said else None,
            shown_at=facts.shown_at,
            revoked=not may_connect(facts.state),
            quarantined=facts.state == DeviceState.QUARANTINED,
            attempts=sorted([*covering.get(name, ()), *covering.get(ALL_PIPELINES, ())], key=lambda each: each.at),
            default=default,
            default_next_at=next_attempt_at(tries),
            signed=None if order is None or signed is None else _order(order, signed, facts.counter, name),
        )
        views = [HappeningView(at=h.at, kind=h.kind, sentence=h.sentence, code=h.code) for h in explained.happenings]
        found.append(
            PipelineReasons(
                pipeline=name,
                model=explained.model,
                release=explained.release,
                runs=explained.runs,
                asked=explained.asked,
                failed=explained.failed,
                beaten=list(explained.beaten),
                happenings=views,
            )
        )
    return Why(device=device, revoked=facts.state == DeviceState.REVOKED, online=facts.online, pipelines=found)


def _attempts(
    connection: Connection, device: str, known: list[KnownExecution], shown: tuple[str, ...]
) -> dict[str, list[Attempt]]:
    """By pipeline, the newest attempts of a device, each with what it asks for now.

    One of all pipelines whose pipelines were never resolved is under those that are shown, or under "*".
    """
    query = select(executions).where(executions.c.device == device)
    query = query.order_by(executions.c.updated_at.desc(), executions.c.id).limit(MOST_ATTEMPTS_READ)
    rows = {row.id: row for each in (query, query.where(_COMMITTED)) for row in connection.execute(each)}.values()
    origins = _origins(connection, rows)
    standing = {each.claim.execution: each.claim.standing for each in known if not is_terminal(each.state)}
    superseded = decide([each.claim for each in known]).superseded
    found: dict[str, list[Attempt]] = {}
    for row in rows:
        origin = origins.get(row.campaign or row.default_release)
        if origin is None:
            continue
        attempt = Attempt(
            origin=row.campaign or row.default_release,
            default=row.campaign is None,
            model=origin.model,
            release=origin.release,
            state=row.state,
            code=row.code,
            detail=row.detail,
            wave=0 if row.campaign is None else row.wave + 1,
            priority=origin.priority,
            since=origin.since,
            assigned_at=row.assigned_at,
            at=row.updated_at,
            standing=standing.get(row.id),
            superseded_by="" if is_terminal(row.state) else superseded.get(row.id, ""),
        )
        named = row.pipelines if isinstance(row.pipelines, list) else origin.pipelines
        everything = tuple(named) == (ALL_PIPELINES,)
        for name in (shown or (ALL_PIPELINES,)) if everything else named:
            found.setdefault(name, []).append(attempt)
    return found


class _Origin(msgspec.Struct, frozen=True):
    """What a campaign's specification says that matters here."""

    model: str
    release: int
    pipelines: tuple[str, ...] = ("main",)
    priority: int = 0
    since: float = 0.0


def _origins(connection: Connection, rows: Any) -> dict[str, _Origin]:
    """By id, the campaigns and default releases of ``rows``. One that this version cannot read is left out."""
    found: dict[str, _Origin] = {}
    query = select(campaigns.c.id, campaigns.c.spec, campaigns.c.created_at)
    for each in connection.execute(query.where(campaigns.c.id.in_({row.campaign for row in rows if row.campaign}))):
        try:
            found[each.id] = msgspec.structs.replace(msgspec.convert(each.spec, _Origin), since=each.created_at)
        except msgspec.ValidationError:
            continue
    ids = {row.default_release for row in rows if row.default_release}
    for each in connection.execute(select(default_releases).where(default_releases.c.id.in_(ids))):
        found[each.id] = _Origin(each.model, each.release, (each.pipeline,), since=each.set_at)
    return found


def _signed(order: Row[Any]) -> Assignment | None:
    """What the newest assignment says; None if this version cannot read it."""
    try:
        return decode_assignment(base64.b64decode(json.loads(order.envelope)["payload"]))
    except (ProtocolError, ValueError, TypeError, KeyError, binascii.Error):
        return None


def _order(order: Row[Any], signed: Assignment, known: int, pipeline: str) -> SignedOrder:
    target = signed.pipelines.get(pipeline)
    release = None if target is None else (target.model, target.release)
    return SignedOrder(order.counter, order.issued_at, known, release)
