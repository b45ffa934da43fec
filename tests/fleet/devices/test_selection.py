"""A query as SQL selects what it means, on both databases; audiences stand on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from tests.fleet.devices.queries import NOW, facts, queries
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.audience import in_audience, select_audience
from wheeltapper_fleet.devices.reported import Said, store_reported
from wheeltapper_fleet.devices.selection import facts_of, where
from wheeltapper_fleet.devices.tags import write_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.tables import device_attributes, device_pipelines, device_tags, devices


def keep(engine: Engine, found: dict[str, dict[str, Any]]) -> None:
    """Replace all devices."""
    with engine.begin() as connection:
        for table in (devices, device_tags, device_attributes, device_pipelines):
            connection.execute(table.delete())
        for device, its in found.items():
            connection.execute(
                insert(devices).values(
                    id=device,
                    tags={},
                    state=its.get("state", "active"),
                    online=its.get("online", False),
                    last_seen_at=its.get("last_seen"),
                    enrolled_at=its.get("enrolled"),
                )
            )
            pipelines = {
                name: {"model": model, "release": release}
                for name, (model, release) in its.get("pipelines", {}).items()
            }
            status = {"pipelines": pipelines, "attributes": its.get("attributes", {})}
            store_reported(connection, [Said(device, None, status)], NOW)
        write_tags(connection, {device: _tags(its) for device, its in found.items()})


def _tags(its: dict[str, Any]) -> dict[str, str]:
    tags: dict[str, str] = its.get("tags", {})
    return tags if its.get("site") is None else {**tags, "site": its["site"]}


def as_facts(device: str, its: dict[str, Any]) -> dict[str, object]:
    """What a query may ask of a device, from what :func:`keep` was given."""
    said = {"id": device, **{key: its[key] for key in ("state", "online", "site", "last_seen", "enrolled")}}
    said |= {f"tag.{name}": value for name, value in its["tags"].items()}
    said |= {f"attr.{name}": value for name, value in its["attributes"].items() if value}
    for name, (model, release) in its["pipelines"].items():
        said |= {f"model.{name}": model, f"release.{name}": release}
    return said


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(fleet=st.lists(facts, min_size=1, max_size=6), texts=st.lists(queries, min_size=1, max_size=8))
def test_sql_selects_what_a_query_means(engine: Engine, fleet: list[dict[str, Any]], texts: list[str]) -> None:
    found = {f"dev-{number}": its for number, its in enumerate(fleet)}
    keep(engine, found)
    with reading(engine) as connection:
        read = facts_of(connection, found)
        for text in texts:
            query = parse(text)
            meant = [device for device, its in found.items() if query.matches(as_facts(device, its), NOW)]
            selected = connection.execute(select(devices.c.id).where(where(query, NOW)).order_by(devices.c.id))
            assert list(selected.scalars()) == meant, text
            assert [device for device, its in read.items() if query.matches(its, NOW)] == meant, text


def test_a_device_that_reports_something_else_is_found_by_it(engine: Engine) -> None:
    keep(engine, {"dev-1": {"attributes": {"python": "0.9"}, "pipelines": {"main": ("bearing", 1)}}})
    before = {
        "attributes": {"python": "0.9", "os": "linux"},
        "pipelines": {"main": {"model": "bearing", "release": 1}},
    }
    after = {"attributes": {"python": "0.10"}, "pipelines": {"gear": {"model": "gear", "release": 3}}}
    with engine.begin() as connection:
        store_reported(connection, [Said("dev-1", before, after)], NOW)
        for text, matches in (
            ('attr.python = "0.10"', True),
            ('attr.python < "0.10"', False),
            ('attr.python > "0.9"', True),
            ("has attr.os", False),
            ("release(main) = 1", False),
            ("model(gear) = gear and release(gear) >= 3", True),
        ):
            selected = connection.execute(select(devices.c.id).where(where(parse(text), NOW))).scalars().all()
            assert selected == (["dev-1"] if matches else []), text


def test_an_audience_is_of_active_devices_only(engine: Engine) -> None:
    tagged = {"tags": {"line": "3"}, "site": "north"}
    found: dict[str, dict[str, Any]] = {
        state: {"state": state, **tagged} for state in ("pending", "active", "quarantined", "revoked", "retired")
    }
    keep(engine, found | {"other": {"tags": {"line": "4"}, "site": "south"}})
    with reading(engine) as connection:
        assert select_audience(connection, (), {}) == ["active", "other"]
        assert select_audience(connection, (), {"line": "3"}) == ["active"]
        assert select_audience(connection, (), {}, "site = south or tag.line = 3") == ["active", "other"]
        assert select_audience(connection, ("other", "active"), {}, "tag.line > 3") == ["other"]
        assert in_audience(connection, "active", (), {"line": "3"}, "site = north")
        assert not in_audience(connection, "active", (), {"line": "3"}, "site = south")
        assert not in_audience(connection, "active", ("other",), {})
        assert not in_audience(connection, "quarantined", (), {})
        with pytest.raises(FleetError, match=r"quarantined \[device\.not_found\]"):
            select_audience(connection, ("active", "quarantined"), {})
        with pytest.raises(FleetError, match=r"column 1"):
            select_audience(connection, (), {}, "a b")


def test_tags_read_by_people_and_by_queries_are_the_same(engine: Engine) -> None:
    keep(engine, {"dev-1": {"tags": {"line": "3", "old": "x"}}, "dev-2": {"tags": {"line": "3"}}})
    with engine.begin() as connection:
        write_tags(connection, {"dev-1": {"line": "4"}})
        rows = connection.execute(select(device_tags.c.device, device_tags.c.name, device_tags.c.value)).all()
        assert sorted(rows) == [("dev-1", "line", "4"), ("dev-2", "line", "3")]
        shown = connection.execute(select(devices.c.tags).order_by(devices.c.id)).scalars().all()
        assert shown == [{"line": "4"}, {"line": "3"}]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("tag.line = x", "ix_device_tags_name_value_device"),
        ("tag.line in (3, 4)", "ix_device_tags_name_number_device"),
        ("tag.line > 3", "ix_device_tags_name_number_device"),
        ('attr.agent_version < "0.2"', "ix_device_attributes_name_sort_key_device"),
        ("release(main) = 7 and model(main) = bearing", "ix_device_pipelines_pipeline_model_release_device"),
        ("site = north", "ix_devices_site_id"),
        ("not online", "ix_devices_online_id"),
        ("state = quarantined", "ix_devices_state_online_id"),
        ("last_seen < 7d ago", "ix_devices_seen_id"),
    ],
)
def test_a_query_reads_an_index(tmp_path: Path, query: str, index: str) -> None:
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    wanted = select(devices.c.id).where(where(parse(query), NOW))
    text = str(wanted.compile(database, compile_kwargs={"literal_binds": True}))
    with reading(database) as connection:
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert index in plan, plan
    database.dispose()
