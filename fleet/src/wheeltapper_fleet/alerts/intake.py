"""The duty that takes alerts into cases and judges cases, in slices; each slice is one transaction.

An alert opens a case or joins the one of its place (:func:`~wheeltapper_fleet.alerts.case.key_of`). Every case that
changed, and every one whose time has come, is judged by :mod:`wheeltapper_fleet.alerts.triage`; what that says is
stored, logged, and told to who wants to know.

Invariants:
    * Each alert is taken once, in the order of its number, in the transaction that marks it as taken.
    * The work of a turn is bounded: at most :data:`SLICE` alerts or cases, however many there are; queries are as many
      as for one, and statements that write a few for each case that changes.
    * Nobody is told of what needs nobody, nor twice of the same severity within an episode.
    * An alert that cannot be taken is logged, left without a case, and stops none of the others.

What this module does not do: deliver what is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, bindparam, select, text, update

from wheeltapper_fleet.alerts import case_store, triage
from wheeltapper_fleet.alerts.announcing import occurrence_of
from wheeltapper_fleet.alerts.case import (
    TRIAGE,
    Case,
    CaseAlert,
    CaseEvent,
    Kind,
    Policy,
    Where,
    act,
    is_worse,
    key_of,
    opened,
    reopened,
    taken,
)
from wheeltapper_fleet.alerts.channel import KnownChannels, channel_of
from wheeltapper_fleet.alerts.findings import Findings
from wheeltapper_fleet.alerts.policy import read_policy
from wheeltapper_fleet.alerts.release_channels import ReleaseChannels
from wheeltapper_fleet.alerts.releases import adopt, grown, release_suspects
from wheeltapper_fleet.alerts.service import resolve_child
from wheeltapper_fleet.alerts.silences import Silence, silences_within, silencing
from wheeltapper_fleet.alerts.tables import alerts, cases
from wheeltapper_fleet.assets.lookup import Place, places_of, spans_by_source
from wheeltapper_fleet.assets.rules import point_of
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind
from wheeltapper_fleet.telemetry.tables import latest

__all__ = ["SLICE", "Triage"]

_LOG: Final = logging.getLogger(__name__)
SLICE: Final = 250
"""Alerts or cases of one transaction."""
_GIVEN_UP_SECONDS: Final = 86_400.0
_WAITING: Final = select(alerts.c.id).where(text("triaged = FALSE")).order_by(alerts.c.id)
_ALERTS: Final = select(alerts)
Announce = Callable[[Connection, Sequence[Occurrence]], None]


@dataclass
class _Slice:
    """What the cases of one transaction have in common: when, where, what is silent, what is to be told."""

    connection: Connection
    now: float
    places: Mapping[str, Place]
    silent: Sequence[Silence]
    scores: Mapping[tuple[str, str], float]
    """The newest scores of pipelines."""
    told: list[Occurrence] = field(default_factory=list)
    changes: case_store.Changes = field(default_factory=case_store.Changes)
    parents: dict[int, Case] = field(default_factory=dict)
    """The cases about releases that were read."""

    def parent(self, number: int) -> Case:
        """A case about a release, read once."""
        if number not in self.parents:
            self.parents[number] = case_store.find_case(self.connection, number)
        return self.parents[number]


class Triage:
    """Takes alerts and judges cases.

    Args:
        engine: the fleet's database.
        announce: writes down, in the same transaction, what is to be told.
    """

    def __init__(self, engine: Engine, announce: Announce = lambda connection, occurrences: None) -> None:
        self._engine = engine
        self._announce = announce
        self._policy = Policy()
        self._findings = Findings()
        self._channels = ReleaseChannels()

    def turn(self, now: float) -> bool:
        """Take the alerts that wait, then judge the cases whose time has come; whether there is more to do at once."""
        with reading(self._engine) as connection:
            self._policy = read_policy(connection)
        return self._take_alerts(now) or self._look_again(now)

    def _take_alerts(self, now: float) -> bool:
        with reading(self._engine) as connection:
            waiting = connection.execute(_WAITING.limit(SLICE)).scalars().all()
        if waiting:
            self._each(waiting, now, self._take, self._give_up_alert)
        return len(waiting) == SLICE

    def _each(
        self,
        numbers: Sequence[int],
        now: float,
        work: Callable[[Connection, Sequence[int], float], None],
        give_up: Callable[[Connection, int, float], None],
    ) -> None:
        """Do ``work`` on all in one transaction; if one of them spoils it, on each by itself."""
        try:
            with self._engine.begin() as connection:
                case_store.lock_cases(connection)
                work(connection, numbers, now)
        except Exception as error:  # one thing that breaks stays one thing
            if database_fault(error) is not None:
                raise
            if len(numbers) > 1:
                for number in numbers:
                    self._each([number], now, work, give_up)
                return
            _LOG.exception("triage leaves %s %d as it is", work.__name__.strip("_"), numbers[0])
            with self._engine.begin() as connection:
                give_up(connection, numbers[0], now)

    def _give_up_alert(self, connection: Connection, number: int, now: float) -> None:
        connection.execute(update(alerts).where(alerts.c.id == number).values(triaged=True))

    def _give_up_case(self, connection: Connection, number: int, now: float) -> None:
        connection.execute(update(cases).where(cases.c.id == number).values(look_at=now + _GIVEN_UP_SECONDS))

    def _take(self, connection: Connection, numbers: Sequence[int], now: float) -> None:
        """Take alerts into their cases, then judge those cases."""
        query = _ALERTS.where(alerts.c.id.in_(numbers), alerts.c.triaged.is_(False)).order_by(alerts.c.id)
        rows = connection.execute(query).all()
        if not rows:
            return
        channels = self._channels_of(connection, rows)
        points = _points_of(connection, rows, channels)
        places = places_of(connection, {point for point in points.values() if point is not None})
        sites = _sites_of(connection, {row.device for row in rows})
        first = min(row.happened_at for row in rows)
        silent = silences_within(connection, min(first, now), now, {row.device for row in rows}, now)
        batch = _Slice(connection, now, places, silent, {})
        taken_alerts = []
        for row in rows:
            point = points[row.id] if points[row.id] in places else None
            quiet = silencing(silent, row.device, point, places, row.happened_at) is not None
            taken_alerts.append((_alert(row, quiet), _where(point, places, sites.get(row.device))))
        keys = [key_of(*each) for each in taken_alerts]
        known = case_store.newest_by_key(connection, keys)
        changed: dict[str, Case] = {}
        for key, (alert, where) in zip(keys, taken_alerts, strict=True):
            case = self._join(batch, changed.get(key, known.get(key)), key, alert, where)
            if case is not None:
                changed[key] = case
        fresh = [key for key, case in changed.items() if not case.id]
        for key, case in zip(fresh, case_store.insert_cases(connection, [changed[key] for key in fresh]), strict=True):
            changed[key] = case
            batch.changes.log(case.id, now, TRIAGE, "opened")
        marked = [_marked(changed.get(key), *each, channels) for key, each in zip(keys, taken_alerts, strict=True)]
        _mark(connection, marked)
        self._judge_all(batch, changed.values())

    def _channels_of(self, connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, str | None]:
        """The channel that each alert is about, by the alert's number."""
        known = self._channels.read(connection, {(row.model, row.release) for row in rows})
        return {row.id: channel_of(_reasons(row), known.get((row.model, row.release), KnownChannels())) for row in rows}

    def _join(self, batch: _Slice, case: Case | None, key: str, alert: CaseAlert, where: Where) -> Case | None:
        """The case that an alert joins or opens; None for one that clears nothing."""
        stale = (
            case is not None
            and case.resolved_at is not None
            and alert.happened_at > case.resolved_at + self._policy.reopen_seconds
        )
        if case is None or (stale and alert.raised):
            if not alert.raised:
                return None
            return opened(key=key, alert=alert, where=where, now=batch.now)
        after = taken(case, alert, batch.now, self._policy)
        if where.point is not None:
            after = replace(after, machine=where.machine, site=where.site, criticality=where.criticality)
        if after.episode > case.episode:
            batch.changes.log(case.id, batch.now, TRIAGE, "reopened", f"alert {alert.id}")
        return after

    def _look_again(self, now: float) -> bool:
        """Judge the cases whose time has come."""
        with reading(self._engine) as connection:
            due = [case.id for case in case_store.due_cases(connection, now, SLICE)]
        if due:
            self._each(due, now, self._look, self._give_up_case)
        return len(due) == SLICE

    def _look(self, connection: Connection, numbers: Sequence[int], now: float) -> None:
        due = [case for case in case_store.find_cases(connection, numbers) if case.look_at is not None]
        places = places_of(connection, {case.point for case in due if case.point is not None})
        silent = silences_within(connection, now, now, {case.device for case in due}, now)
        batch = _Slice(connection, now, places, silent, _scores_of(connection, due))
        again = []
        for case in due:
            if case.look_at is None or case.look_at > now:
                continue  # somebody changed it meanwhile
            if not case.resolved:
                again.append(case)
            elif case.raised and case.resolved_by != TRIAGE:
                batch.changes.log(case.id, now, TRIAGE, "reopened", "still raised after its quiet time")
                again.append(reopened(case, now, now))
            else:
                batch.changes.put(replace(case, look_at=None))
        self._judge_all(batch, again)

    def _judge_all(self, batch: _Slice, changed: Iterable[Case]) -> None:
        """Judge and store the cases of one transaction, and the cases about releases that some of them belong to."""
        waiting = list(changed)
        self._findings.read(batch.connection, {case.model for case in waiting}, batch.now)
        suspects = release_suspects(batch.connection, waiting, batch.now, self._policy)
        parts: dict[int, list[Case]] = {}
        for case in waiting:
            if case.resolved:
                batch.changes.put(case)
                continue
            suspect = suspects.get((case.model, case.release))
            if suspect is not None and case.parent is None and case.kind != Kind.RELEASE:
                case = adopt(case, suspect)
                if case.parent is not None:
                    parts.setdefault(suspect.id, []).append(case)
            self._judge(batch, case)
        for suspect in suspects.values():
            if suspect.id in parts or suspect.look_at is None:
                present = batch.changes.find(suspect.id) or case_store.find_case(batch.connection, suspect.id)
                self._judge(batch, grown(present, parts.get(suspect.id, [])))
        batch.changes.write(batch.connection)
        self._announce(batch.connection, batch.told)

    def _judge(self, batch: _Slice, case: Case) -> None:
        now = batch.now
        if case.parent is not None and batch.parent(case.parent).resolved:
            resolve_child(batch.connection, case, batch.parent(case.parent), now)
            return
        silence = silencing(batch.silent, case.device, case.point, batch.places, now)
        true_faults, false_alarms = self._findings.of(case.model)
        facts = triage.Facts(
            silenced_until=None if silence is None else silence.to_at,
            silence_reason="" if silence is None else silence.reason,
            score=batch.scores.get((case.device, case.pipeline)) if case.kind == Kind.MACHINE else None,
            true_faults=true_faults,
            false_alarms=false_alarms,
        )
        judged = triage.judge(case, facts, now, self._policy)
        after = replace(case, attention=judged.attention, why=judged.why, risk=judged.risk, look_at=judged.look_at)
        if judged.settle:
            after = replace(act(after, CaseEvent.SETTLE, now), resolved_at=now, resolved_by=TRIAGE)
        kind = None
        if judged.attention == triage.PERSON and is_worse(case.severity, case.told):
            kind = OccurrenceKind.CASE_WORSE if case.told is not None else OccurrenceKind.CASE_OPENED
            if case.told is None and case.episode > 1:
                kind = OccurrenceKind.CASE_REOPENED
            after = replace(after, told=case.severity)
        if (after.attention, after.state) != (case.attention, case.state):
            event = "settled" if judged.settle else f"triage: {judged.attention}"
            batch.changes.log(case.id, now, TRIAGE, event, "; ".join(judged.why))
        stored = batch.changes.put(after)
        if kind is not None:
            batch.told.append(occurrence_of(kind, stored, now))


