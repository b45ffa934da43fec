"""Reads lineage both ways: from an alert back to recordings, and from a recording forward to every device.

    alert ── its record names model and release ── signed manifest ── run, NAME@VERSION ── items ── captures
    recording ── versions that hold it ── releases trained on them ── devices that ran these

Cost: every answer is a fixed number of look-ups by key, whatever the size of the fleet; lists are pages. Items of a
version are read from the store of datasets, a page of one file.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, and_, select, tuple_

from wheeltapper_fleet.alerts.views import get_alert
from wheeltapper_fleet.assets.lookup import places_of
from wheeltapper_fleet.campaigns.tables import campaign_releases, campaigns
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.scope import in_scope, within_scope
from wheeltapper_fleet.devices.tables import device_pipelines, device_releases
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page, read_cursor, write_cursor
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.lineage.contents import not_indexed
from wheeltapper_fleet.lineage.schemas import (
    AlertLineage,
    DatasetSpan,
    RecordingDevice,
    RecordingLineage,
    RecordingRelease,
    RecordingSource,
    ReleaseCampaign,
    ReleaseDevice,
    ReleaseLineage,
    TrainedOn,
    UsedRecording,
)
from wheeltapper_fleet.lineage.tables import dataset_contents
from wheeltapper_fleet.registry.published import find_published, published_release
from wheeltapper_fleet.registry.tables import release_aliases, release_datasets

__all__ = [
    "alert_lineage",
    "known_recording",
    "recording_devices",
    "recording_lineage",
    "recording_releases",
    "release_devices",
    "release_lineage",
    "release_recordings",
]

_CAMPAIGNS: Final = 20
_SPANS: Final = 100
_CAPTURES: Final = 100
_RELEASES_OF_A_PAGE: Final = 20
"""Releases that a page of a recording's devices looks at, so that releases nobody ran cost no more than this."""


def alert_lineage(engine: Engine, number: int, scope: str, now: float) -> AlertLineage:
    """Where an alert came from: machine, release, and what that was trained on; of a device in ``scope``.

    Raises:
        FleetError: ``alert.not_found``.
    """
    with reading(engine) as connection:
        alert = get_alert(connection, number, scope, now)
        place = places_of(connection, {alert.point}).get(alert.point) if alert.point is not None else None
        mine = (device_pipelines.c.device == alert.device, device_pipelines.c.pipeline == alert.pipeline)
        present = connection.execute(select(device_pipelines).where(*mine)).first()
        row = find_published(connection, alert.model, alert.release)
        release = None if row is None else _release_lineage(connection, row)
    return AlertLineage(
        alert=alert,
        machine=place.machine if place is not None else None,
        site=place.site if place is not None else None,
        runs_now=None if present is None or present.model is None else f"{present.model} {present.release}",
        release=release,
    )


def release_lineage(engine: Engine, model: str, release: int) -> ReleaseLineage:
    """Where a release came from.

    Raises:
        FleetError: ``release.not_found``.
    """
    with reading(engine) as connection:
        return _release_lineage(connection, published_release(connection, model, release))


def release_devices(
    engine: Engine,
    model: str,
    release: int,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    scope: str = "",
    now: float = 0.0,
) -> Page[ReleaseDevice]:
    """The devices in ``scope`` that run or ran a release, by device and pipeline.

    Raises:
        FleetError: ``release.not_found``, ``cursor.invalid``.
    """
    query = _ran().where(device_releases.c.model == model, device_releases.c.release == release)
    with reading(engine) as connection:
        published_release(connection, model, release)
        key = (device_releases.c.device, device_releases.c.pipeline)
        mine = in_scope(scope, device_releases.c.device, now)
        rows, following = page_of(connection, query, key, limit=limit, after=after, within=mine)
    return Page([ReleaseDevice(**_ran_view(row)) for row in rows], following)


