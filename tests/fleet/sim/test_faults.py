"""Fault tables: what is refused and how, who has which fault, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.sim.fault_table import read_faults
from wheeltapper_fleet.sim.faults import (
    Duplicate,
    FailSelfTest,
    Fault,
    Kill,
    RollBack,
    Vanish,
    expected_ends,
    faults_of,
    kind_of,
)

NAMES = [f"sim-{number:05d}" for number in range(1, 1001)]
DOCUMENT = Path(__file__).parents[3] / "docs/simulator.md"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[fault]\n", "cannot be read as TOML"),
        ('[[fault]]\nkind = "vanish"\nstate = "FETCHING"\n', "fault 1 (vanish): .*share"),
        ('[[fault]]\nkind = "melt"\nshare = 0.1\n', "fault 1 (melt): .*melt"),
        ("[[fault]]\nshare = 0.1\n", "fault 1 (no kind): .*kind"),
        ('[[fault]]\nkind = "lie"\nshare = 1.5\n', "fault 1 (lie): .*1"),
        ('[[fault]]\nkind = "lie"\nshare = 0\n', "fault 1 (lie): .*0"),
        ('[[fault]]\nkind = "lie"\nshare = 0.1\nseconds = 3\n', "fault 1 (lie): .*seconds"),
        ('[[fault]]\nkind = "hang"\nshare = 0.1\nstate = "COMMITTED"\n', "fault 1 (hang): .*COMMITTED"),
        ('[[fault]]\nkind = "vanish"\nshare = 0.1\n', "fault 1 (vanish): say either state or after_seconds"),
        (
            '[[fault]]\nkind = "vanish"\nshare = 0.1\nstate = "STAGED"\nafter_seconds = 3\n',
            "fault 1 (vanish): say either",
        ),
        (
            '[[fault]]\nkind = "lie"\nshare = 0.6\n[[fault]]\nkind = "kill"\nshare = 0.5\n',
            "fault 2 (kill): .*add up to 1.1",
        ),
        ('seed = 3\n[[fault]]\nkind = "lie"\nshare = 0.6\n', "seed"),
        ("fault = 3\n", "array"),
        ("fault = [3]\n", "fault 1 (no table)"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text: str, says: str) -> None:
    with pytest.raises(FleetError) as error:
        read_faults(text)
    assert error.value.code == "sim.faults"
    assert re.search(says.replace("(", r"\(").replace(")", r"\)"), error.value.message), error.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    for as_json in (False, True):
        with contextlib.suppress(FleetError):
            read_faults(text, as_json=as_json)


def test_toml_and_json_say_the_same() -> None:
    rows = [{"kind": "kill", "share": 0.5, "state": "STAGED"}, {"kind": "duplicate", "share": 1, "chance": 0.2}]
    toml = '[[fault]]\nkind="kill"\nshare=0.5\nstate="STAGED"\n[[fault]]\nkind="duplicate"\nshare=1\nchance=0.2\n'
    expected = (Kill(share=0.5, state="STAGED"), Duplicate(share=1.0, chance=0.2))
    assert read_faults(toml) == read_faults(json.dumps({"fault": rows}), as_json=True) == expected


def test_shares_are_exact_and_no_device_has_two_faults_of_its_update() -> None:
    table: tuple[Fault, ...] = (
        FailSelfTest(share=0.101),
        RollBack(share=0.2),
        Vanish(share=0.3, state="FETCHING"),
        Duplicate(share=0.5),
    )
    plans = faults_of(NAMES, table, 7)
    kinds = Counter(kind_of(fault) for faults in plans.values() for fault in faults)
    assert kinds == {"fail_self_test": 101, "roll_back": 200, "vanish": 300, "duplicate": 500}
    assert max(sum(not isinstance(fault, Duplicate) for fault in faults) for faults in plans.values()) == 1
    assert expected_ends(plans, 1) == {"REJECTED": 101, "ROLLED_BACK": 200, "FAILED": 300, "COMMITTED": 399}


def test_the_seed_decides_who_has_which_fault() -> None:
    table = (FailSelfTest(share=0.3), Duplicate(share=0.3))
    assert faults_of(NAMES, table, 7) == faults_of(list(NAMES), table, 7)
    assert faults_of(NAMES, table, 7) != faults_of(NAMES, table, 8)


def test_a_fault_of_one_release_spares_the_others() -> None:
    plans = faults_of(NAMES, (FailSelfTest(share=0.3, releases=(2,)),), 7)
    assert expected_ends(plans, 1) == {"COMMITTED": 1000}
    assert expected_ends(plans, 2) == {"REJECTED": 300, "COMMITTED": 700}


def test_every_example_of_the_documentation_is_a_table() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    tables = [block for block in blocks if "[[fault]]" in block]
    assert tables
    for table in tables:
        assert read_faults(table)


def test_the_documentation_names_every_fault() -> None:
    kinds = {kind.__struct_config__.tag for kind in Fault.__args__}
    named = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    assert kinds <= named
