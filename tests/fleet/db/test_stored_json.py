"""A JSON column gives what is stored, however fast it is decoded; what is no JSON reads as missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from wheeltapper_fleet.db.stored_json import StoredJson

READ = StoredJson().result_processor(sqlite.dialect(), None)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(ANY)
def test_it_reads_what_the_standard_library_reads(value: Any) -> None:
    assert READ is not None
    text = json.dumps(value)
    read = READ(text)
    assert repr(read) == repr(json.loads(text)), "NaN is not equal to itself, but written alike"


@pytest.mark.parametrize("text", ["", "[1", "{'a': 1}", "[" * 100_000, '"\x00'])
def test_what_is_no_json_is_missing(text: str) -> None:
    assert READ is not None
    assert READ(text) is None


def test_null_and_no_value_are_missing() -> None:
    assert READ is not None
    assert READ("null") is None
    assert READ(None) is None
