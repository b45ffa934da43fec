"""Gates on labelled data: figures as scikit-learn has them, intervals that cover, segments, sites, comparisons."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tests.agent.task_bundles import raw_classifier
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging import metrics
from wheeltapper_fleet.training.judging.judge import Limits, Other, agreement, judge
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_protocols.manifest.manifest import Gate, Manifest, decode_manifest

MANIFEST = decode_manifest(raw_classifier()["manifest.json"])


def data(manifest: Manifest, labels: list[str], recordings: list[int], sites: tuple[str, ...]) -> LabelledWindows:
    """Windows that are not looked at, with these labels."""
    count = len(sites)
    return LabelledWindows(
        input=manifest.input,
        samples=np.zeros((len(labels), 1, 1), np.float32),
        labels=tuple(labels),
        recording=np.array(recordings),
        t_s=np.arange(float(len(labels))),
        segments={"machine": tuple(f"m{n}" for n in range(count)), "site": sites, "condition": ("",) * count},
        sha256=tuple(f"{n:064x}" for n in range(count)),
        names=tuple(f"r{n}" for n in range(count)),
    )


def judged(
    labels: list[str], predicted: list[str], recordings: list[int], sites: tuple[str, ...], **more: Any
) -> dict[str, Gate]:
    found = judge(
        MANIFEST, data(MANIFEST, labels, recordings, sites), scores(predicted), Limits(), lambda text: None, **more
    )
    return {gate.name: gate for gate in found}


def scores(predicted: list[str], sure: float = 0.97) -> dict[str, Any]:
    """What an agent gives for a classifier that says ``predicted``."""
    section = MANIFEST.classification
    assert section is not None
    places = np.array([section.classes.index(label) for label in predicted])
    output = np.full((len(places), len(section.classes)), (1 - sure) / (len(section.classes) - 1), np.float32)
    output[np.arange(len(places)), places] = sure
    faulty = np.array([label not in section.normal for label in predicted])
    return {
        "label": places,
        "model_output": np.log(output),
        "score": np.where(faulty, sure, 1 - sure) / section.threshold,
    }


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
@settings(deadline=None, max_examples=60)
def test_auroc_and_accuracy_are_those_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    score, positive = (np.array(values) for values in zip(*pairs, strict=True))
    ones = np.ones(len(pairs))
    if len(set(positive.tolist())) == 2:
        assert metrics.auroc(score.astype(float), positive)(ones) == pytest.approx(roc_auc_score(positive, score))
        predicted = score > 3
        expected = balanced_accuracy_score(positive, predicted)
        assert metrics.balanced_accuracy(positive, predicted)(ones) == pytest.approx(expected)
    else:
        assert np.isnan(metrics.auroc(score.astype(float), positive)(ones))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=80))
@settings(deadline=None, max_examples=60)
def test_no_block_spans_two_recordings_or_labels(pairs: list[tuple[int, int]]) -> None:
    recording, labels = (np.array(values) for values in zip(*sorted(pairs), strict=True))
    blocks = metrics.blocks_of(recording, labels)
    for block in range(int(blocks.max()) + 1):
        rows = blocks == block
        assert rows.any()
        assert len(set(zip(recording[rows].tolist(), labels[rows].tolist(), strict=True))) == 1


def test_the_interval_covers_the_truth_where_recordings_differ() -> None:
    """Windows of a recording are alike: resampled one by one, the interval would be far too narrow."""
    covered, widths = 0, []
    for seed in range(40):
        random = np.random.default_rng(seed)
        recording = np.repeat(np.arange(20), 30)
        error = np.repeat(random.normal(size=20), 30) + 0.1 * random.normal(size=600)
        labels = np.zeros(600, dtype=np.int64)
        blocks = metrics.blocks_of(recording, labels)
        found = metrics.estimate(metrics.rmse(error, np.zeros(600)), blocks, labels, random)
        covered += found.low <= np.sqrt(1.01) <= found.high
        widths.append(found.high - found.low)
    assert covered >= 32
    assert np.mean(widths) > 0.3


def test_calibration_error_is_the_distance_of_stated_and_real() -> None:
    sure, right = np.full(1000, 0.9), np.arange(1000) % 2 == 0
    assert metrics.calibration_error(sure, right)(np.ones(1000)) == pytest.approx(0.4)


def both(windows: int = 40) -> tuple[list[str], list[int]]:
    """Labels and recordings: two of each of two classes."""
    section = MANIFEST.classification
    assert section is not None
    faulty = next(name for name in section.classes if name not in section.normal)
    labels = [name for name in (section.normal[0], faulty) for _ in range(2 * windows)]
    return labels, [number for number in range(4) for _ in range(windows)]


def test_a_site_that_is_worse_than_the_others_is_seen() -> None:
    labels, recordings = both()
    sites = ("north", "south", "north", "south")
    good = judged(labels, labels, recordings, sites)
    assert all(gate.passed for gate in good.values()), good
    assert good["sites_apart"].detail.startswith("best and worst of 2 sites apart; 'north'")
    wrong = [labels[-1] if recording == 1 else label for label, recording in zip(labels, recordings, strict=True)]
    bad = judged(labels, wrong, recordings, sites)
    assert (bad["sites_apart"].passed, bad["worst_site_balanced_accuracy"].value) == (False, 0.5)
    assert (bad["false_alert_rate"].passed, bad["calibration_error"].passed) == (False, False)


def test_a_release_is_compared_on_the_same_windows() -> None:
    labels, recordings = both()
    sites = ("", "", "", "")
    worse = [labels[0] if index % 5 == 0 else label for index, label in enumerate(labels)]
    champion = Other("against_champion", "the champion", MANIFEST, scores(labels))
    assert judged(labels, labels, recordings, sites, others=[champion])["against_champion"].passed
    against = judged(labels, worse, recordings, sites, others=[champion])["against_champion"]
    assert (against.passed, against.value < -0.05) == (False, True)
    better = Other("against_champion", "the champion", MANIFEST, scores(worse))
    assert judged(labels, labels, recordings, sites, others=[better])["against_champion"].value > 0
    assert agreement(scores(labels), scores(labels)).passed
    assert not agreement(scores(worse), scores(labels)).passed


def test_labels_that_say_nothing_are_refused() -> None:
    labels, recordings = both()
    for wrong, code in ((["what"] * len(labels), "bundle.label"), ([labels[0]] * len(labels), "bundle.unlabelled")):
        with pytest.raises(TrainingError) as caught:
            judged(wrong, labels, recordings, ("", "", "", ""))
        assert caught.value.code == code


def test_a_score_that_is_no_number_fails() -> None:
    labels, recordings = both()
    found = scores(labels)
    found["score"] = np.where(np.arange(len(labels)) == 3, np.nan, found["score"])
    given_data = dataclasses.replace(data(MANIFEST, labels, recordings, ("",) * 4))
    gates = judge(MANIFEST, given_data, found, Limits(), lambda text: None)
    assert (gates[0].name, gates[0].value, gates[0].passed) == ("finite", 1.0, False)
