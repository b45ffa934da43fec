"""Cases that looked alike: which are found, in which order, at what cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event, update

from tests.fleet.alerts.world import Works
from wheeltapper_fleet import tables
from wheeltapper_fleet.alerts.service import Feedback
from wheeltapper_fleet.alerts.similar import agreement, signature, similar_cases
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import Reason

NOW = 1.79e9
NAMES = st.sampled_from(["x.rms", "y.rms", "x.bpfo", "outer race (BPFO 104.6 Hz, 3 harmonics)", "speed"])
REASONS = st.lists(
    st.fixed_dictionaries({"feature": NAMES, "share": st.floats(0, 1)}) | st.fixed_dictionaries({"feature": NAMES}),
    max_size=5,
)


def reasons(**shares: float) -> tuple[Reason, ...]:
    return tuple(Reason(feature=f"x.{name}", value=2.0, usual=1.0, share=share) for name, share in shares.items())


def a_past(works: Works) -> dict[str, int]:
    """Cases with a verdict, one without, one of another model, and one that is open; their numbers by device."""
    made = {
        "like": ({"bpfo": 0.8, "rms": 0.2}, "true_fault", "m"),
        "half": ({"bpfo": 0.4, "kurtosis": 0.6}, "false_alarm", "m"),
        "other": ({"skewness": 1.0}, "true_fault", "m"),
        "model": ({"bpfo": 0.8, "rms": 0.2}, "true_fault", "n"),
        "nobody": ({"bpfo": 0.8, "rms": 0.2}, None, "m"),
        "now": ({"bpfo": 0.7, "rms": 0.3}, None, "m"),
    }
    for device, (shares, _, model) in made.items():
        works.alert(NOW - 7200, device, reasons=reasons(**shares), model=model)
    works.turn(NOW)
    numbers = {case.device: case.id for case in works.all()}
    for device, (_, verdict, _) in made.items():
        if verdict is not None:
            case = next(each for each in works.all() if each.device == device)
            works.cases.resolve(case.id, case.version, "ann", NOW, Feedback(verdict=verdict, part=f"part of {device}"))
    return numbers


def test_earlier_cases_are_found_by_what_moved(engine: Engine) -> None:
    works = Works(engine)
    numbers = a_past(works)
    found = similar_cases(engine, numbers["now"])
    assert [(each.device, each.verdict, each.part, each.agreement) for each in found.similar] == [
        ("like", "true_fault", "part of like", 0.9),
        ("half", "false_alarm", "part of half", 0.4),
    ]
    assert found.compared == 3, "of the same model, with a verdict"
    alone = similar_cases(engine, numbers["model"])
    assert (alone.similar, alone.compared) == ([], 0)
    with pytest.raises(FleetError) as refused:
        similar_cases(engine, 999)
    assert refused.value.code == "case.not_found"


def test_a_requester_of_some_devices_sees_only_theirs(engine: Engine) -> None:
    works = Works(engine)
    numbers = a_past(works)
    with engine.begin() as connection:
        for device in ("like", "half"):
            connection.execute(tables.devices.insert().values(id=device, tags={}, site=device, online=False))
    found = similar_cases(engine, numbers["now"], 'site = "half"', NOW)
    assert [each.device for each in found.similar] == ["half"]


def test_reasons_that_cannot_be_read_are_no_reasons(engine: Engine) -> None:
    works = Works(engine)
    numbers = a_past(works)
    with engine.begin() as connection:
        connection.execute(update(tables.alerts).values(reasons=["x", {"feature": 1}, {"share": True}]))
    assert similar_cases(engine, numbers["now"]).similar == []


def test_many_cases_cost_no_more_statements(engine: Engine) -> None:
    works = Works(engine)
    numbers = a_past(works)
    asked: list[str] = []
    readers = engine.get_execution_options().get("wheeltapper_readers", engine)

    @event.listens_for(readers, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    similar_cases(engine, numbers["now"])
    assert len(asked) == 3


@given(one=REASONS, other=REASONS)
def test_agreement_is_a_share_and_the_same_both_ways(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    mine, theirs = signature(one), signature(other)
    assert sum(mine.values()) == pytest.approx(1.0) or mine == {}
    assert 0 <= agreement(mine, theirs) <= 1 + 1e-9
    assert agreement(mine, theirs) == pytest.approx(agreement(theirs, mine))
    if mine:
        assert agreement(mine, mine) == pytest.approx(1.0)


def test_a_fault_that_is_named_counts_beside_what_moved() -> None:
    named = {"feature": "outer race (BPFO 104.6 Hz, 3 harmonics)", "share": 0.0}
    other = {"feature": "outer race (BPFO 99.1 Hz, 3 harmonics)", "share": 0.0}
    found = signature([named, {"feature": "x.rms", "share": 1.0}])
    assert found == {"outer race": pytest.approx(1 / 3), "rms": pytest.approx(2 / 3)}
    assert agreement(found, signature([other, {"feature": "y.kurtosis", "share": 1.0}])) == pytest.approx(1 / 3)
