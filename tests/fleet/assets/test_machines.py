"""Machines with what their points say, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, insert

from wheeltapper_fleet import tables
from wheeltapper_fleet.alerts.views import cases_since, open_by_machine
from wheeltapper_fleet.assets.machines import get_machine, list_machines
from wheeltapper_fleet.assets.schemas import ImportedAsset
from wheeltapper_fleet.assets.service import import_assets
from wheeltapper_fleet.campaigns.views import events_since, list_under_way
from wheeltapper_fleet.devices.connections import Change, gone_since, record_connections
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import manifests_of, published_since

NOW = 1.79e9
TREE: list[dict[str, Any]] = [
    {"id": "works", "kind": "site", "attributes": {"iso20816": {"group": 1, "foundation": "rigid"}}},
    {"id": "press", "kind": "machine", "parent": "works"},
    {"id": "shaft", "kind": "component", "parent": "press", "attributes": {"speed": {"kind": "fixed", "rpm": 900}}},
    {"id": "front", "kind": "point", "parent": "shaft", "mapping": {"device": "gw-1", "channel": "x", "from_at": 1.0}},
    {"id": "rear", "kind": "point", "parent": "press", "mapping": {"device": "gw-2", "from_at": 1.0}},
    {"id": "bare", "kind": "point", "parent": "press"},
    {"id": "fan", "kind": "machine", "parent": "works"},
]


def add(engine: Engine, table: Any, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table), list(rows))


def said(device: str, at: float, score: float, severity: str, zone: str | None = None) -> dict[str, Any]:
    pace = {"windows": 9, "paced": 5, "arrival_pace_s": 10.0, "machine_pace_s": 10.0, "last_t_s": at, "t_s": at}
    row = {"device": device, "pipeline": "main", "epoch": "0" * 16, "seq": 1, "received_at": at, "at": at}
    return {
        **row,
        **pace,
        "model": "m",
        "release": 3,
        "score": score,
        "severity": severity,
        "zone": zone,
        "value": None,
    }


def a_works(engine: Engine) -> None:
    import_assets(engine, [ImportedAsset.model_validate(each) for each in TREE], False, NOW - 100)
    add(
        engine,
        tables.latest,
        said("gw-1", NOW - 5, 0.4, "normal", "B"),
        said("gw-2", NOW - 86_400, 9.0, "critical", "D"),
    )


def test_what_is_not_of_now_does_not_count(engine: Engine) -> None:
    """The critical score of yesterday is shown with its point and makes no machine critical."""
    a_works(engine)
    fan, press = list_machines(engine, NOW).items
    assert (press.severity, press.score, press.zone, press.points, press.measured) == ("normal", 0.4, "B", 3, 1)
    assert (fan.severity, fan.score, fan.zone, fan.points, fan.measured) == (None, None, None, 0, 0)
    front, rear = (
        next(each for each in get_machine(engine, "press", NOW, 9).points if each.asset.id == name)
        for name in ("front", "rear")
    )
    assert front.sources[0].present
    assert not rear.sources[0].present
    assert (rear.sources[0].score, rear.sources[0].at) == (9.0, NOW - 86_400)


def test_a_point_takes_what_it_lacks_from_above(engine: Engine) -> None:
    a_works(engine)
    points = {each.asset.id: each.effective for each in get_machine(engine, "press", NOW, 9).points}
    assert points["front"].speed is not None
    assert points["rear"].speed is None, "it is not the shaft's"
    assert all(each.iso20816 is not None for each in points.values())


def test_points_come_in_pages_and_retired_ones_do_not(engine: Engine) -> None:
    a_works(engine)
    seen: list[str] = []
    after = None
    while True:
        state = get_machine(engine, "press", NOW, 2, after)
        seen += [each.asset.id for each in state.points]
        after = state.next
        if after is None:
            break
    assert seen == ["bare", "front", "rear"]
    with engine.begin() as connection:
        connection.execute(tables.assets.update().where(tables.assets.c.id == "rear").values(retired_at=NOW))
    assert list_machines(engine, NOW).items[1].points == 2
    with pytest.raises(FleetError) as refused:
        get_machine(engine, "nothing", NOW, 2)
    assert refused.value.code == "asset.not_found"


def test_what_a_shift_is_told(engine: Engine) -> None:
    """Reads of other rooms that the page puts together: on both databases, and only what came since."""
    add(
        engine,
        tables.devices,
        *({"id": name, "tags": {}, "online": name == "back"} for name in ("gone", "back", "old")),
    )
    with engine.begin() as connection:
        record_connections(connection, [Change("old", False, "lost", "")], NOW - 900)
        record_connections(connection, [Change("gone", False, "lost", ""), Change("back", False, "ended", "")], NOW)
    assert gone_since(engine, NOW - 10).devices == [("gone", "lost")]
    row = {"path": "p", "sha256": "0" * 64, "length": 1, "published_by": "ann", "model": "m"}
    add(
        engine,
        tables.releases,
        *({**row, "release": number, "published_at": NOW + number, "manifest": {"n": number}} for number in (1, 2, 3)),
    )
    assert [each.release for each in published_since(engine, NOW + 2, 9)] == [3, 2]
    with engine.connect() as connection:
        assert manifests_of(connection, [("m", 2), ("m", 9)]) == {("m", 2): {"n": 2}}
        assert manifests_of(connection, []) == {}
        assert open_by_machine(connection, []) == {}
    campaign = {"version": 1, "reason": "", "spec": {"model": "m"}, "waves": [], "updated_at": NOW}
    add(
        engine,
        tables.campaigns,
        *({**campaign, "id": f"c-{number}", "state": state, "created_at": NOW + number}
          for number, state in enumerate(("RUNNING", "COMPLETED", "PAUSED"))),
    )  # fmt: skip
    assert [each.id for each in list_under_way(engine, 9)] == ["c-2", "c-0"]
    assert [each.id for each in list_under_way(engine, 1)] == ["c-2"]
    line = {"campaign": "c-0", "who": "ann", "detail": ""}
    add(
        engine,
        tables.campaign_log,
        {**line, "at": NOW - 9, "event": "started"},
        {**line, "at": NOW, "event": "wave"},
        {**line, "at": NOW, "event": "paused"},
    )
    assert [(each.campaign, each.event) for each in events_since(engine, NOW - 1, 9)] == [("c-0", "paused")]
    case = dict.fromkeys(("version", "alerts", "silenced", "episode", "episode_alerts", "release"), 1)
    times = dict.fromkeys(("episode_at", "first_at", "last_at", "changed_at", "risk"), NOW)
    texts = {"key": "k", "kind": "machine", "why": [], "severity": "warning", "worst": "warning", "criticality": "high"}
    texts |= {"device": "gone", "pipeline": "main", "model": "m", "machine": "press"}
    add(
        engine,
        tables.cases,
        *({**case, **times, **texts, "raised": True, "state": state, "attention": attention, "opened_at": NOW + number}
          for number, (state, attention) in enumerate(
              (("open", "person"), ("resolved", "nobody"), ("open", "waiting"))
          )),
    )  # fmt: skip
    since = cases_since(engine, NOW + 1)
    assert (since.opened, since.resolved, since.nobody) == (2, 1, 1)
    with engine.connect() as connection:
        assert open_by_machine(connection, ["press", "fan"]) == {"press": (2, NOW)}
