"""Reads assets for the API and the page: a page of a list costs as much as it shows, however many assets there are."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, select

from wheeltapper_fleet.assets.rules import bearing_orders, frequencies_hz, inherit
from wheeltapper_fleet.assets.schemas import AssetDetail, AssetView, Attributes, MappingView
from wheeltapper_fleet.assets.store import find_assets, mappings_of
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["get_asset", "list_assets", "view_of"]

_MOST: Final = 1000


def list_assets(
    engine: Engine,
    *,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    within: str | None = None,
    kind: str | None = None,
    parent: str | None = None,
    device: str | None = None,
    retired: bool = False,
) -> Page[AssetView]:
    """Assets by id.

    Args:
        engine: the fleet's database.
        limit, after: the page.
        within: only this asset and what belongs to it.
        kind, parent: only those of this kind, or directly below this one.
        device: only points that this device measures or measured.
        retired: also those that are retired.

    Raises:
        FleetError: ``cursor.invalid``, ``asset.not_found`` (``within``).
    """
    query = select(assets)
    if kind is not None:
        query = query.where(assets.c.kind == kind)
    if parent is not None:
        query = query.where(assets.c.parent == parent)
    if device is not None:
        query = query.where(assets.c.id.in_(select(point_mappings.c.point).where(point_mappings.c.device == device)))
    if not retired:
        query = query.where(assets.c.retired_at.is_(None))
    with reading(engine) as connection:
        if within is not None:
            row = find_assets(connection, [within]).get(within)
            if row is None:
                raise _missing(within)
            query = query.where((assets.c.id if row["kind"] == "point" else assets.c[row["kind"]]) == within)
        rows, following = page_of(connection, query, (assets.c.id,), limit=limit, after=after)
    return Page([view_of(dict(row._mapping)) for row in rows], following)


def get_asset(engine: Engine, asset: str) -> AssetDetail:
    """One asset, with what belongs to it and what measures it.

    Raises:
        FleetError: ``asset.not_found``.
    """
    with reading(engine) as connection:
        row = find_assets(connection, [asset]).get(asset)
        if row is None:
            raise _missing(asset)
        children = select(assets.c.id).where(assets.c.parent == asset).order_by(assets.c.id).limit(_MOST)
        below = list(connection.execute(children).scalars())
        mappings = [MappingView(**each._mapping) for each in mappings_of(connection, asset, _MOST)]
        names = [row[kind] for kind in ("component", "machine", "site") if row[kind] not in (None, asset)]
        found = find_assets(connection, names)
    shown = _shown(row)
    effective = inherit(shown["attributes"], [_attributes(found[name]) for name in names if name in found])
    orders = bearing_orders(effective.bearing) if effective.bearing else {}
    return AssetDetail(
        **shown,
        children=below,
        mappings=mappings,
        effective=effective,
        orders=orders,
        frequencies_hz=frequencies_hz(orders, effective),
    )


def view_of(row: dict[str, Any]) -> AssetView:
    """The asset of a row."""
    return AssetView(**_shown(row))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "attributes": _attributes(row)}


def _attributes(row: dict[str, Any]) -> Attributes:
    """The attributes of a row; none where another version stored what this one does not know."""
    try:
        return Attributes.model_validate(row["attributes"])
    except ValueError:
        return Attributes(note="these attributes cannot be read by this version")


def _missing(asset: str) -> FleetError:
    return FleetError("asset.not_found", f"there is no asset {asset[:63]!r}", 404)