def _reasons(row: Row[Any]) -> list[dict[str, Any]]:
    return [each for each in row.reasons if isinstance(each, dict)] if isinstance(row.reasons, list) else []


def _points_of(
    connection: Connection, rows: Sequence[Row[Any]], channels: Mapping[int, str | None]
) -> dict[int, str | None]:
    """The point that each alert belongs to, by the alert's number."""
    spans = spans_by_source(connection, {(row.device, row.pipeline) for row in rows})
    found = {}
    for row in rows:
        features = [str(each["feature"]) for each in _reasons(row) if "feature" in each]
        of_source = spans.get((row.device, row.pipeline), ())
        found[row.id] = point_of(of_source, row.happened_at, features, channels[row.id])
    return found


def _sites_of(connection: Connection, names: set[str]) -> dict[str, str | None]:
    """The sites that devices say they are on, for what is mapped to no point."""
    query = select(devices.c.id, devices.c.site).where(devices.c.id.in_(sorted(names)))
    return {row.id: row.site for row in connection.execute(query)}


def _scores_of(connection: Connection, due: Sequence[Case]) -> dict[tuple[str, str], float]:
    """The newest scores of the pipelines of cases, where they are not older than the case's newest alert."""
    since = {(case.device, case.pipeline): case.last_at for case in due}
    columns = (latest.c.device, latest.c.pipeline, latest.c.at, latest.c.score)
    query = select(*columns).where(latest.c.device.in_(sorted({device for device, _ in since})))
    return {
        (row.device, row.pipeline): row.score
        for row in connection.execute(query)
        if row.score is not None and row.at is not None and row.at >= since.get((row.device, row.pipeline), row.at + 1)
    }


