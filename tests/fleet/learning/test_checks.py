"""Each check fails on what it is there for, and passes on a sound version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet.learning.rig import HALVES, fleet, made, vibration
from wheeltapper_fleet.learning.datasets.checks import Checker
from wheeltapper_fleet.learning.datasets.describe import item_of
from wheeltapper_fleet.learning.datasets.manifest import Check, Item, Label
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_protocols.signal.recording import Recording


def described(content: Recording | DataTable, machine: str, split: str = "", **labels: str | float) -> Item:
    named = [Label(name=name, value=value) for name, value in labels.items()]
    return item_of(content, "0" * 63 + "1", 1, machine=machine, source=machine, labels=named, condition={}, split=split)


def judged(items: list[Item], **shares: float) -> dict[str, Check]:
    checker = Checker()
    for item in items:
        checker.add(item)
    return {check.name: check for check in checker.checks(shares)}


def test_a_sound_version_passes_all(tmp_path: Path) -> None:
    _, version = made(tmp_path, fleet(8, each=4), request=HALVES)
    assert {check.name: check.verdict for check in version.manifest.checks if check.verdict != "pass"} == {}
    assert len({check.name for check in version.manifest.checks}) == 14


def shifted(recording: Recording, by: float) -> Recording:
    noise = np.random.default_rng(5).normal(scale=by, size=recording.samples.shape)
    return Recording(
        (recording.samples + noise).astype(np.float32), recording.scale, 1000.0, recording.t_s, ("de",), ("g",)
    )


def clipped() -> Recording:
    samples = np.clip(np.random.default_rng(1).normal(size=(4, 64, 1)).cumsum(axis=1), -3, 3).astype(np.float32)
    return Recording(samples, np.ones(1), 1000.0, np.arange(4.0), ("de",), ("g",))


def constant() -> Recording:
    return Recording(np.full((4, 64, 1), 7, np.int16), np.ones(1), 1000.0, np.arange(4.0), ("de",), ("g",))


@pytest.mark.parametrize(
    ("name", "verdict", "items"),
    [
        ("machine_on_two_sides", "fail", [described(vibration(1), "a", "train"), described(vibration(2), "a", "test")]),
        ("duplicates_across_splits", "fail",
         [described(vibration(1), "a", "train"), described(vibration(1), "b", "test")]),
        ("near_duplicates_across_splits", "warn",
         [described(vibration(1), "a", "train"), described(shifted(vibration(1), 0.01), "b", "test")]),
        ("duplicates", "warn", [described(vibration(1), "a"), described(vibration(1), "b")]),
        ("forms_differ", "warn", [described(vibration(1), "a"), described(vibration(2, rate_hz=999.0), "b")]),
        ("rate_gives_label_away", "fail",
         [described(vibration(1), "a", fault="no"), described(vibration(2, rate_hz=9.0), "b", fault="yes")]),
        ("step_gives_label_away", "warn",
         [described(vibration(1, scale=0.01), "a", fault="no"), described(vibration(2, scale=0.02), "b", fault="yes")]),
        ("constant_channels", "warn", [described(constant(), "a")]),
        ("clipped_channels", "fail", [described(clipped(), "a")]),
        ("missing_values", "fail", [described(DataTable({"x": np.array([1.0, np.nan])}), "a")]),
        ("labels_present", "warn", [described(vibration(1), "a", fault="no"), described(vibration(2), "b")]),
        ("label_balance", "warn",
         [described(vibration(n), "a", fault="yes" if n == 0 else "no") for n in range(40)]),
        ("drift_between_splits", "warn",
         [described(shifted(vibration(n), 9.0 * (n % 2)), f"m{n}", ("train", "test")[n % 2]) for n in range(20)]),
    ],
)  # fmt: skip
def test_a_check_finds_what_it_is_there_for(name: str, verdict: str, items: list[Item]) -> None:
    found = judged(items)
    assert found[name].verdict == verdict, found[name]
    assert found[name].value != found[name].limit
    others = {"machine_on_two_sides", "duplicates_across_splits", "rate_gives_label_away"} - {name}
    assert all(found[other].verdict == "pass" for other in others)


def test_sides_that_were_asked_for_must_be_there() -> None:
    items = [described(vibration(n), f"m{n}", "train") for n in range(3)]
    assert judged(items, train=0.9, test=0.1)["sides_present"].detail == "test is empty"


def test_numbers_are_no_classes_and_rates_that_overlap_tell_nothing() -> None:
    lives = [described(vibration(n), "a", remaining=float(n)) for n in range(60)]
    assert judged(lives)["label_balance"].verdict == "pass"
    mixed = [
        described(vibration(1), "a", fault="no"),
        described(vibration(2), "a", fault="yes"),
        described(vibration(3, rate_hz=9.0), "b", fault="yes"),
    ]
    assert judged(mixed)["rate_gives_label_away"].verdict == "pass"


def test_counters_and_signals_of_few_levels_are_not_clipped() -> None:
    random = np.random.default_rng(1)
    counts: Any = (random.poisson(0.2, size=(1, 4096, 1)) * random.integers(1, 99, size=(1, 4096, 1))).astype(np.int16)
    levels: Any = np.repeat(random.integers(0, 2, size=(1, 256, 1)), 16, axis=1).astype(np.int16)
    for samples in (counts, levels):
        recording = Recording(samples, np.ones(1), 1.0, np.zeros(1), ("x",), ("",))
        assert described(recording, "a").statistics[0].clipped == 0


@given(pairs=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=6)), max_size=20))
def test_nearly_equal_shapes_are_found_as_by_comparing_all(pairs: list[tuple[int, set[int]]]) -> None:
    pattern = described(vibration(1), "m")
    sides: dict[str, list[int]] = {"train": [], "test": []}
    checker = Checker()
    for word, flipped in pairs:
        sides["train"].append(word)
        sides["test"].append(word ^ sum(1 << bit for bit in flipped))
    for side, words in sides.items():
        split: Any = side
        shapes = [f"{word:016x}" for word in words]
        checker.add(msgspec.structs.replace(pattern, split=split, machine=side, windows=[], shapes=shapes))
    near = {(a, b) for a in sides["train"] for b in sides["test"] if (a ^ b).bit_count() <= 3}
    found = {check.name: check.value for check in checker.checks({})}
    assert found["near_duplicates_across_splits"] == len(near)


def test_windows_of_one_sample_are_taken_together() -> None:
    values = np.random.default_rng(1).normal(size=(640, 1, 1)).astype(np.float32)
    slow = Recording(values, np.ones(1), 1.0, np.arange(640.0), ("x",), ("",))
    item = described(slow, "a")
    assert (len(item.windows), item.shapes) == (8, [])
    assert judged([described(slow, "a", "train"), described(slow, "b", "test")])["duplicates_across_splits"].value == 8
