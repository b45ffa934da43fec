"""Curves of features from reports of drift: in order, in a condition, and never shifted onto other features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, insert

from wheeltapper_fleet import tables
from wheeltapper_fleet.telemetry.feature_curves import Condition, feature_curves
from wheeltapper_fleet.telemetry.schemas import FeatureCurvesView
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.wire.messages import DriftReport, Report

NOW = 1.79e9
HOUR = 3600.0
NAMES = ("x.rms", "x.bpfo", "speed.value")


def manifest(*names: str) -> dict[str, Any]:
    return {
        "features": [{"name": name} for name in names],
        "drift": {"features": [{"mean": 1.0, "deviation": 0.5} for _ in names]},
    }


def released(engine: Engine, release: int = 1, made: dict[str, Any] | None = None) -> None:
    row = {"model": "m", "release": release, "path": f"p{release}", "sha256": f"{release}" * 64, "length": 1}
    row |= {"published_at": 1.0, "published_by": "ann", "manifest": manifest(*NAMES) if made is None else made}
    with engine.begin() as connection:
        connection.execute(insert(tables.releases).values(row))


def reported(engine: Engine, seq: int, means: tuple[float, ...], at: float, **changes: Any) -> None:
    values = np.array([means, means], dtype=np.float32)
    sketches = encode_sketches(Bins([[0.0, 2.0]] * len(means)).sketch(values))
    score = encode_sketches(Bins([[0.0, 2.0]]).sketch(np.ones((2, 1), dtype=np.float32)))
    said: dict[str, Any] = {"pipeline": "main", "model": "m", "release": 1, "why": "period", "windows": 2}
    said |= {"first_window": seq, "last_window": seq + 1, "first_t_s": 0.0, "last_t_s": 1.0}
    body = DriftReport(**(said | changes), sketches=sketches, score=score)
    with engine.begin() as connection:
        store_messages(connection, [("gw-1", Report(epoch="0" * 16, oldest=1, seq=seq, at=at, body=body), b"")], at)


def read(engine: Engine, **changes: Any) -> FeatureCurvesView:
    with engine.connect() as connection:
        return feature_curves(connection, "gw-1", "main", NOW - 100 * HOUR, NOW + 100 * HOUR, **changes)


def test_each_feature_has_a_curve_and_what_moved_most_comes_first(engine: Engine) -> None:
    released(engine)
    for number in range(5):
        reported(engine, number + 1, (1.0, 1.0 + 0.5 * number, 0.5), NOW + number * HOUR)
    found = read(engine)
    assert [curve.name for curve in found.curves] == ["x.bpfo", "speed.value", "x.rms"]
    assert [point.mean for point in found.curves[0].points] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert [point.at for point in found.curves[0].points] == [NOW + number * HOUR for number in range(5)]
    assert [curve.shift for curve in found.curves] == [4.0, -1.0, 0.0]
    assert (found.reports, found.shown, found.left_out) == (5, 5, 0)
    assert found.curves[0].points[0].release == "m/1"


def test_a_condition_keeps_the_reports_in_it(engine: Engine) -> None:
    """A machine that runs at two speeds: at one of them nothing has moved."""
    released(engine)
    for number in range(10):
        speed = 1.0 + number % 2
        reported(engine, number + 1, (speed, 0.0, speed), NOW + number * HOUR)
    found = read(engine, condition=Condition("speed.value", 1.9, 2.1))
    assert (found.reports, found.shown) == (10, 5)
    assert {point.mean for curve in found.curves if curve.name == "x.rms" for point in curve.points} == {2.0}
    assert read(engine, condition=Condition("nothing", 0, 1)).curves == []


def test_what_does_not_fit_is_left_out_and_counted(engine: Engine) -> None:
    """Another number of features, a release that is not known, one without names, another pipeline."""
    released(engine)
    released(engine, 3, {"features": "x"})
    reported(engine, 1, (1.0, 1.0, 1.0), NOW)
    reported(engine, 2, (9.0, 9.0), NOW + 1)
    reported(engine, 3, (9.0, 9.0, 9.0), NOW + 2, release=2)
    reported(engine, 4, (9.0, 9.0, 9.0), NOW + 3, release=3)
    reported(engine, 5, (9.0, 9.0, 9.0), NOW + 4, pipeline="other")
    found = read(engine)
    assert (found.reports, found.shown, found.left_out) == (4, 1, 3)
    assert {point.mean for curve in found.curves for point in curve.points} == {1.0}


def test_releases_follow_each_other_by_the_name_of_a_feature(engine: Engine) -> None:
    released(engine)
    released(engine, 2, manifest("speed.value", "x.rms"))
    reported(engine, 1, (1.0, 1.0, 0.5), NOW)
    reported(engine, 2, (0.7, 2.0), NOW + HOUR, release=2)
    found = {curve.name: curve for curve in read(engine).curves}
    assert [(each.mean, each.release) for each in found["x.rms"].points] == [(1.0, "m/1"), (2.0, "m/2")]
    assert [round(each.mean, 3) for each in found["speed.value"].points] == [0.5, 0.7]
    assert found["x.rms"].shift == 2.0


@pytest.mark.parametrize("reports", [1, 7, 40])
def test_of_many_reports_some_are_read_evenly_with_the_newest(engine: Engine, reports: int) -> None:
    released(engine)
    for number in range(60):
        reported(engine, number + 1, (1.0, float(number), 1.0), NOW + number * HOUR)
    asked: list[str] = []
    readers = engine.get_execution_options().get("wheeltapper_readers", engine)

    @event.listens_for(readers, "before_cursor_execute")
    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    found = read(engine, reports=reports)
    points = [point.mean for curve in found.curves if curve.name == "x.bpfo" for point in curve.points]
    assert 1 <= len(points) <= reports
    assert points[-1] == 59.0
    assert len(set(np.diff(points))) <= 1, "the same time between any two"
    assert len(set(asked)) <= 3
