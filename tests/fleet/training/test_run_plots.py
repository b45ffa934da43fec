"""Plots of runs: self-contained, bounded, right at a few known points, whatever numbers and names come."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Xml
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_fleet.training.runs.plots import (
    budget_plot,
    confusion_plot,
    life_plot,
    loss_plot,
    reliability_plot,
    roc_plot,
    score_plot,
)

NAMES = ("healthy", "<script>alert(1)</script>", "inner & outer")


def drawn(svg: str) -> Xml.Element:
    """The drawing, which needs nothing beside itself and is small."""
    root = Xml.fromstring(svg)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds <= {"svg", "rect", "text", "path", "polyline", "circle"}
    assert not re.search(r"href|url\(|nan|inf", svg.replace("information", ""), flags=re.IGNORECASE)
    assert len(svg) < 80_000
    return root


def texts(root: Xml.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]


def test_a_perfect_classifier_has_an_area_of_one_and_a_full_diagonal() -> None:
    classes = np.repeat([0, 1], 50)
    probabilities = np.where(classes[:, None] == np.arange(3), 0.9, 0.05)
    assert {"healthy: 1.000", "inner & outer: not there"} <= set(texts(drawn(roc_plot(probabilities, classes, NAMES))))
    counts = [each for each in texts(drawn(confusion_plot(classes, classes, NAMES))) if each.isdigit()]
    assert counts == ["50", "0", "0", "0", "50", "0", "0", "0", "0"]
    assert any("alert(1)" in each for each in texts(drawn(roc_plot(probabilities, classes, NAMES))))


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    classes = random.integers(0, 2, 400)
    score = np.round(random.random(400) * 0.7 + 0.3 * classes, 1)
    shown = texts(drawn(roc_plot(np.stack([1 - score, score], axis=1), classes, ("a", "b"))))
    assert f"b: {roc_auc_score(classes, score):.3f}" in shown


@settings(max_examples=25, deadline=None)
@given(
    values=arrays(np.float64, st.integers(1, 4000), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)),
    name=st.text(alphabet=st.characters(codec="utf-8"), max_size=30),
)
def test_whatever_is_measured_is_drawn(values: np.ndarray, name: str) -> None:
    drawn(life_plot(values, values[::-1], name))
    drawn(loss_plot({name: values.tolist(), "other": []}))
    drawn(score_plot({name: values, "other": values[::-1]}, 60.0))
    drawn(budget_plot({name: values}, 60.0, 3, 1.0))
    one = life_plot(values, values[::-1], "hours")
    assert one == life_plot(values, values[::-1], "hours")


def heights(root: Xml.Element, colour: str) -> list[float]:
    """How high the points of the line of a colour are drawn."""
    lines = [each for each in root.iter() if each.get("stroke") == colour and each.get("points")]
    return [float(point.partition(",")[2]) for each in lines for point in each.attrib["points"].split()]


def test_a_single_peak_of_a_long_series_is_drawn_and_of_many_machines_the_loudest() -> None:
    quiet = np.full(50_000, 0.2)
    peak = quiet.copy()
    peak[31_234] = 5.0
    root = drawn(score_plot({f"quiet {each}": quiet for each in range(20)} | {"loud": peak}, 1.0))
    shown = texts(root)
    assert "loud" in shown
    assert "8 of 21 machines, those with the greatest score" in shown
    threshold = min(heights(root, "#444"))  # upwards is less
    assert min(heights(root, "#1f77b4")) < threshold < max(heights(root, "#1f77b4"))
    assert min(heights(root, "#d62728")) > threshold


def test_false_alarms_are_counted_as_sustained_rises_beside_the_budget() -> None:
    series = np.full(3600, 0.1)
    for at in (100, 500, 900):
        series[at : at + 4] = 2.0
    series[2000] = 3.0  # alone, so no alarm
    root = drawn(budget_plot({"m": series}, 3600.0, 3, 1.0))
    assert {"budget: 1", "seen in 3.6e+03 h", "at most, 95% confidence"} <= set(texts(root))
    budget, seen = heights(root, "#d62728")[0], heights(root, "#2ca02c")
    assert max(seen) > budget  # three alarms in 3,600 hours are within the budget; at the lowest level there is one
    assert len(set(seen)) == 2


def test_what_recipes_measure_becomes_metrics_and_plots(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    shown = Measured(folder)
    shown.loss("net 1", [1.0, 0.5])
    shown.loss("net 2", [1.0, 0.4])
    shown.classes(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]]), np.array([0, 1, 1]), ("a", "b"))
    shown.lives(np.array([10.0, 20.0]), np.array([12.0, 20.0]), "cycles")
    shown.scores({"a": np.array([0.5, 1.5, 0.5, 0.2]), "b": np.zeros(0)}, 1.0, 2, 1.0)
    shown.metric("nothing", float("nan"))
    assert shown.metrics == pytest.approx(
        {
            "accuracy": 2 / 3,
            "log_loss": -np.log([0.8, 0.6, 0.1]).mean(),
            "mean_absolute_error": 1.0,
            "mean_error": -1.0,
            "healthy_above": 0.25,
        }
    )
    assert set(folder.plot_files()) == {
        "alarm-budget", "confusion", "loss", "reliability", "remaining-life", "roc", "scores",
    }  # fmt: skip
    assert {"net 1", "net 2"} <= set(texts(drawn((tmp_path / "plots" / "loss.svg").read_text())))
    drawn(reliability_plot(np.full((3, 2), 0.5), np.zeros(3, dtype=int)))