def _where(point: str | None, places: Mapping[str, Place], site: str | None) -> Where:
    if point is None:
        return Where(site=site)
    place = places[point]
    return Where(point=point, machine=place.machine, site=place.site, criticality=place.criticality)


def _alert(row: Row[Any], silenced: bool) -> CaseAlert:
    names = (
        "id",
        "device",
        "pipeline",
        "model",
        "release",
        "severity",
        "raised",
        "score",
        "happened_at",
        "label",
        "zone",
    )
    return CaseAlert(**{name: row._mapping[name] for name in names}, silenced=silenced)


def _marked(case: Case | None, alert: CaseAlert, where: Where, channels: Mapping[int, str | None]) -> dict[str, Any]:
    found = {"b_id": alert.id, "case": None if case is None else case.id, "b_point": where.point}
    return {**found, "b_channel": channels[alert.id], "quiet": alert.silenced}


def _mark(connection: Connection, joined: list[dict[str, Any]]) -> None:
    """Mark alerts as taken, each with its case."""
    values = {
        "triaged": True,
        "case_id": bindparam("case"),
        "point": bindparam("b_point"),
        "channel": bindparam("b_channel"),
        "silenced": bindparam("quiet"),
    }
    connection.execute(update(alerts).where(alerts.c.id == bindparam("b_id")).values(values), joined)
