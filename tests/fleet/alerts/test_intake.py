"""Alerts become cases, and triage judges them; on SQLite and PostgreSQL."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, insert, select, text, update

from tests.fleet.alerts.world import EPOCH, Works
from wheeltapper_fleet.alerts.case import CaseAlert, Where, key_of
from wheeltapper_fleet.alerts.service import Feedback
from wheeltapper_fleet.alerts.silences import create_silence, end_silence
from wheeltapper_fleet.alerts.tables import alerts, labels
from wheeltapper_fleet.alerts.views import get_case, list_alerts, list_case_log
from wheeltapper_fleet.assets.schemas import MappingRequest
from wheeltapper_fleet.assets.service import map_point
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import devices, latest
from wheeltapper_protocols.wire.messages import NO_SCORE, Severity

HOUR, DAY = 3600.0, 86_400.0
CRITICAL = Severity.CRITICAL


@pytest.fixture
def works(engine: Engine) -> Works:
    return Works(engine)


def kinds(works: Works) -> list[str]:
    return [each.kind.value for each in works.told]


def test_alerts_of_a_point_are_one_case_and_people_are_told_once_a_severity(works: Works) -> None:
    works.alert(1000.0)
    works.turn(1001.0)
    [case] = works.open()
    assert (case.point, case.machine, case.site, case.attention) == ("front", "press", "works", "waiting")
    assert works.told == []
    works.alert(1100.0, severity=CRITICAL)
    works.alert(1110.0, severity=CRITICAL)
    works.alert(1120.0, moved="y.rms")
    works.turn(1121.0)
    front, rear = works.open()
    assert (front.point, front.alerts, front.severity, front.attention) == ("front", 3, "critical", "person")
    assert (rear.point, rear.alerts) == ("rear", 1)
    assert kinds(works) == ["case.opened"]
    assert get_case(works.engine, front.id).same_machine == [rear.id]
    assert [each.point for each in list_alerts(works.engine, case=front.id).items] == ["front"] * 3
    works.turn(5000.0)
    assert kinds(works) == ["case.opened", "case.opened"]  # the rear's warning did not clear by itself


def test_a_warning_that_gets_worse_is_told_again(works: Works) -> None:
    works.alert(1000.0, "gw-2")
    works.turn(1001.0)
    assert kinds(works) == ["case.opened"]  # a critical machine does not wait
    works.alert(1100.0, "gw-2", severity=CRITICAL)
    works.turn(1101.0)
    assert kinds(works) == ["case.opened", "case.worse"]


def test_a_single_warning_that_clears_is_settled_and_says_why(works: Works) -> None:
    works.alert(1000.0)
    works.alert(1200.0, raised=False)
    works.turn(1201.0)
    [case] = works.all()
    assert (case.state, case.resolved_by, case.verdict) == ("resolved", "triage", None)
    assert case.why == ["a single warning that cleared by itself after 3 minutes"]
    assert (works.open(), works.told) == ([], [])
    assert "cleared by itself" in get_case(works.engine, case.id).log[0].detail
    works.alert(2000.0)
    works.turn(2001.0)
    [case] = works.open()
    assert (case.state, case.episode, case.alerts) == ("open", 2, 3)


def test_what_clears_nothing_has_no_case(works: Works) -> None:
    works.alert(1000.0, raised=False)
    works.turn(1001.0)
    assert works.all() == []
    assert [each.case_id for each in list_alerts(works.engine).items] == [None]


def test_a_replaced_gateway_goes_on_with_the_case_of_its_point(works: Works) -> None:
    works.alert(1000.0, "gw-2", severity=CRITICAL)
    works.turn(1001.0)
    map_point(works.engine, "hub", MappingRequest(device="gw-9", replace=True), 2000.0)
    works.alert(3000.0, "gw-9", severity=CRITICAL)
    works.turn(3001.0)
    [case] = works.open()
    assert (case.point, case.alerts, case.device) == ("hub", 2, "gw-9")
    works.alert(4000.0, "gw-2", severity=CRITICAL)  # it measures something else now, that nobody mapped
    works.turn(4001.0)
    assert {each.point for each in works.open()} == {"hub", None}


def test_maintenance_keeps_and_counts_and_what_is_still_raised_is_told_at_its_end(works: Works) -> None:
    number = create_silence(
        works.engine, asset="press", query="", from_at=500.0, to_at=2000.0, reason="overhaul", who="ann", now=600.0
    )
    works.alert(1000.0, severity=CRITICAL)
    works.alert(1000.0, "gw-2", severity=CRITICAL)
    works.turn(1001.0)
    by_point = {case.point: case for case in works.open()}
    assert (by_point["front"].attention, by_point["front"].silenced) == ("nobody", 1)
    assert "overhaul" in by_point["front"].why[0]
    assert by_point["hub"].attention == "person"
    assert [each.data["case"]["point"] for each in works.told] == ["hub"]
    assert [each.silenced for each in list_alerts(works.engine, point="front").items] == [True]
    works.turn(2001.0)
    assert [each.data["case"]["point"] for each in works.told] == ["hub", "front"]
    with pytest.raises(FleetError, match=r"silence\.not_found"):
        end_silence(works.engine, number, 2500.0)


def test_a_silence_that_is_ended_by_hand_ends_at_once(works: Works) -> None:
    works.alert(1000.0, severity=CRITICAL)
    works.alert(1000.0, "d-1", severity=CRITICAL)
    works.turn(1001.0)
    assert len(works.told) == 2
    with works.engine.begin() as connection:
        connection.execute(insert(devices).values(id="d-1", tags={}, online=True, state="active"))
    numbers = [
        create_silence(
            works.engine, asset=asset, query=query, from_at=1100.0, to_at=9000.0, reason="r", who="ann", now=1100.0
        )
        for asset, query in (("works", ""), (None, "online"))
    ]
    works.turn(1101.0)
    assert [case.attention for case in works.open()] == ["nobody", "nobody"]
    works.alert(1200.0, severity=CRITICAL)
    works.turn(1201.0)
    for number in numbers:
        end_silence(works.engine, number, 1300.0)
    works.turn(1301.0)
    assert [case.attention for case in works.open()] == ["person", "person"]
    assert len(works.told) == 2


def test_no_score_is_a_case_of_the_device_that_settles_with_it(works: Works) -> None:
    works.alert(1000.0, label=NO_SCORE, score=0.0)
    works.alert(1010.0, severity=CRITICAL)
    works.turn(1011.0)
    assert sorted(case.kind for case in works.open()) == ["device", "machine"]
    works.alert(2000.0, label=NO_SCORE, score=0.0, raised=False)
    works.turn(2001.0)
    assert [case.kind for case in works.open()] == ["machine"]


def test_many_points_soon_after_a_release_are_one_case_about_it(works: Works) -> None:
    works.publish(2, 500.0)
    for number in range(4):
        works.alert(1000.0 + number, f"d-{number}", release=2)
    works.turn(1010.0)
    assert [case.kind for case in works.open()] == ["machine"] * 4
    works.alert(1020.0, "d-4", release=2)
    works.alert(1021.0, "d-5", release=2, zone="D", severity=CRITICAL)
    works.turn(1022.0)
    [parent] = [case for case in works.open() if case.kind == "release"]
    children = [case for case in works.open() if case.parent == parent.id]
    assert (parent.attention, len(children)) == ("person", 5)
    assert parent.why[0] == "5 points raised alerts soon after release 2 of m came"
    assert {case.attention for case in children} == {"nobody"}
    alone = next(case for case in works.open() if case.device == "d-5")
    assert (alone.parent, alone.attention) == (None, "person")  # zone D is measured, whatever a model says
    assert [each.subject for each in works.told] == [f"case {alone.id}", f"case {parent.id}"]
    works.alert(1030.0, "d-6", release=2)
    works.turn(1031.0)
    assert "6 points" in next(case for case in works.open() if case.id == parent.id).why[0]
    version = get_case(works.engine, parent.id).version
    works.cases.resolve(parent.id, version, "ann", 1100.0, Feedback(verdict="false_alarm", note="threshold"))
    works.turn(1101.0)
    assert [case.device for case in works.open()] == ["d-5"]
    assert {case.verdict for case in works.all() if case.parent == parent.id} == {"false_alarm"}
    with reading(works.engine) as connection:
        assert len(connection.execute(select(labels.c.device)).all()) == 6


def test_an_old_release_is_suspected_of_nothing(works: Works) -> None:
    works.publish(1, -30 * DAY)
    for number in range(9):
        works.alert(1000.0, f"d-{number}")
    works.turn(1001.0)
    assert {case.kind for case in works.open()} == {"machine"}


def test_resolving_labels_what_was_measured_and_correcting_it_replaces_the_label(works: Works) -> None:
    works.alert(1000.0, severity=CRITICAL)
    works.alert(1500.0, severity=CRITICAL)
    works.turn(1501.0)
    [case] = works.open()
    works.cases.acknowledge(case.id, case.version, "ann", 1600.0)
    with pytest.raises(FleetError, match=r"case\.conflict"):
        works.cases.acknowledge(case.id, case.version, "bob", 1600.0)
    with pytest.raises(FleetError, match=r"case\.illegal"):
        works.cases.acknowledge(case.id, case.version + 1, "bob", 1600.0)
    works.cases.work(case.id, case.version + 1, "ann", 1700.0, "WO-1")
    found = Feedback(verdict="true_fault", part="outer race", failed_at=1800.0)
    works.cases.resolve(case.id, case.version + 2, "ann", 2000.0, found)
    works.cases.resolve(case.id, case.version + 3, "bob", 2100.0, Feedback(verdict="false_alarm"))
    with pytest.raises(FleetError, match=r"case\.failed_at"):
        works.cases.resolve(case.id, case.version + 4, "bob", 2100.0, Feedback(verdict="unclear", failed_at=1.0))
    with reading(works.engine) as connection:
        [label] = connection.execute(select(labels)).all()
    assert (label.verdict, label.device, label.point, label.from_t_s, label.to_t_s) == (
        "false_alarm",
        "gw-1",
        "front",
        1000.0,
        1500.0,
    )
    shown = get_case(works.engine, case.id)
    assert (shown.assignee, shown.work_order, shown.resolved_at) == ("ann", "WO-1", 2000.0)
    page = list_case_log(works.engine, case.id, 2)
    assert [(each.who, each.event) for each in page.items] == [("bob", "resolved"), ("ann", "resolved")]
    assert [each.event for each in list_case_log(works.engine, case.id, 2, page.next).items] == [
        "in work",
        "acknowledged",
    ]
    assert kinds(works) == ["case.opened", "case.resolved"]


def test_what_is_still_raised_after_the_repair_comes_back(works: Works) -> None:
    works.alert(1000.0, severity=CRITICAL)
    works.alert(1000.0, "gw-2", severity=CRITICAL)
    works.turn(1001.0)
    for case in works.open():
        verdict = "true_fault" if case.point == "front" else "false_alarm"
        works.cases.resolve(case.id, case.version, "ann", 2000.0, Feedback(verdict=verdict))
    works.turn(2000.0 + HOUR - 1)
    assert works.open() == []
    works.turn(2000.0 + HOUR + 1)
    assert [(case.point, case.episode) for case in works.open()] == [("front", 2)]
    assert kinds(works)[-1] == "case.reopened"


def test_an_alert_that_cannot_be_taken_stops_none_of_the_others(
    works: Works, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    def spoiled(alert: CaseAlert, where: Where) -> str:
        if alert.device == "gw-2":
            raise ValueError("spoiled")
        return key_of(alert, where)

    monkeypatch.setattr("wheeltapper_fleet.alerts.intake.key_of", spoiled)
    for device in ("gw-1", "gw-2", "gw-3"):
        works.alert(1000.0, device, severity=CRITICAL)
    with caplog.at_level(logging.ERROR):
        works.turn(1001.0)
    assert sorted(case.device for case in works.open()) == ["gw-1", "gw-3"]
    assert "spoiled" in caplog.text
    with reading(works.engine) as connection:
        assert connection.execute(select(alerts.c.id).where(alerts.c.triaged.is_(False))).all() == []


def test_a_turn_costs_as_many_reads_for_a_slice_as_for_one(works: Works) -> None:
    counted = []

    def count(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            counted.append(statement)

    def selects(turn: float, number: int) -> int:
        for each in range(number):
            works.alert(turn, f"d{number}-{each}", severity=CRITICAL)
        counted.clear()
        works.triage.turn(turn + 1)
        return len(counted)

    event.listen(works.engine, "before_cursor_execute", count)
    one, many = selects(1000.0, 1), selects(1100.0, 100)
    event.remove(works.engine, "before_cursor_execute", count)
    assert len(works.open()) == 100  # a page of the 101
    assert many <= one + 2


def test_alerts_from_before_are_taken_like_new_ones(works: Works) -> None:
    works.alert(1000.0, severity=CRITICAL)
    with works.engine.begin() as connection:
        connection.execute(update(alerts).values(triaged=False, case_id=None))
    works.turn(9e6)
    assert len(works.open()) == 1


def test_a_score_that_rises_while_it_is_raised_ranks_higher(works: Works) -> None:
    works.alert(1000.0, "gw-2", severity=CRITICAL)
    works.alert(1000.0, "d-9", severity=CRITICAL)
    works.turn(1001.0)
    before = {case.device: case.risk for case in works.open()}
    row = {
        "pipeline": "main",
        "epoch": EPOCH,
        "seq": 1,
        "received_at": 1900.0,
        "last_t_s": 1.0,
        "windows": 1,
        "paced": 0,
    }
    row |= {"arrival_pace_s": 1.0, "machine_pace_s": 1.0, "model": "m", "release": 1, "severity": "critical"}
    with works.engine.begin() as connection:
        connection.execute(insert(latest).values(**row, device="gw-2", at=1900.0, score=8.0))
        connection.execute(insert(latest).values(**row, device="d-9", at=900.0, score=8.0))  # older than the alert
    works.turn(2000.0)
    after = {case.device: case for case in works.open()}
    assert after["gw-2"].risk > before["gw-2"]
    assert "the score rose from 2 to 8" in after["gw-2"].why
    assert after["d-9"].risk == before["d-9"]


def plan(engine: Engine, query: str) -> str:
    with reading(engine) as connection:
        return " ".join(str(row[-1]) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT id FROM alerts WHERE triaged = FALSE ORDER BY id LIMIT 250", "ix_alerts_waiting"),
        ("SELECT * FROM alerts WHERE device = 'd' ORDER BY id DESC LIMIT 101", "ix_alerts_device"),
        ("SELECT * FROM alerts WHERE case_id = 7 ORDER BY id DESC LIMIT 101", "ix_alerts_case_id"),
        ("SELECT * FROM cases WHERE state <> 'resolved' ORDER BY risk DESC, id DESC LIMIT 101", "ix_cases_open"),
        ("SELECT * FROM cases WHERE look_at <= 5 ORDER BY look_at, id LIMIT 250", "ix_cases_look_at"),
        ("SELECT max(id) FROM cases WHERE key IN ('a', 'b') GROUP BY key", "ix_cases_key"),
        ("SELECT * FROM case_log WHERE case_id = 7 ORDER BY id DESC LIMIT 101", "ix_case_log_case_id"),
        (
            "SELECT * FROM notifications WHERE target = 'a' AND state = 'waiting' AND next_at <= 5 ORDER BY next_at",
            "ix_notifications_waiting",
        ),
        ("SELECT * FROM notifications WHERE state = 'dead' ORDER BY id DESC LIMIT 101", "ix_notifications_dead"),
    ],
)
def test_lists_and_turns_read_an_index_in_its_order(tmp_path: Path, query: str, index: str) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    found = plan(engine, query)
    assert index in found
    assert "ORDER BY" not in found or "look_at" in query, found
    engine.dispose()
