"""Telemetry gates listen to the devices of running campaigns, and keep what each gate says. A duty of the engine.

Invariants:
    * A device is heard once, and what a gate concluded of it is stored with the fact that it was heard, in one
      transaction: whatever dies, nothing counts twice.
    * Readings come from whole buckets of the roll-ups before the update was assigned and after it was committed
      (:func:`wheeltapper_fleet.campaigns.rules.panel.spans`). A device is heard when it has told of a time after them,
      or :data:`SETTLE_SECONDS` after their end; what comes later is not heard any more.
    * A wave has a verdict only from its own look: until then it is held.

Cost of one look, every :data:`EVERY_SECONDS`: nothing for campaigns without gates or that do not run; for each other
one at most :data:`HEARD_AT_ONCE` devices, each with four short index ranges. Drawing a panel reads the devices of the
wave and of those after it, once a wave; while the panel is not full it reads those of the wave, fewer than it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.campaigns.gate_tables import campaign_gates, gate_panels, gate_points
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState, Tick
from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.gates import (
    BUCKET_SECONDS,
    CrashFreeGate,
    Gate,
    GatePoint,
    GateResult,
    GateState,
    Reading,
    Verdict,
    begin,
    count_ending,
    is_worth_a_point,
    judge,
    observe,
    point_of,
    read_state,
    write_state,
)
from wheeltapper_fleet.campaigns.rules.panel import PANEL, Span, draw, spans
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec, read_spec
from wheeltapper_fleet.campaigns.rules.waves import WaveState
from wheeltapper_fleet.campaigns.store import log_campaign, look_at
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.db.engine import reading, upsert_statement
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.tables import rollups
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["EVERY_SECONDS", "HEARD_AT_ONCE", "SETTLE_SECONDS", "Observer", "gated_tick"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
EVERY_SECONDS: Final = 30.0
HEARD_AT_ONCE: Final = 100
SETTLE_SECONDS: Final = 900.0
_OPEN: Final = (WaveState.RUNNING.value, WaveState.SOAKING.value)


@dataclass
class _Look:
    """One look at a campaign: what it read, and what it changes."""

    campaign: str
    spec: CampaignSpec
    wave: int
    states: list[GateState]
    drawn: list[tuple[str, str | None]] = field(default_factory=list)
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By device, the columns of its panel row that change."""
    size: int = 0
    """Devices of the wave that are heard or can still be: the ones that committed."""
    ended: int = 0
    """Devices of the wave that kept the release or rolled it back."""
    more: bool = False
    noted: dict[int, int] = field(default_factory=dict)
    """By gate, how many devices had spoken at the newest point of its curve."""
    points: list[tuple[int, GatePoint]] = field(default_factory=list)
    """New points of the curves, each with its gate."""


