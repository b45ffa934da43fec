"""Files of assets become the items of an import. Pure: it works on what was read from the file.

A CSV file has one asset a line; a YAML file has a list of assets in the API's form, where ``children`` may hold the
assets that belong to one instead of their naming it as ``parent``.

Invariant: a column or key that is not known is refused, with its line or place.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, Final

from wheeltapper_fleet.assets.rules import KINDS
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["COLUMNS", "from_csv", "from_tree", "in_slices"]

_PLAIN: Final = ("id", "kind", "parent", "name", "criticality")
_MAPPING: Final = ("device", "pipeline", "channel")
_BEARING: Final = ("rolling_elements", "ball_diameter_mm", "pitch_diameter_mm", "contact_angle_deg")
COLUMNS: Final = (
    *_PLAIN, *_MAPPING, "bearing", *_BEARING, "rpm", "speed_channel", "speed_tag", "iso_group", "iso_foundation",
    "note",
)  # fmt: skip
"""The columns that a CSV file may have; ``id`` and ``kind`` it must have. An empty cell says nothing."""
_DEEPEST: Final = 16


def from_csv(text: str) -> list[dict[str, Any]]:
    """The items of a CSV file.

    Raises:
        FleetError: ``asset.file``.
    """
    reader = csv.DictReader(text.lstrip("\ufeff").splitlines(), strict=True)
    try:
        columns = list(reader.fieldnames or ())
        unknown = [each for each in columns if each not in COLUMNS]
        if unknown or not {"id", "kind"} <= set(columns):
            wrong = f"there is no column {unknown[0]!r}" if unknown else "it needs the columns id and kind"
            raise FleetError("asset.file", f"line 1: {wrong}; the columns are {', '.join(COLUMNS)}")
        items = []
        for cells in reader:
            if None in cells or None in cells.values():
                raise FleetError("asset.file", f"line {reader.line_num}: it has not as many cells as there are columns")
            try:
                items.append(_item({name: cell.strip() for name, cell in cells.items() if cell.strip()}))
            except ValueError as error:
                raise FleetError("asset.file", f"line {reader.line_num}: {error}") from error
    except csv.Error as error:
        raise FleetError("asset.file", f"line {reader.line_num}: {error}") from error
    return items


def from_tree(value: object, parent: str | None = None, depth: int = 0) -> list[dict[str, Any]]:
    """The items of what a YAML file holds: a list, or a mapping with the list ``assets``.

    Raises:
        FleetError: ``asset.file``.
    """
    if depth == 0 and isinstance(value, Mapping) and set(value) == {"assets"}:
        value = value["assets"]
    if not isinstance(value, list) or depth > _DEEPEST:
        raise FleetError("asset.file", "expected a list of assets, each with id and kind")
    items: list[dict[str, Any]] = []
    for each in value:
        if not isinstance(each, Mapping) or not all(isinstance(name, str) for name in each) or "id" not in each:
            raise FleetError("asset.file", f"below {parent or 'the top'}: each asset is a mapping with an id")
        item = {name: each[name] for name in each if name != "children"}
        if parent is not None:
            item.setdefault("parent", parent)
        items.append(item)
        items += from_tree(each["children"], str(each["id"]), depth + 1) if "children" in each else []
    return items


def in_slices(items: list[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """The items in imports of at most ``most``, higher kinds first, so that each finds what it belongs to."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    ordered = sorted(items, key=lambda item: rank.get(str(item.get("kind")), len(KINDS)))
    for start in range(0, len(ordered), most):
        yield ordered[start : start + most]


def _item(cells: Mapping[str, str]) -> dict[str, Any]:
    """The item of one line of a CSV file."""
    item: dict[str, Any] = {name: cells[name] for name in _PLAIN if name in cells}
    mapping = {name: cells[name] for name in _MAPPING if name in cells}
    if mapping:
        item["mapping"] = mapping
    attributes: dict[str, Any] = {"note": cells["note"]} if "note" in cells else {}
    bearing: dict[str, Any] = {name: _number(name, cells[name]) for name in _BEARING if name in cells}
    if "bearing" in cells:
        bearing["name"] = cells["bearing"]
    if bearing:
        attributes["bearing"] = bearing
    speeds = [name for name in ("rpm", "speed_channel", "speed_tag") if name in cells]
    if len(speeds) > 1:
        raise ValueError(f"{' and '.join(speeds)}: a shaft has one source of its speed")
    if speeds == ["rpm"]:
        attributes["speed"] = {"kind": "fixed", "rpm": _number("rpm", cells["rpm"])}
    elif speeds:
        attributes["speed"] = {"kind": speeds[0].removeprefix("speed_"), "name": cells[speeds[0]]}
    if "iso_group" in cells or "iso_foundation" in cells:
        group = {"group": _number("iso_group", cells["iso_group"])} if "iso_group" in cells else {}
        foundation = {"foundation": cells["iso_foundation"]} if "iso_foundation" in cells else {}
        attributes["iso20816"] = group | foundation
    if attributes:
        item["attributes"] = attributes
    return item


def _number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: {text[:40]!r} is no number") from None
