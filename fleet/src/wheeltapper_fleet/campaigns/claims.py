"""Reads what is known of one device for the composition of its assignment. In the caller's transaction.

A row that this version cannot read (a campaign of a newer version, a status that is none) asks for nothing: it is left
out, and the rest is composed without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Row, or_, select

from wheeltapper_fleet.campaigns.rules.default_release import Attempt, Commit, Shown
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.meeting import ENDED_STATES, Claim, Standing, standing_of
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES
from wheeltapper_fleet.campaigns.tables import campaigns, default_releases, executions
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_protocols.wire.messages import Name, Release

__all__ = ["DeviceFacts", "KnownExecution", "device_facts", "known_executions", "releases_shown"]

_ENDED_LOOKED_AT: Final = 200
"""Ended executions of a device that still have a say: the newest ones."""


class _Asks(Struct, frozen=True):
    """What a campaign's specification says of a device; whatever else it says does not matter here."""

    model: Name
    release: Release
    pipelines: tuple[str, ...] = ("main",)
    priority: int = 0


@dataclass(frozen=True)
class DeviceFacts:
    """A device as the fleet knows it: ``shown`` is what each pipeline ran at ``shown_at``, its last status message."""

    id: str
    tags: dict[str, str]
    enrolled_at: float
    revoked: bool
    online: bool
    counter: int
    shown: dict[str, Shown]
    shown_at: float


@dataclass(frozen=True)
class KnownExecution:
    """An execution of a device with its claim, and what it brings. ``at`` is when it came to its state."""

    claim: Claim
    campaign: str | None
    default_release: str | None
    state: str
    resolved: bool
    """Whether its pipelines are stored with it."""
    model: str
    release: int
    deadline_at: float
    assigned_at: float
    at: float

    @property
    def commit(self) -> Commit:
        """What it committed, if it did."""
        return Commit(self.model, self.release, self.at, self.claim.ended)

    @property
    def attempt(self) -> Attempt:
        """How it ended, if it did."""
        return Attempt(self.state, self.at)


def device_facts(connection: Connection, device: str) -> DeviceFacts | None:
    """What is known of ``device``; None if it is not enrolled."""
    row = connection.execute(select(devices).where(devices.c.id == device)).one_or_none()
    if row is None:
        return None
    return DeviceFacts(
        id=row.id,
        tags=row.tags if isinstance(row.tags, dict) else {},
        enrolled_at=row.enrolled_at,
        revoked=row.revoked,
        online=row.online,
        counter=int(row.counter),
        shown=releases_shown(row.status),
        shown_at=row.last_seen_at or 0.0,
    )


def releases_shown(status: Any) -> dict[str, Shown]:
    """What each pipeline runs by a stored status message; empty where there is none that can be read."""
    pipelines = status.get("pipelines") if isinstance(status, dict) else None
    shown: dict[str, Shown] = {}
    for name, value in pipelines.items() if isinstance(pipelines, dict) else ():
        model, release = (value.get("model"), value.get("release")) if isinstance(value, dict) else (None, None)
        shown[name] = (model, release) if isinstance(model, str) and isinstance(release, int) else None
    return shown


def known_executions(connection: Connection, facts: DeviceFacts) -> list[KnownExecution]:
    """The executions of a device that have a say: open ones, committed ones, and attempts at default releases."""
    open_rows = _rows(connection, facts.id, executions.c.state.not_in(TERMINAL_STATES))
    ended = executions.c.state.in_(TERMINAL_STATES) & or_(
        executions.c.state == SUCCESS, executions.c.default_release.is_not(None)
    )
    ended_rows = _rows(connection, facts.id, ended, _ENDED_LOOKED_AT)
    found = [_known(row, facts) for row in (*open_rows, *reversed(ended_rows))]
    return [each for each in found if each is not None]


def _rows(connection: Connection, device: str, which: ColumnElement[bool], most: int | None = None) -> list[Row[Any]]:
    query = (
        select(
            executions,
            campaigns.c.state.label("campaign_state"),
            campaigns.c.spec,
            campaigns.c.created_at,
            default_releases.c.model,
            default_releases.c.release,
            default_releases.c.pipeline,
            default_releases.c.set_at,
            default_releases.c.cleared_at,
        )
        .outerjoin(campaigns, campaigns.c.id == executions.c.campaign)
        .outerjoin(default_releases, default_releases.c.id == executions.c.default_release)
        .where(executions.c.device == device, which)
        .order_by(executions.c.updated_at.desc(), executions.c.id)
        .limit(most)
    )
    return list(connection.execute(query).all())


def _known(row: Row[Any], facts: DeviceFacts) -> KnownExecution | None:
    """The execution of a row; None if it has no say, or cannot be read."""
    default = row.default_release is not None
    state = "RUNNING" if default and row.cleared_at is None else "ABORTED" if default else row.campaign_state
    standing = standing_of(row.state, state)
    pipelines: tuple[str, ...]
    stored = row.pipelines if isinstance(row.pipelines, list) else None
    if default:
        if row.model is None:
            return None
        model, release, priority, pipelines = row.model, row.release, 0, (row.pipeline,)
        standing = standing or Standing.COMMITTED  # an attempt that ended, however it did
    else:
        if standing is None:
            return None
        try:
            asks = msgspec.convert(row.spec, _Asks)
        except msgspec.ValidationError:
            return None
        everything = asks.pipelines == (ALL_PIPELINES,)
        model, release, priority = asks.model, asks.release, asks.priority
        pipelines = tuple(stored) if stored else tuple(sorted(facts.shown)) if everything else asks.pipelines
    claim = Claim(
        execution=row.id,
        origin=row.default_release if default else row.campaign,
        pipelines=tuple(dict.fromkeys(pipelines)),
        standing=standing,
        priority=priority,
        since=row.set_at if default else row.created_at,
        default=default,
        ended=state in ENDED_STATES,
    )
    return KnownExecution(
        claim=claim,
        campaign=row.campaign,
        default_release=row.default_release,
        state=row.state,
        resolved=stored is not None,
        model=model,
        release=release,
        deadline_at=row.deadline_at or 0.0,
        assigned_at=row.assigned_at or 0.0,
        at=row.updated_at,
    )