class Observer:
    """Listens to running campaigns that have gates. Used by one thread.

    Args:
        database: the fleet's database.
    """

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._failing: dict[str, str] = {}

    def look(self, now: float) -> bool:
        """Look at every running campaign that has gates; returns whether there is more to hear at once.

        What goes wrong with one campaign is logged once, holds its wave, and stops no other.
        """
        query = select(campaigns).where(campaigns.c.state == CampaignState.RUNNING.value).order_by(campaigns.c.id)
        with reading(self._database) as connection:
            rows = [
                row for row in connection.execute(query).all() if isinstance(row.spec, dict) and row.spec.get("gates")
            ]
        more = False
        for row in rows:
            try:
                more |= self._look(row, now)
            except (FleetError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
                if self._failing.get(row.id) != reason:
                    _LOG.error(
                        "the gates of campaign %s cannot be looked at; its wave is held: %s", row.id, reason
                    )  # one line is enough
                self._failing[row.id] = reason
                continue
            self._failing.pop(row.id, None)
        return more

    def _look(self, row: Row[Any], now: float) -> bool:
        spec = read_spec(row.spec)
        wave = next((i for i, each in enumerate(row.waves) if each["state"] in _OPEN), None)
        if wave is None:
            return False
        with reading(self._database) as connection:
            look = _Look(row.id, spec, wave, _states(connection, row.id, spec.gates))
            look.noted = _noted(connection, row.id)
            _listen(connection, look, now)
        results = [
            judge(state, wave=wave, size=look.ended if isinstance(state.gate, CrashFreeGate) else look.size)
            for state in look.states
        ]
        with self._database.begin() as connection:
            _store(connection, look, results, now)
        return look.more


def gated_tick(connection: Connection, campaign: Campaign, now: float) -> Tick:
    """A tick of ``campaign`` at ``now`` (Unix seconds) with what its gates say of the wave that is open.

    A gate that has not looked at the wave yet holds it. One query, none for a campaign without gates.
    """
    index = next((i for i, wave in enumerate(campaign.waves) if wave.state.value in _OPEN), None)
    if not campaign.spec.gates or campaign.state is not CampaignState.RUNNING or index is None:
        return Tick(now)
    rows = connection.execute(select(campaign_gates).where(campaign_gates.c.campaign == campaign.id)).all()
    if broken := [row.sentence for row in rows if row.verdict == Verdict.BROKEN.value]:
        return Tick(now, broken=f"a gate is broken: {'; '.join(broken)}")
    looked = {row.gate: row for row in rows if row.wave == index}
    held = [row.sentence for row in looked.values() if row.verdict != Verdict.PASS.value]
    if len(looked) < len(campaign.spec.gates):
        held.append("its gates have not looked at this wave yet")
    wave, wait = campaign.waves[index], campaign.spec.gate_wait_seconds
    if held and wave.state is WaveState.SOAKING and now >= wave.since + campaign.spec.soak_seconds + wait:
        return Tick(now, broken=f"gates have waited {wait:g} s for data: {'; '.join(held)}")
    return Tick(now, held="; ".join(held))


def _states(connection: Connection, campaign: str, gates: Sequence[Gate]) -> list[GateState]:
    query = select(campaign_gates.c.gate, campaign_gates.c.state).where(campaign_gates.c.campaign == campaign)
    stored = {row.gate: row.state for row in connection.execute(query)}
    return [read_state(gate, stored[i]) if i in stored else begin(gate) for i, gate in enumerate(gates)]


def _listen(connection: Connection, look: _Look, now: float) -> None:
    """Draw the panel of the wave, and hear those of all waves that can be heard now."""
    mine = gate_panels.c.campaign == look.campaign
    _draw(connection, look)
    open_ones = (
        select(
            gate_panels, executions.c.state, executions.c.assigned_at, executions.c.updated_at, executions.c.pipelines
        )
        .join(
            executions,
            (executions.c.campaign == gate_panels.c.campaign) & (executions.c.device == gate_panels.c.device),
        )
        .where(mine, gate_panels.c.spoken.is_(None))
        .order_by(executions.c.updated_at, gate_panels.c.device)
    )
    for row in connection.execute(open_ones).all():
        if len(look.heard) == HEARD_AT_ONCE:
            look.more = True
            break
        if is_terminal(row.state) and (changed := _hear(connection, look, row, now)):
            look.heard[row.device] = changed
            _note(look)
    _count(connection, look)


def _noted(connection: Connection, campaign: str) -> dict[int, int]:
    mine = gate_points.c.campaign == campaign
    query = select(gate_points.c.gate, func.max(gate_points.c.devices)).where(mine).group_by(gate_points.c.gate)
    return {row[0]: row[1] for row in connection.execute(query)}


def _note(look: _Look) -> None:
    """Add a point to the curve of each gate of which enough more devices have spoken."""
    for number, state in enumerate(look.states):
        point = point_of(state)
        if point is not None and is_worth_a_point(look.noted.get(number, 0), point.devices):
            look.points.append((number, point))
            look.noted[number] = point.devices


def _draw(connection: Connection, look: _Look) -> None:
    """Draw those devices of the wave that have no place in its panel, while it is not full: at first all of them, later
    those that took the place of others."""
    panel = select(gate_panels.c.device, gate_panels.c.control, gate_panels.c.wave)
    rows = connection.execute(panel.where(gate_panels.c.campaign == look.campaign)).all()
    most = PANEL - sum(row.wave == look.wave for row in rows)
    if most <= 0:
        return
    known = {row.device for row in rows}
    of_wave = (executions.c.campaign == look.campaign, executions.c.wave == look.wave)
    devices = connection.execute(select(executions.c.device).where(*of_wave).order_by(executions.c.device)).scalars()
    new = [device for device in devices if device not in known]
    if not new:
        return
    pending = (
        executions.c.campaign == look.campaign,
        executions.c.wave > look.wave,
        executions.c.state == PENDING,
    )
    later = connection.execute(select(executions.c.device).where(*pending).order_by(executions.c.device)).scalars()
    served = {row.control for row in rows if row.control is not None}
    look.drawn = draw(new, list(later), served, most)
    look.more = True


def _hear(connection: Connection, look: _Look, row: Row[Any], now: float) -> dict[str, Any]:
    """Hear one device whose execution has ended; gives what changes of its panel row."""
    changed: dict[str, Any] = {}
    if row.state not in (SUCCESS, ExecutionState.ROLLED_BACK):
        return changed  # it never activated the release; it may be tried again
    if row.ending is None:
        changed["ending"] = "yes"
        look.states = [
            count_ending(each, row.wave, row.state == SUCCESS) if isinstance(each.gate, CrashFreeGate) else each
            for each in look.states
        ]
    seconds = [gate.observe_seconds for gate in look.spec.gates if not isinstance(gate, CrashFreeGate)]
    if row.state != SUCCESS:
        return changed
    if not seconds:
        return {**changed, "spoken": "no"}
    before, after = spans(row.assigned_at, row.updated_at, max(seconds))
    pipelines = row.pipelines or [name for name in look.spec.pipelines if name != ALL_PIPELINES]
    if now < after.end or (
        now < after.end + SETTLE_SECONDS and not _told(connection, row.device, pipelines, after.end)
    ):
        return changed
    if _served(connection, look.campaign, row.device, before.begin):
        return {**changed, "spoken": "no"}
    control = row.control if _untouched(connection, look, row.control, after) else None
    states = []
    for state in look.states:
        if isinstance(state.gate, CrashFreeGate):
            states.append(state)
            continue
        times = spans(row.assigned_at, row.updated_at, state.gate.observe_seconds)
        mine = (_read(connection, row.device, pipelines, times[0]), _read(connection, row.device, pipelines, times[1]))
        other = None
        if control is not None:
            other = (_read(connection, control, pipelines, times[0]), _read(connection, control, pipelines, times[1]))
        states.append(observe(state, row.wave, mine, other))
    look.states = states
    return {**changed, "spoken": "yes", "until": float(after.end), "control": control}


def _untouched(connection: Connection, look: _Look, control: str | None, after: Span) -> bool:
    """Whether ``control`` was told nothing by this campaign until the end of ``after``."""
    if control is None:
        return False
    mine = (executions.c.campaign == look.campaign, executions.c.device == control)
    row = connection.execute(select(executions.c.state, executions.c.assigned_at).where(*mine)).one_or_none()
    return row is not None and (row.state == PENDING or (row.assigned_at or 0.0) >= after.end)


def _served(connection: Connection, campaign: str, device: str, since: float) -> bool:
    """Whether another device was compared with ``device`` over a time that reaches past ``since``."""
    mine = (gate_panels.c.campaign == campaign, gate_panels.c.control == device, gate_panels.c.until > since)
    return connection.execute(select(gate_panels.c.device).where(*mine).limit(1)).first() is not None


def _told(connection: Connection, device: str, pipelines: Sequence[str], since: int) -> bool:
    """Whether ``device`` has told of a time from ``since`` (Unix seconds) on."""
    mine = _of(device, pipelines)
    return (
        connection.execute(select(rollups.c.bucket).where(*mine, rollups.c.bucket >= since).limit(1)).first()
        is not None
    )


def _of(device: str, pipelines: Sequence[str]) -> tuple[Any, ...]:
    return (
        rollups.c.device == device,
        *((rollups.c.pipeline.in_(pipelines),) if pipelines else ()),
        rollups.c.span == BUCKET_SECONDS,
    )


def _read(connection: Connection, device: str, pipelines: Sequence[str], span: Span) -> Reading:
    columns = {
        "windows": rollups.c.windows,
        "missing": rollups.c.missing,
        "scored": rollups.c.scored,
        "score_sum": rollups.c.score_sum,
        "latencies": rollups.c.latency_count,
        "latency_sum_ms": rollups.c.latency_sum_ms,
        "alarms": rollups.c.warnings + rollups.c.criticals,
    }
    query = select(*(func.coalesce(func.sum(column), 0).label(name) for name, column in columns.items())).where(
        *_of(device, pipelines), rollups.c.bucket >= span.begin, rollups.c.bucket < span.end
    )
    found = connection.execute(query).one()._mapping  # SQLAlchemy's public name of a row's columns
    whole = {name: int(found[name]) for name in columns if not name.endswith(("_sum", "_ms"))}
    return Reading(**whole, score_sum=float(found["score_sum"]), latency_sum_ms=float(found["latency_sum_ms"]))


def _count(connection: Connection, look: _Look) -> None:
    """How many devices of the wave can speak, as they will be stored after this look."""
    query = (
        select(gate_panels.c.device, gate_panels.c.spoken, gate_panels.c.ending, executions.c.state)
        .join(
            executions,
            (executions.c.campaign == gate_panels.c.campaign) & (executions.c.device == gate_panels.c.device),
        )
        .where(gate_panels.c.campaign == look.campaign, gate_panels.c.wave == look.wave)
    )
    for row in connection.execute(query):
        spoken = look.heard.get(row.device, {}).get("spoken", row.spoken)
        look.size += row.state == SUCCESS and spoken != "no"
        look.ended += row.state in (SUCCESS, ExecutionState.ROLLED_BACK.value)


def _store(connection: Connection, look: _Look, results: Sequence[GateResult], now: float) -> None:
    if look.drawn:
        rows = [
            {"campaign": look.campaign, "device": device, "wave": look.wave, "control": control}
            for device, control in look.drawn
        ]
        connection.execute(gate_panels.insert(), rows)
    for device, changed in look.heard.items():
        mine = (gate_panels.c.campaign == look.campaign, gate_panels.c.device == device)
        connection.execute(gate_panels.update().where(*mine).values(changed))
    query = select(campaign_gates.c.gate, campaign_gates.c.verdict).where(campaign_gates.c.campaign == look.campaign)
    before = {row.gate: row.verdict for row in connection.execute(query)}
    statement = upsert_statement(connection, campaign_gates)
    for number, (state, result) in enumerate(zip(look.states, results, strict=True)):
        values = {
            "kind": result.kind,
            "wave": look.wave,
            "state": write_state(state),
            "verdict": result.verdict.value,
            "sentence": result.sentence,
            "devices": result.devices,
            "p_value": result.p_value,
            "judged_at": now,
        }
        row = {"campaign": look.campaign, "gate": number, **values}
        connection.execute(
            statement.values(row).on_conflict_do_update(index_elements=["campaign", "gate"], set_=values)
        )
        if before.get(number) != result.verdict.value:
            label = f"wave {look.wave + 1}: {result.verdict.value}: {result.sentence}"
            log_campaign(connection, look.campaign, _WHO, "gate", label, now)
            look_at(connection, look.campaign, now)
    if look.points:
        points = [{"campaign": look.campaign, "gate": gate, "at": now, **asdict(each)} for gate, each in look.points]
        connection.execute(gate_points.insert(), points)
