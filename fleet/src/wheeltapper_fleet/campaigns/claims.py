"""Reads what is known of devices for the composition of their assignments. In the caller's transaction.

A row that this version cannot read (a campaign of a newer version, a status that is none) asks for nothing: it is left
out, and the rest is composed without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, Text, cast, or_, select

from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.default_release import Attempt, Commit, Shown
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.meeting import ENDED_STATES, Claim, Standing, standing_of
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES
from wheeltapper_fleet.campaigns.store import TERMINAL_STATES
from wheeltapper_fleet.campaigns.tables import campaigns, default_releases, executions
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_protocols.wire.messages import Name, Release, Status

__all__ = [
    "DeviceFacts",
    "KnownExecution",
    "device_facts",
    "executions_of_devices",
    "facts_of_devices",
    "nobody",
    "pipelines_shown",
    "releases_shown",
    "told_by",
]


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
    state: str
    """Where it is in its life; ``not_found`` if it is not known."""
    online: bool
    counter: int
    shown: dict[str, Shown]
    shown_at: float

    @property
    def active(self) -> bool:
        """Whether anything may be asked of it."""
        return self.state == DeviceState.ACTIVE


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
    return facts_of_devices(connection, [device]).get(device)


def told_by(before: DeviceFacts, status: Status, now: float) -> DeviceFacts:
    """What is known of a device after it has said ``status`` at ``now``, Unix seconds; ``before`` is from before it."""
    shown: dict[str, Shown] = {
        name: None if each.model is None or each.release is None else (each.model, each.release)
        for name, each in status.pipelines.items()
    }
    return replace(before, online=status.online, counter=status.counter, shown=shown, shown_at=now)


def nobody(device: str) -> DeviceFacts:
    """What is known of a device that is not enrolled: like one that is not active, nothing is asked of it."""
    return DeviceFacts(device, {}, 0.0, state="not_found", online=False, counter=0, shown={}, shown_at=0.0)


def facts_of_devices(connection: Connection, names: Sequence[str]) -> dict[str, DeviceFacts]:
    """What is known of several devices, in one query. A device that is not enrolled is left out."""
    columns = [devices.c[name] for name in ("id", "tags", "enrolled_at", "state", "online", "counter", "last_seen_at")]
    query = select(*columns, cast(devices.c.status, Text).label("status")).where(devices.c.id.in_(names))
    return {
        row.id: DeviceFacts(
            id=row.id,
            tags=row.tags if isinstance(row.tags, dict) else {},
            enrolled_at=row.enrolled_at or 0.0,
            state=row.state,
            online=row.online,
            counter=int(row.counter),
            shown=_decoded(row.status or "null"),
            shown_at=row.last_seen_at or 0.0,
        )
        for row in connection.execute(query)
    }


def releases_shown(status: Any) -> dict[str, Shown]:
    """What each pipeline runs by a stored status message; empty where there is none that can be read."""
    pipelines = status.get("pipelines") if isinstance(status, dict) else None
    shown: dict[str, Shown] = {}
    for name, value in pipelines.items() if isinstance(pipelines, dict) else ():
        model, release = (value.get("model"), value.get("release")) if isinstance(value, dict) else (None, None)
        shown[name] = (model, release) if isinstance(model, str) and isinstance(release, int) else None
    return shown


def pipelines_shown(connection: Connection) -> dict[str, dict[str, Shown] | None]:
    """By device, what its pipelines run by its last status message; None where it has sent none.

    Cost: the whole fleet is read, as text of which only the pipelines are decoded: some 0.5 s for 100,000 devices.
    """
    rows = connection.execute(select(devices.c.id, cast(devices.c.status, Text))).all()
    return {device: None if status in (None, "null") else _decoded(status) for device, status in rows}


def executions_of_devices(connection: Connection, facts: Mapping[str, DeviceFacts]) -> dict[str, list[KnownExecution]]:
    """By device, its executions that have a say: open ones, committed ones, and attempts at default releases.

    Three queries for all of them; the one that came to its state last is last.
    """
    has_a_say = or_(
        executions.c.state.not_in(TERMINAL_STATES),
        executions.c.state == SUCCESS,
        executions.c.default_release.is_not(None),
    )
    query = select(executions).where(executions.c.device.in_(list(facts)), has_a_say)
    rows = connection.execute(query.order_by(executions.c.updated_at, executions.c.id)).all()
    of_campaigns = _campaigns(connection, {row.campaign for row in rows if row.campaign is not None})
    of_defaults = _default_releases(
        connection, {row.default_release for row in rows if row.default_release is not None}
    )
    known: dict[str, list[KnownExecution]] = {device: [] for device in facts}
    for row in rows:
        origin = of_campaigns.get(row.campaign) or of_defaults.get(row.default_release)
        found = None if origin is None else _known(row, origin, facts[row.device])
        if found is not None:
            known[row.device].append(found)
    return known


class _ShownPipelines(Struct):
    """What a stored status message says of its pipelines."""

    pipelines: dict[str, Any] = {}


_DECODER: Final = msgspec.json.Decoder(_ShownPipelines)


def _decoded(status: str) -> dict[str, Shown]:
    try:
        return releases_shown({"pipelines": _DECODER.decode(status).pipelines})
    except msgspec.DecodeError:
        return {}


@dataclass(frozen=True)
class _Origin:
    """A campaign or a default release, as far as it matters to a device."""

    id: str
    state: str
    model: str
    release: int
    pipelines: tuple[str, ...]
    priority: int
    since: float
    default: bool


def _campaigns(connection: Connection, names: set[str]) -> dict[str, _Origin]:
    found = {}
    for row in connection.execute(select(campaigns).where(campaigns.c.id.in_(names))).all() if names else ():
        try:
            asks = msgspec.convert(row.spec, _Asks)
        except msgspec.ValidationError:
            continue
        found[row.id] = _Origin(
            row.id, row.state, asks.model, asks.release, asks.pipelines, asks.priority, row.created_at, False
        )
    return found


def _default_releases(connection: Connection, names: set[str]) -> dict[str, _Origin]:
    query = select(default_releases).where(default_releases.c.id.in_(names))
    return {
        row.id: _Origin(
            id=row.id,
            state=(CampaignState.RUNNING if row.cleared_at is None else CampaignState.ABORTED).value,
            model=row.model,
            release=row.release,
            pipelines=(row.pipeline,),
            priority=0,
            since=row.set_at,
            default=True,
        )
        for row in (connection.execute(query).all() if names else ())
    }


def _known(row: Row[Any], origin: _Origin, facts: DeviceFacts) -> KnownExecution | None:
    """The execution of a row; None if it has no say."""
    standing = standing_of(row.state, origin.state)
    if standing is None and not origin.default:
        return None
    stored = row.pipelines if isinstance(row.pipelines, list) else None
    everything = origin.pipelines == (ALL_PIPELINES,)
    pipelines = tuple(stored) if stored else tuple(sorted(facts.shown)) if everything else origin.pipelines
    claim = Claim(
        execution=row.id,
        origin=origin.id,
        pipelines=tuple(dict.fromkeys(pipelines)),
        standing=standing or Standing.COMMITTED,  # of a default release: an attempt that ended, however it did
        priority=origin.priority,
        since=origin.since,
        default=origin.default,
        ended=origin.state in ENDED_STATES,
    )
    return KnownExecution(
        claim=claim,
        campaign=row.campaign,
        default_release=row.default_release,
        state=row.state,
        resolved=stored is not None,
        model=origin.model,
        release=origin.release,
        deadline_at=row.deadline_at or 0.0,
        assigned_at=row.assigned_at or 0.0,
        at=row.updated_at,
    )
