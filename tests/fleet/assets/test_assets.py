"""Assets: the tree, what measures a point and when, imports; on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from wheeltapper_fleet.assets import service
from wheeltapper_fleet.assets.files import from_csv, from_tree, in_slices
from wheeltapper_fleet.assets.lookup import places_of, spans_by_source
from wheeltapper_fleet.assets.rules import Span, bearing_orders, point_of
from wheeltapper_fleet.assets.schemas import (
    AssetChange,
    AssetRequest,
    Attributes,
    Bearing,
    ImportedAsset,
    MappingRequest,
)
from wheeltapper_fleet.assets.views import get_asset, list_assets
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

COLUMNS = "id,kind,parent,name,criticality,device,pipeline,channel,bearing,rolling_elements,ball_diameter_mm"
TREE = f"""{COLUMNS},pitch_diameter_mm,rpm
works,site,,The works,,,,,,,,,
press,machine,works,,high,,,,,,,,1500
spindle,component,press,,,,,,6205,9,7.94,39.04,
spindle-front,point,spindle,,,gw-1,main,x,,,,,
spindle-rear,point,spindle,,,gw-1,main,y,,,,,
"""


def imported(text: str = TREE) -> list[ImportedAsset]:
    return [ImportedAsset.model_validate(item) for item in from_csv(text)]


def refused(code: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(FleetError) as caught:
        call(*arguments)
    assert caught.value.code == code


@pytest.fixture
def works(engine: Engine) -> Engine:
    service.import_assets(engine, imported(), False, 100.0)
    return engine


def ids(engine: Engine, **filters: Any) -> list[str]:
    return [each.id for each in list_assets(engine, **filters).items]


def test_an_import_in_any_order_twice_changes_nothing_the_second_time(engine: Engine) -> None:
    first = service.import_assets(engine, imported()[::-1], False, 100.0)
    assert (len(first.created), sorted(first.mapped)) == (5, ["spindle-front", "spindle-rear"])
    again = service.import_assets(engine, imported(), False, 200.0)
    assert (again.created, again.changed, again.mapped, again.unchanged) == ([], [], [], 5)
    detail = get_asset(engine, "spindle-front")
    assert [(each.device, each.channel, each.from_at, each.to_at) for each in detail.mappings] == [
        ("gw-1", "x", 100.0, None)
    ]
    assert detail.effective.bearing is not None
    assert detail.frequencies_hz["outer_race"] == pytest.approx(
        25 * bearing_orders(detail.effective.bearing)["outer_race"]
    )
    changed = service.import_assets(engine, imported(TREE.replace("The works", "Works 2")), False, 300.0)
    assert changed.changed == ["works"]


def test_a_dry_run_and_a_refused_import_change_nothing(engine: Engine) -> None:
    assert len(service.import_assets(engine, imported(), True, 1.0).created) == 5
    assert ids(engine) == []
    refused(
        "asset.not_found", service.import_assets, engine, imported(TREE + "x,point,nothing,,,,,,,,,,\n"), False, 1.0
    )
    refused("asset.import", service.import_assets, engine, [*imported(), imported()[0]], False, 1.0)
    refused(
        "asset.mapping_conflict",
        service.import_assets,
        engine,
        imported(TREE + "other,point,spindle,,,gw-1,main,*,,,,,\n"),
        False,
        1.0,
    )
    assert ids(engine) == []


def test_lists_have_pages_and_filters(works: Engine) -> None:
    first = list_assets(works, limit=2)
    second = list_assets(works, limit=3, after=first.next)
    assert [each.id for each in (*first.items, *second.items)] == sorted(
        ["works", "press", "spindle", "spindle-front", "spindle-rear"]
    )
    assert second.next is None
    assert ids(works, within="spindle") == ["spindle", "spindle-front", "spindle-rear"]
    assert ids(works, within="spindle-rear") == ["spindle-rear"]
    assert ids(works, kind="machine") == ["press"]
    assert ids(works, parent="press") == ["spindle"]
    assert ids(works, device="gw-1") == ["spindle-front", "spindle-rear"]
    assert ids(works, device="gw-2") == []
    refused("asset.not_found", lambda: list_assets(works, within="nowhere"))


@pytest.mark.parametrize(
    ("kind", "parent"),
    [("site", "works"), ("machine", None), ("component", "works"), ("point", "works"), ("machine", "press")],
)
def test_what_does_not_belong_there_is_refused(works: Engine, kind: Any, parent: str | None) -> None:
    asked = AssetRequest(id="new", kind=kind, parent=parent)
    refused("asset.parent", service.create_asset, works, asked, 1.0)
    assert "new" not in ids(works)


def test_a_change_at_an_old_version_is_refused_and_moving_takes_all_below_along(works: Engine) -> None:
    service.create_asset(works, AssetRequest(id="works-2", kind="site"), 2.0)
    service.change_asset(works, "press", AssetChange(parent="works-2", name="Press 4"), 1, 3.0)
    refused("asset.conflict", service.change_asset, works, "press", AssetChange(name="late"), 1, 4.0)
    assert ids(works, within="works-2") == ["press", "spindle", "spindle-front", "spindle-rear", "works-2"]
    assert get_asset(works, "press").name == "Press 4"
    with reading(works) as connection:
        place = places_of(connection, ["spindle-front"])["spindle-front"]
    assert (place.site, place.machine, place.component, place.criticality) == ("works-2", "press", "spindle", "high")


def test_what_has_history_is_retired_and_not_removed(works: Engine) -> None:
    refused("asset.has_history", service.delete_asset, works, "spindle-front", 1)
    refused("asset.has_history", service.delete_asset, works, "press", 1)
    refused("asset.conflict", service.retire_asset, works, "press", 7, 200.0)
    assert get_asset(works, "spindle-front").mappings[0].to_at is None
    service.retire_asset(works, "press", 1, 200.0)
    assert ids(works) == ["works"]
    assert "spindle-rear" in ids(works, retired=True)
    assert get_asset(works, "spindle-front").mappings[0].to_at == 200.0
    refused("asset.retired", service.map_point, works, "spindle-front", MappingRequest(device="gw-2"), 300.0)
    refused("asset.retired", service.create_asset, works, AssetRequest(id="p", kind="point", parent="spindle"), 300.0)
    service.create_asset(works, AssetRequest(id="typo", kind="machine", parent="works"), 300.0)
    service.delete_asset(works, "typo", 1)
    assert ids(works) == ["works"]


def test_a_replaced_gateway_ends_the_mapping_and_begins_another(works: Engine) -> None:
    refused(
        "asset.mapping_conflict",
        service.map_point,
        works,
        "spindle-rear",
        MappingRequest(device="gw-1", channel="x"),
        200.0,
    )
    service.map_point(works, "spindle-front", MappingRequest(device="gw-2", channel="x", replace=True), 200.0)
    spans = [(each.device, each.from_at, each.to_at) for each in get_asset(works, "spindle-front").mappings]
    assert spans == [("gw-2", 200.0, None), ("gw-1", 100.0, 200.0)]
    with reading(works) as connection:
        found = spans_by_source(connection, [("gw-1", "main"), ("gw-2", "main"), ("gw-9", "main")])
    assert point_of(found[("gw-1", "main")], 150.0, ["x.rms"]) == "spindle-front"
    assert point_of(found[("gw-1", "main")], 250.0, ["x.rms"]) == "spindle-rear"  # all that gw-1 still measures
    assert point_of(found[("gw-2", "main")], 250.0, []) == "spindle-front"
    assert ("gw-9", "main") not in found
    service.map_point(works, "spindle-rear", MappingRequest(device="gw-1", channel="x"), 250.0)
    service.unmap_point(works, "spindle-rear", 240.0)
    assert {each.to_at for each in get_asset(works, "spindle-rear").mappings} == {240.0, 250.0}  # one never held


def test_the_channel_of_what_moved_says_the_point() -> None:
    spans = [Span("front", "x", 0.0, None), Span("rear", "y", 0.0, None)]
    assert point_of(spans, 1.0, ["y 100-200 Hz", "x.rms"]) == "rear"
    assert point_of(spans, 1.0, ["z.rms"]) is None
    assert point_of([], 1.0, ["x.rms"]) is None
    assert point_of([Span("old", "*", 0.0, 5.0), Span("new", "*", 5.0, None)], 5.0, []) == "new"


def test_defect_orders_are_those_of_the_6205() -> None:
    """The orders that the bearing data center of Case Western Reserve University gives for the SKF 6205-2RS."""
    orders = bearing_orders(Bearing(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04))
    assert orders["outer_race"] == pytest.approx(3.5848, rel=2e-3)
    assert orders["inner_race"] == pytest.approx(5.4152, rel=2e-3)
    assert orders["cage"] == pytest.approx(0.39828, rel=2e-3)
    assert 2 * orders["rolling_element"] == pytest.approx(4.7135, rel=2e-3)


def test_attributes_that_another_version_stored_are_said_and_stop_nothing(works: Engine) -> None:
    from wheeltapper_fleet.assets.tables import assets

    with works.begin() as connection:
        connection.execute(assets.update().where(assets.c.id == "press").values(attributes={"colour": "red"}))
    assert "cannot be read" in get_asset(works, "press").attributes.note
    assert len(list_assets(works).items) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,colour\na,b\n", "'colour'"),
        ("id,name\na,b\n", "id and kind"),
        ("id,kind,rpm\na,site,fast\n", "line 2: rpm"),
        ("id,kind,rpm,speed_tag\na,site,5,t\n", "one source"),
        ("id,kind\na,site,more\n", "line 2"),
        ("id,kind\na\n", "line 2"),
        ('id,kind\n"a,site\n', "unexpected end"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(FleetError, match=r"asset\.file") as caught:
        from_csv(text)
    assert said in caught.value.message


def test_a_tree_gives_what_belongs_to_each() -> None:
    tree = {"assets": [{"id": "w", "kind": "site", "children": [{"id": "m", "kind": "machine"}]}]}
    items = from_tree(tree)
    assert items == [{"id": "w", "kind": "site"}, {"id": "m", "kind": "machine", "parent": "w"}]
    assert list(in_slices(items[::-1], 1)) == [[items[0]], [items[1]]]
    for wrong in ("text", [1], [{"kind": "site"}], {"assets": [], "more": 1}):
        refused("asset.file", from_tree, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bearing": {"rolling_elements": 9, "ball_diameter_mm": 40, "pitch_diameter_mm": 39}},
        {"speed": {"kind": "fixed"}},
        {"speed": {"kind": "channel", "rpm": 5}},
        {"colour": "red"},
        {"note": "a\0b"},
    ],
)
def test_attributes_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Attributes.model_validate(wrong)
