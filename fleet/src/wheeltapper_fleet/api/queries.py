"""What the admin API and the page read, straight from the tables. Nothing here changes anything."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet import tables
from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Queries"]

_SCORES_SHOWN = 120


class Queries:
    """Reads through ``engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def devices(self) -> list[schemas.DeviceView]:
        """All devices, by id."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(tables.devices).order_by(tables.devices.c.id)).all()
            return [_device(connection, row) for row in rows]

    def device(self, device: str) -> schemas.DeviceView:
        """One device.

        Raises:
            FleetError: ``device.not_found``.
        """
        with reading(self._engine) as connection:
            row = connection.execute(select(tables.devices).where(tables.devices.c.id == device)).first()
            if row is None:
                raise FleetError("device.not_found", f"there is no device {device[:80]!r}", 404)
            return _device(connection, row)

    def captures(self, device: str | None = None) -> list[schemas.CaptureView]:
        """Recordings asked for or received, newest first."""
        commands, captures = tables.commands, tables.captures
        query = select(commands, captures.c.sha256, captures.c.length, captures.c.received_at).select_from(
            commands.outerjoin(captures, captures.c.command == commands.c.id)
        )
        query = query.order_by(commands.c.created_at.desc()).limit(1000)
        if device is not None:
            query = query.where(commands.c.device == device)
        with reading(self._engine) as connection:
            rows = [row for row in connection.execute(query) if _body(row).get("type") == "capture"]
            unasked = select(captures).where(captures.c.command.not_in(select(commands.c.id)))
            unasked = unasked.order_by(captures.c.received_at.desc()).limit(1000)
            if device is not None:
                unasked = unasked.where(captures.c.device == device)
            by_rule = connection.execute(unasked).all()
        views = [*(_capture(row) for row in rows), *(_capture_by_rule(row) for row in by_rule)]
        return sorted(views, key=lambda view: view.created_at or 0.0, reverse=True)[:1000]

    def capture_sha256(self, command: str) -> str:
        """The SHA-256 of the recording that answers ``command``.

        Raises:
            FleetError: ``capture.not_found``.
        """
        with reading(self._engine) as connection:
            captures = tables.captures
            row = connection.execute(select(captures.c.sha256).where(captures.c.command == command)).first()
        if row is None:
            raise FleetError("capture.not_found", f"no recording has come for {command[:80]!r} (yet)", 404)
        return str(row.sha256)

    def releases(self) -> list[schemas.ReleaseView]:
        """All releases, by model and number."""
        table = tables.releases
        columns = [table.c[name] for name in schemas.ReleaseView.model_fields]
        with reading(self._engine) as connection:
            rows = connection.execute(select(*columns).order_by(table.c.model, table.c.release))
            return [schemas.ReleaseView(**row._mapping) for row in rows]

    def campaigns(self) -> list[schemas.CampaignView]:
        """All campaigns, newest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(tables.campaigns).order_by(tables.campaigns.c.created_at.desc())).all()
            counts = _execution_counts(connection)
            return [_campaign(row, counts[row.id]) for row in rows]

    def campaign(self, campaign: str) -> schemas.CampaignDetail:
        """One campaign with its executions and its log.

        Raises:
            FleetError: ``campaign.not_found``.
        """
        executions, log = tables.executions, tables.campaign_log
        with reading(self._engine) as connection:
            row = connection.execute(select(tables.campaigns).where(tables.campaigns.c.id == campaign)).first()
            if row is None:
                raise FleetError("campaign.not_found", f"there is no campaign {campaign[:80]!r}", 404)
            attempts = connection.execute(
                select(executions)
                .where(executions.c.campaign == campaign)
                .order_by(executions.c.wave, executions.c.device)
            ).all()
            entries = connection.execute(select(log).where(log.c.campaign == campaign).order_by(log.c.id)).all()
            view = _campaign(row, _execution_counts(connection)[campaign])
        fields = schemas.ExecutionView.model_fields
        return schemas.CampaignDetail(
            **view.model_dump(),
            execution_list=[
                schemas.ExecutionView(**{name: item._mapping[name] for name in fields}) for item in attempts
            ],
            log=[schemas.LogEntry(at=item.at, who=item.who, event=item.event, detail=item.detail) for item in entries],
        )

    def alerts(self, limit: int = 200, after_id: int = 0) -> list[schemas.AlertView]:
        """The newest alerts, newest first."""
        table = tables.alerts
        fields = schemas.AlertView.model_fields
        query = select(table).where(table.c.id > after_id).order_by(table.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [schemas.AlertView(**{name: row._mapping[name] for name in fields}) for row in rows]

    def summary(self) -> schemas.Summary:
        """The fleet in numbers."""
        devices = tables.devices
        with reading(self._engine) as connection:
            states = connection.execute(select(devices.c.id, devices.c.online)).all()
            records = _record_totals(connection, [row.id for row in states])
            telemetry = select(func.count()).select_from(tables.records).where(tables.records.c.kind == "telemetry")
            windows = connection.execute(telemetry).scalar_one()
        return schemas.Summary(
            devices_enrolled=len(states),
            devices_online=sum(bool(row.online) for row in states),
            windows=windows,
            records=records,
            releases=self.releases(),
            campaigns=self.campaigns(),
            alerts=self.alerts(),
        )


def _record_totals(connection: Connection, names: list[str]) -> dict[str, schemas.SpoolTotals]:
    records, spools, refused = tables.records, tables.spools, tables.refused
    stored: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    dropped: dict[str, int] = defaultdict(int)
    highest: dict[tuple[str, str], tuple[int, int]] = {}
    grouped = select(records.c.device, records.c.epoch, func.count().label("n"), func.max(records.c.seq).label("top"))
    for row in connection.execute(grouped.group_by(records.c.device, records.c.epoch)):
        stored[row.device] += row.n
        highest[(row.device, row.epoch)] = (row.n, row.top)
    for row in connection.execute(select(spools)):
        count, top = highest.get((row.device, row.epoch), (0, 0))
        dropped[row.device] += row.dropped
        missing[row.device] += max(0, max(top, row.contiguous) - count - row.dropped)
    sums = select(refused.c.device, func.sum(refused.c.count).label("n")).group_by(refused.c.device)
    refusals = {row.device: int(row.n) for row in connection.execute(sums)}
    return {
        name: schemas.SpoolTotals(
            stored=stored[name], missing=missing[name], dropped=dropped[name], refused=refusals.get(name, 0)
        )
        for name in names
    }


def _device(connection: Connection, row: Row[Any]) -> schemas.DeviceView:
    status: dict[str, Any] = row.status or {}
    records = tables.records
    query = (
        select(records.c.t_s, records.c.score, records.c.severity)
        .where(records.c.device == row.id, records.c.score.is_not(None))
        .order_by(records.c.received_at.desc(), records.c.seq.desc())
        .limit(_SCORES_SHOWN)
    )
    newest = connection.execute(query).all()
    return schemas.DeviceView(
        id=row.id,
        tags=row.tags,
        online=row.online,
        revoked=row.revoked,
        enrolled_at=row.enrolled_at,
        certificate_expires_at=row.certificate_expires_at,
        last_seen_at=row.last_seen_at,
        counter=row.counter,
        execution=status.get("execution"),
        execution_state=status.get("execution_state"),
        pipelines=[_pipeline(name, value) for name, value in sorted((status.get("pipelines") or {}).items())],
        severity=newest[0].severity if newest else None,
        score=newest[0].score if newest else None,
        scores=[schemas.ScorePoint(t_s=item.t_s or 0.0, score=item.score) for item in reversed(newest)],
    )


def _pipeline(name: str, value: dict[str, Any]) -> schemas.PipelineView:
    return schemas.PipelineView(
        name=name,
        model=value.get("model"),
        release=value.get("release"),
        windows=value.get("windows", 0),
        source=value.get("source", "running"),
    )


def _execution_counts(connection: Connection) -> dict[str, dict[str, dict[str, int]]]:
    table = tables.executions
    columns = (table.c.campaign, table.c.wave, table.c.state)
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for row in connection.execute(select(*columns, func.count().label("n")).group_by(*columns)):
        counts[row.campaign].setdefault(str(row.wave), {})[row.state] = row.n
    return counts


def _campaign(row: Row[Any], counts: dict[str, dict[str, int]]) -> schemas.CampaignView:
    return schemas.CampaignView(
        id=row.id,
        version=row.version,
        state=row.state,
        reason=row.reason,
        spec=row.spec,
        waves=row.waves,
        executions=counts,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _body(row: Row[Any]) -> dict[str, Any]:
    body: dict[str, Any] = row.body if isinstance(row.body, dict) else {}
    inner = body.get("body")
    return inner if isinstance(inner, dict) else body


def _capture(row: Row[Any]) -> schemas.CaptureView:
    body, answer = _body(row), row.answer if isinstance(row.answer, dict) else {}
    code = str(answer.get("code", ""))
    state = "received" if row.sha256 else "failed" if code else "answered" if row.answered_at else "waiting"
    return schemas.CaptureView(
        command=row.id,
        device=row.device,
        pipeline=str(body.get("pipeline", "")),
        state=state,
        code=code,
        sha256=row.sha256,
        length=row.length,
        snapshots=int(body.get("snapshots", 0)),
        created_at=row.created_at,
        received_at=row.received_at,
    )


def _capture_by_rule(row: Row[Any]) -> schemas.CaptureView:
    return schemas.CaptureView(
        command=row.command,
        device=row.device,
        pipeline=row.pipeline,
        state="received",
        code="",
        sha256=row.sha256,
        length=row.length,
        snapshots=row.snapshots,
        created_at=row.received_at,
        received_at=row.received_at,
    )
