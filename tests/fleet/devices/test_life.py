"""The life of devices: every move is in the table and in the log; tags and states of many are changed by a query."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select

from tests.fleet.devices.test_selection import keep
from tests.fleet.trust.world import World, make_csr
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.audience import select_audience
from wheeltapper_fleet.devices.certificates import accepts_certificate
from wheeltapper_fleet.devices.expected import ExpectedDevice
from wheeltapper_fleet.devices.log import list_log
from wheeltapper_fleet.devices.rules import CONNECTING, TRANSITIONS, Action, DeviceState, after, may_connect, may_enrol
from wheeltapper_fleet.devices.service import BulkChange, Devices
from wheeltapper_fleet.devices.views import count_devices, get_device, list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import device_tags, devices

NOW = 1000.0


class People:
    """The use cases, and what they told others."""

    def __init__(self, engine: Engine) -> None:
        self.changed: list[str] = []
        self.disconnected: list[str] = []
        self.does = Devices(engine, lambda: NOW, self._changed, self.disconnected.append)

    def _changed(self, connection: Connection, names: Collection[str], now: float) -> None:
        assert connection.in_transaction()
        assert now == NOW
        self.changed += names


def test_every_pair_is_in_the_table_or_refused() -> None:
    for state in DeviceState:
        for action in Action:
            if (state, action) in TRANSITIONS:
                assert after(state.value, action, "dev-1") is TRANSITIONS[state, action]
            else:
                with pytest.raises(FleetError, match=rf"dev-1 is {state}.*\[device\.transition\]") as caught:
                    after(state.value, action, "dev-1")
                assert caught.value.status == 409
    assert {state for state in DeviceState if may_connect(state)} == set(CONNECTING)
    assert {str(state) for state in DeviceState if may_enrol(state)} == {"pending", "revoked", "retired"}
    assert not may_connect("a state of a later version")


def test_a_move_is_logged_told_and_ends_the_connection_only_where_the_identity_ends(engine: Engine) -> None:
    keep(engine, {"dev-1": {}})
    people = People(engine)
    people.does.move("dev-1", Action.QUARANTINE, who="ann", why="strange scores")
    assert people.disconnected == []
    people.does.move("dev-1", Action.REINSTATE, who="bob")
    people.does.move("dev-1", Action.RETIRE, who="ann", why="scrapped")
    assert people.disconnected == ["dev-1"]
    assert people.changed == ["dev-1"] * 3
    with pytest.raises(FleetError, match=r"\[device\.transition\]"):
        people.does.move("dev-1", Action.QUARANTINE, who="ann")
    found = list_log(engine, "dev-1").items
    assert [(each.event, each.state, each.who, each.why) for each in found] == [
        ("retire", "retired", "ann", "scrapped"),
        ("reinstate", "active", "bob", ""),
        ("quarantine", "quarantined", "ann", "strange scores"),
    ]
    first = list_log(engine, "dev-1", 2)
    assert [each.event for each in list_log(engine, "dev-1", 2, first.next).items] == ["quarantine"]


def test_tags_are_changed_one_by_one_and_a_bad_one_changes_nothing(engine: Engine) -> None:
    keep(engine, {"dev-1": {"tags": {"line": "3", "site": "north"}}})
    people = People(engine)
    people.does.tag("dev-1", {"line": None, "site": "south", "hall": "2"}, who="ann")
    assert get_device(engine, "dev-1", NOW).tags == {"site": "south", "hall": "2"}
    assert [each.id for each in list_devices(engine, NOW, q="site = south").items] == ["dev-1"]
    assert people.changed == ["dev-1"]
    assert list_log(engine, "dev-1").items[0].detail == "-line site=south hall=2"
    for change, code in (
        ({"a\x00": "b"}, "tag.invalid"),
        ({"a": "\ud800"}, "tag.invalid"),
        ({"a": "b" * 64}, "tag.invalid"),
        ({"": "b"}, "tag.invalid"),
        ({f"t{number}": "x" for number in range(63)}, "tag.too_many"),
    ):
        with pytest.raises(FleetError) as caught:
            people.does.tag("dev-1", change, who="ann")
        assert caught.value.code == code
    assert get_device(engine, "dev-1", NOW).tags == {"site": "south", "hall": "2"}


def test_a_bulk_change_does_what_it_foresaw_in_slices(engine: Engine) -> None:
    fleet: dict[str, dict[str, Any]] = {f"dev-{number:04}": {"tags": {"line": "3"}} for number in range(1200)}
    fleet["dev-0001"] |= {"state": "revoked"}
    fleet["dev-0002"]["tags"] = {"line": "4"}
    keep(engine, fleet)
    people = People(engine)
    change = BulkChange(Action.QUARANTINE, {"checked": "no"})
    seen = people.does.foresee("tag.line = 3", change)
    assert (seen.matched, seen.changed, seen.refused) == (1199, 1198, {"device.transition": 1})
    with pytest.raises(FleetError, match=r"1199 devices match, not 7.*\[device\.bulk_count\]"):
        people.does.bulk("tag.line = 3", change, who="ann", expected=7)
    with pytest.raises(FleetError, match=r"\[query\.everything\]"):
        people.does.bulk(" ", change, who="ann")
    assert people.changed == []
    begun: list[str] = []
    event.listen(engine, "commit", lambda _: begun.append("commit"))
    done = people.does.bulk("tag.line = 3", change, who="ann", why="recall", expected=1199)
    assert done == seen
    assert len(begun) == 4, "three slices, and the one after them that is empty"
    assert set(people.changed) == set(fleet) - {"dev-0001", "dev-0002"}
    counts = count_devices(engine, now=NOW)
    assert counts.states == {"quarantined": 1198, "revoked": 1, "active": 1}
    with reading(engine) as connection:
        checked = select(device_tags.c.device).where(device_tags.c.name == "checked")
        assert len(connection.execute(checked).all()) == 1198
        assert select_audience(connection, (), {}) == ["dev-0002"]


def test_counts_are_those_of_the_devices_that_are_meant(engine: Engine) -> None:
    keep(
        engine,
        {
            "dev-1": {"online": True, "tags": {"site": "north"}, "pipelines": {"main": ("bearing", 1)}},
            "dev-2": {"tags": {"site": "north"}, "pipelines": {"main": ("bearing", 2), "gear": (None, None)}},
            "dev-3": {"state": "pending"},
        },
    )
    found = count_devices(engine, now=NOW)
    assert (found.devices, found.online, found.states) == (3, 1, {"active": 2, "pending": 1})
    assert found.sites == {"north": 2, "": 1}
    found = count_devices(engine, "release(main) = 2", NOW)
    assert (found.devices, found.online, found.sites) == (1, 0, {"north": 1})
    assert [(each.pipeline, each.model, each.release, each.devices) for each in found.releases] == [
        ("gear", None, None, 1),
        ("main", "bearing", 2, 1),
    ]


def test_a_device_is_pending_then_active_and_comes_back_with_its_history(world: World) -> None:
    token = world.enrolment.create_token("dev-1", tags={"line": "3"}, who="ann")
    assert get_device(world.engine, "dev-1").state == "pending"
    people = Devices(world.engine, world.clock)
    people.tag("dev-1", {"line": "4"}, who="bob")
    world.enrolment.enrol(token, make_csr("dev-1")[1])
    found = get_device(world.engine, "dev-1")
    assert (found.state, found.tags) == ("active", {"line": "4"})
    with pytest.raises(FleetError, match=r"\[enrol\.device_exists\]"):
        world.enrolment.create_token("dev-1")
    with reading(world.engine) as connection:
        old = connection.execute(select(devices.c.certificate_sha256)).scalar_one()
    people.move("dev-1", Action.RETIRE, who="ann")
    assert not accepts_certificate(world.engine, "dev-1", old)
    again = world.enrolment.create_token("dev-1", who="ann")
    assert not accepts_certificate(world.engine, "dev-1", old)
    world.enrolment.enrol(again, make_csr("dev-1")[1])
    assert get_device(world.engine, "dev-1").tags == {"line": "4"}
    assert not accepts_certificate(world.engine, "dev-1", old)
    events = [each.event for each in list_log(world.engine, "dev-1").items]
    assert events == ["enrol", "expect", "retire", "enrol", "tags", "expect"]


def test_a_token_of_a_device_that_is_revoked_before_it_comes_is_void(world: World) -> None:
    token = world.enrolment.create_token("dev-1")
    Devices(world.engine, world.clock).move("dev-1", Action.REVOKE, who="ann")
    with pytest.raises(FleetError, match=r"\[enrol\.token_expired\]"):
        world.enrolment.enrol(token, make_csr("dev-1")[1])
    assert get_device(world.engine, "dev-1").state == "revoked"


def test_tokens_of_many_devices_are_all_made_or_none(world: World) -> None:
    world.enrol("dev-2")
    wrong = [
        ExpectedDevice("dev-1", {"site": "north"}, 2),
        ExpectedDevice("dev-2", {}, 3),
        ExpectedDevice("../dev", {}, 4),
        ExpectedDevice("dev-1", {}, 5),
        ExpectedDevice("dev-3", {"a": "\x00"}, 6),
    ]
    with pytest.raises(FleetError) as caught:
        world.enrolment.create_tokens(wrong)
    assert caught.value.code == "enrol.rows"
    for text in ("line 3: dev-2 is active already", "line 4: ", "line 5: dev-1 is there twice", "line 6: the tag"):
        assert text in caught.value.message
    assert [each.id for each in list_devices(world.engine).items] == ["dev-2"]
    many = [ExpectedDevice(f"new-{number:04}", {"site": "north"}) for number in range(2100)]
    tokens = world.enrolment.create_tokens(many)
    assert count_devices(world.engine, "state = pending and site = north").devices == 2100
    world.enrolment.enrol(tokens[2000], make_csr("new-2000")[1])
    assert get_device(world.engine, "new-2000").tags == {"site": "north"}
