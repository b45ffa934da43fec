"""Cursors: what was written is read, and nothing else is."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import read_cursor, write_cursor

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.floats(-1e300, 1e300)


@given(TEXTS, NUMBERS, TIMES)
def test_what_was_written_is_read(name: str, number: int, at: float) -> None:
    text = write_cursor(at, name, number)
    assert read_cursor(text, float, str, int) == (at, name, number)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_nothing_else_is(text: str) -> None:
    try:
        key = read_cursor(text, str, int)
    except FleetError as error:
        said = (error.code, error.status)
    else:
        said = ("cursor.invalid", 400) if [type(part) for part in key] == [str, int] else ("read", 200)
    assert said == ("cursor.invalid", 400)


@pytest.mark.parametrize(
    "key",
    [
        *([], ["a"], ["a", 1, 1], [1, "a"], ["a", True], ["a", 1.5], ["a", 2**63], ["a\0", 1], ["\ud800", 1]),
        *({"a": 1}, None, ["a" * 301, 1], [["a"], 1], ["a", None]),
    ],
)
def test_a_key_of_another_list_is_refused(key: object) -> None:
    text = base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()
    with pytest.raises(FleetError, match=r"\[cursor\.invalid\]"):
        read_cursor(text, str, int)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e400"])
def test_what_is_no_number_is_refused(number: str) -> None:
    text = base64.urlsafe_b64encode(f"[{number}]".encode()).rstrip(b"=").decode()
    with pytest.raises(FleetError, match=r"\[cursor\.invalid\]"):
        read_cursor(text, float)