def release_recordings(
    engine: Engine, store: DatasetStore, model: str, release: int, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[UsedRecording]:
    """The recordings that a release was trained or judged on, in the order of the dataset's version, with captures.

    Raises:
        FleetError: ``release.not_found``, ``lineage.no_dataset``, ``cursor.invalid``, ``dataset.*``.
    """
    with reading(engine) as connection:
        trained = _trained_on(connection, published_release(connection, model, release))
    if not trained:
        message = f"the manifest of {model} {release} names no version of a dataset: it was trained on files"
        raise FleetError("lineage.no_dataset", message, 404)
    manifest, _ = store.manifest(Ref(trained[0].dataset, trained[0].version))
    at = 0 if after is None else int(read_cursor(after, int)[0])
    items, following = store.items_page(manifest.items, at, limit)
    with reading(engine) as connection:
        known = _captured(connection, {item.sha256 for item in items})
    removed = store.tombstones()
    found = []
    for item in items:
        tombstone = store.tombstone(item.sha256) if item.sha256 in removed else None
        came = known.get(item.sha256, [])
        found.append(
            UsedRecording(
                sha256=item.sha256,
                machine=item.machine,
                source=item.source,
                side=item.split,
                first=item.first,
                count=item.count,
                captured=came[0] if came else None,
                removed=None if tombstone is None else tombstone.why,
            )
        )
    return Page(found, None if following is None else write_cursor(following))


def recording_lineage(engine: Engine, store: DatasetStore, sha256: str, scope: str, now: float) -> RecordingLineage:
    """Where a recording came from, and which versions of datasets hold it; of a device in ``scope``.

    Raises:
        FleetError: ``lineage.recording``: nobody here knows such a recording.
    """
    spans = select(dataset_contents).where(dataset_contents.c.sha256 == sha256)
    spans = spans.order_by(dataset_contents.c.dataset, dataset_contents.c.first_version).limit(_SPANS)
    with reading(engine) as connection:
        came = known_recording(connection, sha256, scope, now)
        held = [
            DatasetSpan(dataset=row.dataset, first_version=row.first_version, last_version=row.last_version)
            for row in connection.execute(spans)
        ]
    tombstone = store.tombstone(sha256)
    return RecordingLineage(
        sha256=sha256,
        captured=came,
        removed=None if tombstone is None else tombstone.why,
        datasets=held,
        not_indexed=not_indexed(engine, store),
    )


def recording_releases(
    engine: Engine, sha256: str, limit: int = DEFAULT_LIMIT, after: str | None = None, *, scope: str, now: float
) -> Page[RecordingRelease]:
    """The releases that were trained on a version which holds a recording, by model, number and dataset.

    Cost: what was trained on these versions, which a page sorts; it has nothing to do with the fleet.

    Raises:
        FleetError: ``lineage.recording``, ``cursor.invalid``.
    """
    columns = (release_datasets.c.model, release_datasets.c.release, release_datasets.c.dataset)
    key = (*columns, release_datasets.c.version)
    query = select(*key).select_from(_holding()).where(dataset_contents.c.sha256 == sha256)
    with reading(engine) as connection:
        known_recording(connection, sha256, scope, now)
        rows, following = page_of(connection, query, key, limit=limit, after=after)
    return Page([RecordingRelease(**row._mapping) for row in rows], following)


def recording_devices(
    engine: Engine, sha256: str, limit: int = DEFAULT_LIMIT, after: str | None = None, *, scope: str, now: float
) -> Page[RecordingDevice]:
    """The devices in ``scope`` that run or ran a release which was trained on a recording.

    They come by model, release, device and pipeline. A page may be shorter than ``limit``, even empty, and yet be
    followed by another one: it looks at 20 releases at most.

    Raises:
        FleetError: ``lineage.recording``, ``cursor.invalid``.
    """
    begin = None if after is None else read_cursor(after, str, int, str, str)
    pair = (release_datasets.c.model, release_datasets.c.release)
    query = select(*pair).distinct().select_from(_holding()).where(dataset_contents.c.sha256 == sha256)
    if begin is not None:
        query = query.where(tuple_(*pair) >= tuple_(begin[0], begin[1]))
    found: list[RecordingDevice] = []
    with reading(engine) as connection:
        known_recording(connection, sha256, scope, now)
        trained = connection.execute(query.order_by(*pair).limit(_RELEASES_OF_A_PAGE + 1)).all()
        for index, (model, release) in enumerate(trained):
            if index == _RELEASES_OF_A_PAGE or len(found) == limit:
                return Page(found, write_cursor(model, release, "", ""))
            inside = begin is not None and (model, release) == begin[:2] and begin[2]
            rows, following = page_of(
                connection,
                _ran().where(device_releases.c.model == model, device_releases.c.release == release),
                (device_releases.c.device, device_releases.c.pipeline),
                limit=limit - len(found),
                after=write_cursor(*begin[2:]) if begin is not None and inside else None,
                within=in_scope(scope, device_releases.c.device, now),
            )
            found += [RecordingDevice(model=model, release=release, **_ran_view(row)) for row in rows]
            if following is not None:
                return Page(found, write_cursor(model, release, *read_cursor(following, str, str)))
    return Page(found)


def _holding() -> Any:
    """Contents of versions, joined with the releases that were trained on one of these versions."""
    held = and_(
        release_datasets.c.dataset == dataset_contents.c.dataset,
        release_datasets.c.version.between(dataset_contents.c.first_version, dataset_contents.c.last_version),
    )
    return dataset_contents.join(release_datasets, held)


def _ran() -> Any:
    """What ran a release, with what the same pipeline runs now."""
    same = and_(
        device_pipelines.c.device == device_releases.c.device, device_pipelines.c.pipeline == device_releases.c.pipeline
    )
    columns = (device_releases.c.device, device_releases.c.pipeline, device_releases.c.first_at)
    runs = and_(
        device_pipelines.c.model == device_releases.c.model, device_pipelines.c.release == device_releases.c.release
    )
    return select(*columns, runs.label("runs_now")).select_from(device_releases.outerjoin(device_pipelines, same))


def _ran_view(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "runs_now": bool(row.runs_now)}


def _trained_on(connection: Connection, row: Row[Any]) -> list[TrainedOn]:
    mine = (release_datasets.c.model == row.model, release_datasets.c.release == row.release)
    columns = (release_datasets.c.dataset, release_datasets.c.version)
    found = connection.execute(select(release_datasets).where(*mine).order_by(*columns))
    return [
        TrainedOn(dataset=each.dataset, version=each.version, sha256=each.sha256, split=each.split) for each in found
    ]


def _release_lineage(connection: Connection, row: Row[Any]) -> ReleaseLineage:
    manifest = row.manifest if isinstance(row.manifest, dict) else {}
    said = manifest.get("lineage")
    lineage = {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}
    named = (release_aliases.c.model == row.model, release_aliases.c.release == row.release)
    aliases = connection.execute(select(release_aliases.c.alias).where(*named).order_by(release_aliases.c.alias))
    took = (campaign_releases.c.model == row.model, campaign_releases.c.release == row.release)
    newest = select(campaigns.c.id, campaigns.c.state, campaigns.c.created_at)
    newest = newest.join(campaign_releases, campaign_releases.c.campaign == campaigns.c.id).where(*took)
    newest = newest.order_by(campaigns.c.created_at.desc(), campaigns.c.id).limit(_CAMPAIGNS)
    return ReleaseLineage(
        model=row.model,
        release=row.release,
        sha256=row.sha256,
        published_at=row.published_at,
        published_by=row.published_by,
        run=lineage.get("run"),
        policy=lineage.get("policy"),
        trained_on=_trained_on(connection, row),
        lineage=lineage,
        aliases=list(aliases.scalars()),
        campaigns=[
            ReleaseCampaign(id=each.id, state=each.state, created_at=each.created_at)
            for each in connection.execute(newest)
        ],
    )


def _captured(connection: Connection, contents: set[str]) -> dict[str, list[RecordingSource]]:
    """Where contents came from, by hash; the same content may have come several times."""
    found: dict[str, list[RecordingSource]] = {}
    query = select(captures).where(captures.c.sha256.in_(sorted(contents))).order_by(captures.c.command)
    for row in connection.execute(query.limit(max(_CAPTURES, 2 * len(contents)))):
        source = RecordingSource(
            command=row.command, device=row.device, pipeline=row.pipeline, received_at=row.received_at
        )
        found.setdefault(row.sha256, []).append(source)
    return found


def known_recording(connection: Connection, sha256: str, scope: str, now: float) -> list[RecordingSource]:
    """Where a recording came from; refuses one that nobody knows, or that no device in ``scope`` made."""
    came = _captured(connection, {sha256}).get(sha256, [])
    mine = within_scope(connection, [each.device for each in came], scope, now)
    came = [each for each in came if each.device in mine]
    held = select(dataset_contents.c.dataset).where(dataset_contents.c.sha256 == sha256).limit(1)
    if not came and (scope or connection.execute(held).first() is None):
        message = f"no capture and no indexed version of a dataset is {sha256[:64]}: give the whole SHA-256"
        raise FleetError("lineage.recording", message, 404)
    return came
