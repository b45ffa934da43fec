"""Changes assets and what measures them; each function owns its transaction.

Invariants:
    * A change is made at the version that it was decided on, or refused (``asset.conflict``).
    * What has history is never removed, only retired: alerts and records keep the point that they belong to.
    * A refused change changes nothing; an import is made as a whole or not at all.
    * At any time a channel of a device's pipeline measures at most one point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine

from wheeltapper_fleet.assets import store
from wheeltapper_fleet.assets.rules import KINDS, Span, check_parent, conflicting
from wheeltapper_fleet.assets.schemas import (
    AssetChange,
    AssetRequest,
    ImportedAsset,
    ImportResult,
    MappingRequest,
)
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["change_asset", "create_asset", "delete_asset", "import_assets", "map_point", "retire_asset", "unmap_point"]

_Row = dict[str, Any]
_COMPARED: Final = ("kind", "parent", "name", "criticality", "attributes")


def create_asset(engine: Engine, asked: AssetRequest, now: float) -> None:
    """Create an asset.

    Raises:
        FleetError: ``asset.exists``, ``asset.parent``, ``asset.not_found``, ``asset.retired``.
    """
    with engine.begin() as connection:
        store.lock_assets(connection)
        if store.find_assets(connection, [asked.id]):
            raise FleetError("asset.exists", f"there is an asset {asked.id} already; choose another id", 409)
        known = store.find_assets(connection, [asked.parent] if asked.parent else [])
        store.insert_assets(connection, [_row(asked, known, now)])


def change_asset(engine: Engine, asset: str, asked: AssetChange, expected_version: int, now: float) -> None:
    """Change an asset; moving it under another parent moves everything below it.

    Raises:
        FleetError: ``asset.not_found``, ``asset.conflict``, ``asset.parent``, ``asset.retired``.
    """
    with engine.begin() as connection:
        store.lock_assets(connection)
        row = _existing(connection, asset)
        wanted = {
            name: value
            for name, value in asked.model_dump(mode="json", exclude_none=True).items()
            if name != "expected_version"
        }
        known = store.find_assets(connection, [wanted["parent"]] if "parent" in wanted else [])
        _change(connection, row, wanted, known, expected_version, now)


def retire_asset(engine: Engine, asset: str, expected_version: int, now: float) -> None:
    """Retire an asset with everything below it, and end the mappings of its points. Its history stays.

    Raises:
        FleetError: ``asset.not_found``, ``asset.conflict``, ``asset.retired``.
    """
    with engine.begin() as connection:
        store.lock_assets(connection)
        row = _existing(connection, asset)
        _in_use(row)
        store.end_mappings(connection, store.points_below(asset, row["kind"]), now)
        values = {"retired_at": now, "updated_at": now}
        if row["kind"] != "point":
            store.change_below(connection, asset, row["kind"], values)
        store.update_row(connection, asset, expected_version, values)


def delete_asset(engine: Engine, asset: str, expected_version: int) -> None:
    """Remove an asset that was made by mistake.

    Raises:
        FleetError: ``asset.not_found``, ``asset.conflict``, ``asset.has_history``.
    """
    with engine.begin() as connection:
        store.lock_assets(connection)
        row = _existing(connection, asset)
        if row["version"] != expected_version:
            raise FleetError(
                "asset.conflict", f"{asset} has changed since version {expected_version}: read it again", 409
            )
        reason = store.has_history(connection, asset)
        if reason is not None:
            raise FleetError("asset.has_history", f"{asset} cannot be removed: {reason}; retire it instead", 409)
        store.delete_row(connection, asset)


def map_point(engine: Engine, point: str, asked: MappingRequest, now: float) -> None:
    """Say that a device's pipeline and channel measure a point.

    Raises:
        FleetError: ``asset.not_found``, ``asset.not_a_point``, ``asset.retired``, ``asset.mapping_conflict``,
            ``asset.mapping_invalid``.
    """
    from_at = now if asked.from_at is None else asked.from_at
    if asked.to_at is not None and asked.to_at <= from_at:
        raise FleetError("asset.mapping_invalid", "to_at must be after from_at", 422)
    with engine.begin() as connection:
        store.lock_assets(connection)
        row = _existing(connection, point)
        _check_point(row)
        _in_use(row)
        if asked.replace:
            store.end_mappings(connection, [point], from_at)
        _map(connection, asked.device, asked.pipeline, Span(point, asked.channel, from_at, asked.to_at))


def unmap_point(engine: Engine, point: str, at: float) -> None:
    """End all mappings of a point at ``at`` (Unix seconds).

    Raises:
        FleetError: ``asset.not_found``, ``asset.not_a_point``.
    """
    with engine.begin() as connection:
        store.lock_assets(connection)
        _check_point(_existing(connection, point))
        store.end_mappings(connection, [point], at)


def import_assets(engine: Engine, asked: Sequence[ImportedAsset], dry_run: bool, now: float) -> ImportResult:
    """Create what is not there and change what differs; the order of ``asked`` does not matter.

    Reads and writes as many rows as are asked for, however many there are.

    Raises:
        FleetError: ``asset.import`` (one id twice), and those of :func:`create_asset`, :func:`change_asset`,
            :func:`map_point`; each names the asset. Nothing is changed then.
    """
    ids = [each.id for each in asked]
    twice = {each for each in ids if ids.count(each) > 1} if len(set(ids)) != len(ids) else set()
    if twice:
        raise FleetError("asset.import", f"{sorted(twice)[0]} is in the import twice", 422)
    created: list[str] = []
    changed: list[str] = []
    mapped: list[str] = []
    with engine.begin() as connection:
        store.lock_assets(connection)
        known = store.find_assets(connection, {*ids, *(each.parent for each in asked if each.parent)})
        for kind in KINDS:
            fresh: list[_Row] = []
            for each in (each for each in asked if each.kind == kind):
                if each.id not in known:
                    row = known[each.id] = _row(each, known, now)
                    fresh.append(row)
                    created.append(each.id)
                elif wanted := _difference(known[each.id], each):
                    _change(connection, known[each.id], wanted, known, known[each.id]["version"], now)
                    changed.append(each.id)
            store.insert_assets(connection, fresh)
        mapped = _map_imported(connection, asked, now)
        if dry_run:
            connection.rollback()
    unchanged = len(ids) - len(created) - len(changed)
    return ImportResult(created=created, changed=changed, unchanged=unchanged, mapped=mapped, dry_run=dry_run)


def _row(asked: AssetRequest, known: Mapping[str, _Row], now: float) -> _Row:
    """The row of a new asset below one of ``known``."""
    return {
        "id": asked.id,
        "kind": asked.kind,
        "parent": asked.parent,
        **_above(asked.id, asked.kind, asked.parent, known),
        "name": asked.name,
        "criticality": asked.criticality,
        "attributes": asked.attributes.model_dump(mode="json", exclude_none=True),
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "retired_at": None,
    }


def _above(asset: str, kind: str, parent: str | None, known: Mapping[str, _Row]) -> _Row:
    """What an asset belongs to, itself included."""
    row = known.get(parent) if parent is not None else None
    if parent is not None and row is None:
        raise FleetError("asset.not_found", f"{asset} belongs to {parent}, which is not there", 404)
    check_parent(asset, kind, parent, row["kind"] if row else None)
    if row is not None and row["retired_at"] is not None:
        raise FleetError("asset.retired", f"{asset} cannot belong to {parent}, which is retired", 409)
    found: _Row = {name: row[name] if row else None for name in ("site", "machine", "component")}
    return found | ({} if kind == "point" else {kind: asset})


def _change(
    connection: Connection, row: _Row, wanted: _Row, known: Mapping[str, _Row], expected_version: int, now: float
) -> None:
    """Change a row as ``wanted`` says, and what it belongs to for everything below it."""
    asset = str(row["id"])
    _in_use(row)
    if wanted.get("kind", row["kind"]) != row["kind"]:
        raise FleetError("asset.kind", f"{asset} is a {row['kind']} and stays one; use another id", 409)
    values = dict(wanted)
    if wanted.get("parent", row["parent"]) != row["parent"]:
        above = _above(asset, row["kind"], wanted["parent"], known)
        if row["kind"] != "point":
            below = {name: above[name] for name in KINDS[: KINDS.index(row["kind"])]}
            store.change_below(connection, asset, row["kind"], below)
        values |= above
    store.update_row(connection, asset, expected_version, {**values, "updated_at": now})
    row |= values | {"version": expected_version + 1}


def _difference(row: _Row, asked: AssetRequest) -> _Row:
    """What of a row an import changes."""
    wanted = asked.model_dump(mode="json", include=set(_COMPARED), exclude_none=True) | {"parent": asked.parent}
    return {name: wanted[name] for name in _COMPARED if wanted[name] != row[name]}


def _map_imported(connection: Connection, asked: Sequence[ImportedAsset], now: float) -> list[str]:
    """Map imported points to what measures them, where they are not mapped so already."""
    wanted = [(each, each.mapping) for each in asked if each.mapping is not None]
    spans = store.spans_of(connection, {(mapping.device, mapping.pipeline) for _, mapping in wanted})
    mapped = []
    for each, mapping in wanted:
        if each.kind != "point":
            raise FleetError("asset.not_a_point", f"{each.id} is a {each.kind}; only a point is measured", 422)
        source = (mapping.device, mapping.pipeline)
        there = [span for span, _ in spans.get(source, []) if span.point == each.id]
        if any(span.channel == mapping.channel and span.to_at is None for span in there):
            continue
        span = Span(each.id, mapping.channel, now if mapping.from_at is None else mapping.from_at, None)
        number = _map(connection, *source, span)
        spans.setdefault(source, []).append((span, number))
        mapped.append(each.id)
    return mapped


def _map(connection: Connection, device: str, pipeline: str, span: Span) -> int:
    source = (device, pipeline)
    existing = [each for each, _ in store.spans_of(connection, [source]).get(source, [])]
    other = conflicting(span, existing)
    if other is not None:
        raise FleetError(
            "asset.mapping_conflict",
            f"channel {other.channel} of {device}/{pipeline} measures {other.point} at that time already; "
            "end that first, or use --replace where the same point gets another device",
            409,
        )
    values = {"point": span.point, "device": device, "pipeline": pipeline, "channel": span.channel}
    return store.insert_mapping(connection, {**values, "from_at": span.from_at, "to_at": span.to_at})


def _existing(connection: Connection, asset: str) -> _Row:
    row = store.find_assets(connection, [asset]).get(asset)
    if row is None:
        raise FleetError("asset.not_found", f"there is no asset {asset[:63]!r}", 404)
    return row


def _check_point(row: _Row) -> None:
    if row["kind"] != "point":
        raise FleetError("asset.not_a_point", f"{row['id']} is a {row['kind']}; only a point is measured", 422)


def _in_use(row: _Row) -> None:
    if row["retired_at"] is not None:
        raise FleetError("asset.retired", f"{row['id']} is retired and stays as it was", 409)
