"""The query language: what a query means, and that a bad one is refused with the place of its fault."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.devices.queries import queries
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import MAX_CHARACTERS, STATES, parse

FACTS: dict[str, object] = {
    "id": "press-1", "state": "active", "online": True, "site": "north hall", "last_seen": 1000.0, "enrolled": 10.0,
    "tag.line": "3", "tag.a b": "x", "attr.agent_version": "0.10.2", "model.main": "bearing", "release.main": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "online", "not not online", "id = press-1", "id in (press-2, press-1)", 'id like("press-*")',
        'site = "north hall"', "site != north", "tag.line = 3", 'tag.line = "3"', "tag.line in (2, 3)",
        "tag.line < 3.5", 'tag."a b" = x', "not has tag.other", "tag.other != 3", "not tag.other > 3",
        "not tag.other <= 3",
        'attr.agent_version > "0.9"', 'attr.agent_version < "0.11"', "not attr.agent_version > 0", "release(main) >= 4",
        'model("main") = bearing', "last_seen > 2m ago", "not last_seen > 1m ago", "enrolled < 2026-01-01",
        "state = active AND (online OR id = x)", 'id = x or online and site like("north*")', "last_seen = 1000",
    ],
)  # fmt: skip
def test_a_query_that_holds(text: str) -> None:
    assert parse(text).matches(FACTS, now=1100.0)
    assert not parse(f"not ({text})").matches(FACTS, now=1100.0) if text.strip() else parse(text).everything


def test_or_binds_less_than_and() -> None:
    facts: dict[str, object] = {"tag.a": "1"}
    assert parse("tag.a = 1 or tag.b = 1 and tag.c = 1").matches(facts)
    assert not parse("(tag.a = 1 or tag.b = 1) and tag.c = 1").matches(facts)


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("sites = north", 1, "there is no field 'sites'"),
        ("site = ", 8, "a value is expected"),
        ('site = "north', 8, "no closing quote"),
        ("site = north south", 14, "after the query has ended"),
        ("site north", 6, "one of = !="),
        ("(site = north", 14, "')' is expected"),
        ("site = north)", 13, "after the query has ended"),
        ("site = north and", 17, "a field is expected"),
        ("site < north", 6, "has no order"),
        ("site = and", 8, "a value is expected"),
        ("state = gone", 9, "there is no state"),
        ("online = 1", 10, "true or false"),
        ("release(main) = four", 17, "a number is expected"),
        ("release(main) = NaN", 17, "a number is expected"),
        ("release(main) = 1e999", 17, "a number is expected"),
        ("release = 4", 9, "'(' is expected"),
        ("last_seen < yesterday", 13, "a time is expected"),
        ("last_seen < 7d", 15, "'ago' is expected"),
        ("last_seen < 2026-13-01", 13, "a time is expected"),
        ("tag. = 3", 1, "needs a name"),
        ("tag = 3", 1, "there is no field"),
        ("has", 4, "a field is expected"),
        ("id in ()", 8, "a value is expected"),
        ("id in (a b)", 10, "')' is expected"),
        ("id like press", 9, "'(' is expected"),
        ("id like(" + '"*a*b*c*d*e*f*g*h*i"' + ")", 9, "wildcards"),
        ("release(main) like(4)", 15, "is no text"),
        ("site = 'north'", 8, "means nothing here"),
        ("site = nörth", 9, "means nothing here"),
        ('site = "a\x00b"', 10, "cannot have this character"),
        ('site = "a\ud800b"', 10, "cannot have this character"),
        ("site = a; drop table devices", 9, "means nothing here"),
    ],
)
def test_a_bad_query_is_refused_with_the_place(text: str, column: int, says: str) -> None:
    with pytest.raises(FleetError) as caught:
        parse(text)
    assert caught.value.code == "query.invalid"
    assert caught.value.status == 422
    first, excerpt, caret = caught.value.message.split("\n")
    assert first.startswith(f"column {column}: ")
    assert says in first
    assert caret.rstrip().endswith("^")
    assert len(caret) - len("  ^") == column - 1 - max(0, column - 31)
    assert excerpt.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "not " * 1000 + "online",
        "(" * 40 + "online" + ")" * 40,
        "online and " * 500 + "online",
        f"id in ({', '.join(['a'] * 400)})",
        "x" * (MAX_CHARACTERS + 1),
        "\U0001f980" * 1_000_000,
    ],
    ids=["parentheses", "nots", "nested", "long", "list", "characters", "megabytes"],
)
def test_what_is_too_much_is_refused(text: str) -> None:
    with pytest.raises(FleetError, match=r"\[query\.invalid\]"):
        parse(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.tuples(queries, st.text(max_size=3), st.integers(0, 80)).map(
    lambda made: made[0][: made[2]] + made[1] + made[0][made[2] :]
)))  # fmt: skip
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    refused: FleetError | None = None
    try:
        parse(text).matches(FACTS, 1100.0)
    except FleetError as error:
        refused = error
    assert refused is None or (refused.code == "query.invalid" and re.match(r"column \d+: ", refused.message))


def test_states_are_those_of_a_devices_life() -> None:
    assert tuple(DeviceState) == STATES
