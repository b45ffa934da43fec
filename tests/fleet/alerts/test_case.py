"""The case's machine and triage: functions of values."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.alerts.case import (
    TRIAGE,
    Case,
    CaseAlert,
    CaseEvent,
    CaseState,
    Policy,
    Where,
    act,
    key_of,
    opened,
    taken,
)
from wheeltapper_fleet.alerts.triage import Facts, is_release_wide, judge
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import NO_SCORE

POLICY = Policy()
HOUR, DAY = 3600.0, 86_400.0


def alert(at: float = 1000.0, severity: str = "warning", raised: bool = True, **changes: Any) -> CaseAlert:
    fields: dict[str, Any] = {"id": 1, "device": "d-1", "pipeline": "main", "model": "m", "release": 1, "score": 2.0}
    return CaseAlert(**{**fields, "severity": severity, "raised": raised, "happened_at": at, **changes})


def case(at: float = 1000.0, severity: str = "warning", where: Where | None = None, **changes: Any) -> Case:
    first = alert(at, severity, **changes)
    place = where or Where(point="p-1", machine="m-1", site="s-1")
    return opened(key=key_of(first, place), alert=first, where=place, now=at)


def resolved(made: Case, at: float, who: str = "ann") -> Case:
    return replace(act(made, CaseEvent.RESOLVE, at), resolved_at=at, resolved_by=who)


LEGAL = {
    ("open", "acknowledge"): "acknowledged",
    ("open", "work"): "in_work",
    ("acknowledged", "work"): "in_work",
    ("open", "resolve"): "resolved",
    ("acknowledged", "resolve"): "resolved",
    ("in_work", "resolve"): "resolved",
    ("resolved", "resolve"): "resolved",
    ("open", "settle"): "resolved",
    ("resolved", "reopen"): "open",
}


@pytest.mark.parametrize("state", list(CaseState))
@pytest.mark.parametrize("event", list(CaseEvent))
def test_the_table_is_all_that_is_possible(state: CaseState, event: CaseEvent) -> None:
    made = replace(case(), state=state.value)
    wanted = LEGAL.get((state.value, event.value))
    if wanted is not None:
        assert act(made, event, 2000.0).state == wanted
        return
    with pytest.raises(FleetError) as caught:
        act(made, event, 2000.0)
    assert (caught.value.code, caught.value.status) == ("case.illegal", 409)


ALERTS = st.lists(
    st.tuples(st.sampled_from(["warning", "critical"]), st.booleans(), st.floats(0.0, 5.0)), min_size=2, max_size=4
)


@given(ALERTS)
def test_alerts_in_any_order_lead_to_the_same_present(said: list[tuple[str, bool, float]]) -> None:
    every = [
        alert(1000.0 + 10 * number, severity, raised, score=score, id=number)
        for number, (severity, raised, score) in enumerate(said)
    ]
    ends = set()
    for order in permutations(every):
        if not order[0].raised:
            continue
        made = opened(key="k", alert=order[0], where=Where(), now=2000.0)
        for each in order[1:]:
            made = taken(made, each, 2000.0, POLICY)
        ends.add((made.raised, made.worst, made.first_at, made.last_at, made.alerts))
    assert len({(end[0], end[3]) for end in ends}) <= 1
    assert len({end[1] for end in ends}) <= 1


def test_alerts_of_one_point_belong_together_whatever_device_sends_them() -> None:
    assert key_of(alert(device="gw-1"), Where(point="p")) == key_of(alert(device="gw-2"), Where(point="p"))
    assert key_of(alert(device="gw-1"), Where()) != key_of(alert(device="gw-2"), Where())
    assert key_of(alert(label=NO_SCORE), Where(point="p")) != key_of(alert(), Where(point="p"))


def test_a_resolved_case_is_reopened_after_its_quiet_time_only() -> None:
    done = resolved(case(), 2000.0)
    within = taken(done, alert(2100.0), 2100.0, POLICY)
    assert (within.state, within.alerts, within.look_at) == ("resolved", 2, 2000.0 + HOUR)
    after = taken(done, alert(2000.0 + HOUR), 2000.0 + HOUR, POLICY)
    assert (after.state, after.episode, after.verdict, after.told) == ("open", 2, None, None)
    assert taken(done, alert(2000.0 + HOUR, raised=False), 2000.0 + HOUR, POLICY).state == "resolved"
    by_itself = resolved(case(), 2000.0, TRIAGE)
    assert taken(by_itself, alert(2001.0), 2001.0, POLICY).state == "open"


def test_what_comes_late_does_not_undo_what_is_known() -> None:
    cleared = taken(case(), alert(3000.0, raised=False), 3000.0, POLICY)
    late = taken(cleared, alert(2000.0, "critical"), 3100.0, POLICY)
    assert (late.raised, late.worst, late.last_at) == (False, "critical", 3000.0)


def said(made: Case, now: float, **facts: Any) -> tuple[str, str, bool]:
    judged = judge(made, Facts(**facts), now, POLICY)
    assert judged.why
    return judged.attention, judged.why[0], judged.settle


def test_a_single_warning_waits_and_settles_when_it_clears() -> None:
    young = case()
    judged = judge(young, Facts(), 1060.0, POLICY)
    assert (judged.attention, judged.look_at) == ("waiting", 1600.0)
    assert "1 minute old" in judged.why[0]
    assert said(young, 1700.0)[0] == "person"
    cleared = taken(young, alert(1300.0, raised=False), 1300.0, POLICY)
    assert said(cleared, 1300.0) == ("nobody", "a single warning that cleared by itself after 5 minutes", True)
    slow = taken(young, alert(2000.0, raised=False), 2000.0, POLICY)
    assert said(slow, 2000.0)[::2] == ("person", False)


@pytest.mark.parametrize(
    "made",
    [
        case(severity="critical"),
        case(zone="D"),
        case(where=Where(point="p", criticality="high")),
        taken(case(), alert(1010.0), 1010.0, POLICY),
        replace(case(), episode=3),
    ],
)
def test_what_is_no_single_harmless_warning_does_not_wait(made: Case) -> None:
    assert said(made, 1020.0)[0] == "person"


def test_what_flaps_is_not_settled_a_third_time() -> None:
    cleared = taken(replace(case(), episode=3), alert(1100.0, raised=False), 1100.0, POLICY)
    assert said(cleared, 1100.0)[::2] == ("person", False)


def test_what_a_person_has_taken_is_never_settled_nor_hidden() -> None:
    mine = replace(taken(case(), alert(1100.0, raised=False), 1100.0, POLICY), state="acknowledged", parent=7)
    assert said(mine, 1100.0, silenced_until=9e9)[::2] == ("person", False)


def test_maintenance_and_releases_are_said() -> None:
    attention, why, _ = said(case(severity="critical"), 1100.0, silenced_until=5000.0, silence_reason="overhaul")
    assert (attention, "overhaul" in why) == ("nobody", True)
    assert judge(case(), Facts(silenced_until=5000.0), 1100.0, POLICY).look_at == 5000.0
    assert said(replace(case(), parent=7), 1100.0)[:2] == ("nobody", "it belongs to case 7, which stands for it")
    assert said(replace(case(), kind="release", episode_alerts=9), 1100.0)[0] == "person"


def test_no_score_is_trouble_of_the_device() -> None:
    trouble = case(label=NO_SCORE, score=0.0)
    assert (trouble.kind, trouble.score) == ("device", None)
    assert "the device is in trouble" in judge(trouble, Facts(), 2000.0, POLICY).why[0]
    assert said(taken(trouble, alert(9000.0, raised=False, label=NO_SCORE), 9000.0, POLICY), 9000.0)[2]
    assert judge(trouble, Facts(), 2000.0, POLICY).risk < judge(case(), Facts(), 2000.0, POLICY).risk


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"severity": "critical"}, {}),
        ({"zone": "D"}, {"zone": "C"}),
        ({"zone": "C"}, {}),
        ({"where": Where(criticality="high")}, {"where": Where()}),
        ({"where": Where()}, {"where": Where(criticality="low")}),
    ],
)
def test_what_is_worse_ranks_higher(worse: dict[str, Any], better: dict[str, Any]) -> None:
    assert judge(case(**worse), Facts(), 2000.0, POLICY).risk > judge(case(**better), Facts(), 2000.0, POLICY).risk


def test_a_rising_score_time_repetition_and_a_model_that_was_right_rank_higher() -> None:
    base = judge(case(), Facts(), 2000.0, POLICY).risk
    assert judge(case(), Facts(score=8.0), 2000.0, POLICY).risk > base
    assert judge(case(), Facts(), 1000.0 + 2 * DAY, POLICY).risk > base
    assert judge(replace(case(), episode=3), Facts(), 2000.0, POLICY).risk > base
    assert judge(case(), Facts(true_faults=9, false_alarms=1), 2000.0, POLICY).risk > base
    wrong = judge(case(), Facts(true_faults=1, false_alarms=9), 2000.0, POLICY)
    assert wrong.risk < base
    assert "m was right in 1 of 10 cases that were looked into" in wrong.why


@given(
    st.sampled_from(["warning", "critical"]),
    st.sampled_from([None, "A", "C", "D"]),
    st.floats(0, 1e9),
    st.integers(1, 9),
    st.integers(0, 50),
    st.integers(0, 50),
    st.booleans(),
)
def test_risk_has_bounds_and_every_judgement_its_reasons(
    severity: str, zone: str | None, age: float, episode: int, right: int, wrong: int, raised: bool
) -> None:
    made = replace(case(severity=severity, zone=zone), episode=episode, raised=raised)
    facts = Facts(true_faults=right, false_alarms=wrong, score=age)
    judged = judge(made, facts, 1000.0 + age, POLICY)
    assert 0 <= judged.risk <= 100
    assert judged.why
    assert judged == judge(made, facts, 1000.0 + age, POLICY)
    assert judged.settle or (judged.look_at is not None and judged.look_at > 1000.0 + age)


def test_a_release_is_suspected_only_while_it_is_young_and_stands_out() -> None:
    now = 1e6
    assert is_release_wide(5, 6, now - DAY, now, POLICY)
    assert not is_release_wide(4, 4, now - DAY, now, POLICY)
    assert not is_release_wide(5, 7, now - DAY, now, POLICY)
    assert not is_release_wide(50, 50, now - 20 * DAY, now, POLICY)
    assert not is_release_wide(50, 50, None, now, POLICY)
