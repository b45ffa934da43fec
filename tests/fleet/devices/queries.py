"""Hypothesis strategies: queries as text, and the facts of devices that they may mean."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from wheeltapper_fleet.ground.query import STATES

NAMES = ("line", "a b", "x.y")
TEXTS = (
    "north", "North", "", "9", "10", "010", "0.9.1", "0.10.0", "-2.5", "1e3", "50%", "a_b", "axb", "[a]", "a]",
    "back\\slash", 'quo"te', "Üb", "v9", "v10", "true",
)  # fmt: skip
GLOBS = ("*", "?", "n*", "*th", "a_b", "a?b", "[a]", "*%", "*\\*", "Ü?", "v?", "*0*", "")
PIPELINES = ("main", "gear")
MODELS = ("bearing", "gear", None)
NOW = 1_000_000.0


def quoted(text: str) -> str:
    """``text`` as a literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_text = st.sampled_from(TEXTS).map(quoted)
_number = st.sampled_from(("9", "10", "-2.5", "1e3", "0", "1000"))
_order = st.sampled_from(("<", "<=", ">", ">="))
_equal = st.sampled_from(("=", "!="))
_named = st.builds(
    lambda kind, name: f"{kind}.{quoted(name)}", st.sampled_from(("tag", "attr")), st.sampled_from(NAMES)
)
_time = st.sampled_from(
    ("999000", "999940", "1m ago", "16m ago", "1h ago", "2026-01-01", '"1970-01-12T13:30:00+00:00"')
)
_of_pipeline = st.sampled_from(PIPELINES)
_list = st.lists(st.one_of(_text, _number), min_size=1, max_size=3).map(lambda found: f"({', '.join(found)})")
_texts = st.lists(_text, min_size=1, max_size=3).map(lambda found: f"({', '.join(found)})")
_glob = st.sampled_from(GLOBS).map(lambda glob: f"like({quoted(glob)})")
_text_field = st.one_of(st.sampled_from(("id", "site")), _of_pipeline.map(lambda name: f"model({name})"))
_join = " ".join
_leaf = st.one_of(
    st.tuples(_text_field, _equal, _text).map(_join),
    st.tuples(_text_field, st.just("in"), _texts).map(_join),
    st.tuples(st.one_of(_text_field, _named), _glob).map(_join),
    st.tuples(_named, st.one_of(_equal, _order), st.one_of(_text, _number)).map(_join),
    st.tuples(_named, st.just("in"), _list).map(_join),
    st.tuples(st.just("state"), _equal, st.sampled_from(STATES)).map(_join),
    st.tuples(st.sampled_from(("last_seen", "enrolled")), st.one_of(_equal, _order), _time).map(_join),
    st.tuples(_of_pipeline.map(lambda name: f"release({name})"), st.one_of(_equal, _order), _number).map(_join),
    st.sampled_from(("online", "online = false", "online != true", "online in (true, false)")),
    st.one_of(_named, st.sampled_from(("site", "last_seen", "enrolled", "id", 'model("gear")', "release(main)"))).map(
        lambda field: f"has {field}"
    ),
)
queries = st.recursive(
    _leaf,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda found: "(" + " and ".join(found) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(lambda found: "(" + " OR ".join(found) + ")"),
    ),
    max_leaves=5,
)
_labels = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS), max_size=3)
_times = st.one_of(st.none(), st.sampled_from((999_000.0, 999_940.0, 996_400.0, 1_000_000.0)))
_runs = st.tuples(st.sampled_from(MODELS), st.sampled_from((None, 9, 10, 1000)))
facts: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "state": st.sampled_from(STATES),
        "online": st.booleans(),
        "site": st.one_of(st.none(), st.sampled_from(TEXTS)),
        "last_seen": _times,
        "enrolled": _times,
        "tags": _labels,
        "attributes": _labels,
        "pipelines": st.dictionaries(st.sampled_from(PIPELINES), _runs, max_size=2),
    }
)
"""A device without its id."""
