"""The schema of a campaign's specification accepts exactly what is read."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.rules.spec_schema import spec_schema
from wheeltapper_fleet.ground.errors import FleetError

SCHEMA = jsonschema.Draft202012Validator(spec_schema())
NUMBERS = st.sampled_from([None, 0, 1, 2, 50.0, 100, 100.5, -1, True, "5"])
TIMES = st.sampled_from(["00:00", "23:59", "24:00", "7:00", "12:00:00", 12])
NAMES = st.sampled_from(["press-1", "a", "Press", "*", "", "a" * 64, 5])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


SPECS = st.fixed_dictionaries(
    {"model": st.sampled_from(["bearing", "bearing", "Bearing"]), "release": st.sampled_from([1, 2, 0, 10**9, "1"])},
    optional={
        "pipelines": st.lists(NAMES, max_size=3),
        "audience": some(
            continuous=st.sampled_from([True, False, 1]),
            devices=st.lists(NAMES, max_size=2),
            tags=st.dictionaries(st.just("site"), NAMES),
        ),
        "waves": st.lists(
            some(
                percent=NUMBERS,
                count=NUMBERS,
                devices=st.lists(NAMES, max_size=2),
                rate=some(per_minute=NUMBERS, factor=NUMBERS, every_successes=NUMBERS, maximum_per_minute=NUMBERS),
            ),
            max_size=2,
        ),
        "windows": st.lists(
            some(begin=TIMES, end=TIMES, days=st.lists(st.sampled_from(["mon", "sun", "day"]), max_size=2)), max_size=2
        ),
        "retry": st.lists(
            some(
                states=st.lists(st.sampled_from(["FAILED", "ROLLED_BACK", "CANCELLED"]), max_size=2),
                codes=st.lists(st.sampled_from(["fetch.*", "a.b", "*", "A", ""]), max_size=2),
                times=NUMBERS,
                backoff_seconds=NUMBERS,
            ),
            max_size=2,
        ),
        "time_zone": st.sampled_from(["UTC", "Europe/Berlin", "", "../etc", 5]),
        "success": some(percent=NUMBERS, count=NUMBERS),
        "abort": st.lists(
            some(
                percent=NUMBERS,
                count=NUMBERS,
                minimum_executed=NUMBERS,
                states=st.lists(st.sampled_from(["FAILED", "COMMITTED", "CANCELLED", 1]), max_size=2),
                scope=st.sampled_from(["wave", "campaign", "fleet"]),
            ),
            max_size=2,
        ),
        "gates": st.lists(
            some(
                kind=st.sampled_from(["latency", "latency", "quality", "crash_free", "speed"]),
                alpha=NUMBERS,
                max_increase=NUMBERS,
                max_share=NUMBERS,
                min_share=NUMBERS,
                minimum_devices=NUMBERS,
                observe_seconds=st.sampled_from([300, 450, 900, 600.0, 0]),
            ),
            max_size=2,
        ),
        "on_abort": st.sampled_from(["PAUSE", "CANCEL_PENDING", "ROLLBACK_TO", "pause"]),
        "rollback_to": st.sampled_from([None, 1, 0, "1", "before"]),
        "soak_seconds": NUMBERS,
        "needs_approval": st.sampled_from([True, False, None]),
        "make_default": st.booleans(),
        "wawes": st.just([]),
    },
)


def reads(spec: dict[str, Any]) -> bool:
    try:
        read_spec(spec)
    except FleetError:
        return False
    return True


@given(SPECS)
def test_the_schema_accepts_exactly_what_is_read(spec: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(spec) == reads(spec)


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"pipelines": ["*"]}, True),
        ({"pipelines": ["*", "main"]}, False),
        ({"success": {"percent": 50, "count": None}}, True),
        ({"success": {"percent": 50, "count": 1}}, False),
        ({"waves": [{"percent": 10}, {"devices": ["a"]}, {}]}, True),
        ({"waves": [{"percent": 10, "count": 1}]}, False),
        ({"abort": [{"count": 1}]}, True),
        ({"abort": [{"minimum_executed": 1}]}, False),
        ({"abort": [{"count": 1, "states": ["COMMITTED"]}]}, False),
        ({"gates": [{"kind": "latency"}, {"kind": "crash_free", "min_share": 1}]}, True),
        ({"gates": [{"kind": "latency", "observe_seconds": 301}]}, False),
        ({"gates": [{"kind": "crash_free", "max_increase": 0.1}]}, False),
        ({"gates": [{"kind": "quality", "max_share": 0.1, "alpha": 0.01}]}, True),
        ({"gates": [{"max_increase": 0.1}]}, False),
        ({"audience": {"committed_in": "c-1"}}, True),
        ({"audience": {"committed_in": "c 1"}}, False),
        ({"audience": {"committed_in": "c-1"}, "make_default": True}, False),
        ({"audience": {"tags": {}}, "make_default": True}, True),
        ({"release": 1.0}, True),
        ({"make_default": True}, True),
        ({"make_default": True, "pipelines": ["*"]}, False),
        ({"make_default": True, "audience": {"query": 'site = "a"'}}, False),
        ({"on_abort": "ROLLBACK_TO"}, False),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": 1}, True),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": "before"}, True),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": "after"}, False),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": None}, False),
        ({"make_default": True, "audience": {"committed_in": "c-1"}}, False),
        ({"audience": {"query": 'site = "a"'}}, True),
        ({"waves": [{"rate": {"per_minute": 5}}]}, True),
        ({"waves": [{"rate": {"per_minute": 5, "factor": 2}}]}, False),
        ({"waves": [{"rate": {"per_minute": 5, "factor": 2, "every_successes": 3, "maximum_per_minute": 9}}]}, True),
        ({"windows": [{"begin": "22:00", "end": "05:00"}]}, True),
    ],
)
def test_rules_that_no_type_says(change: dict[str, Any], valid: bool) -> None:
    spec = {"model": "bearing", "release": 1, **change}
    assert (SCHEMA.is_valid(spec), reads(spec)) == (valid, valid)
