"""Drift on the device: what is reported when, that every window is reported once, and a real bearing's wear."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.drift import BLOCK_WINDOWS, MIN_REPORT_WINDOWS, DriftObserver
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.drift.drift import DriftSpec, fit_drift_spec
from wheeltapper_protocols.drift.sketch import Bins, Sketches, decode_sketches
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.codec import decode, encode
from wheeltapper_protocols.wire.messages import DriftReport, Report, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

NOTHING = Window(np.zeros((4, 2), dtype=np.float32), 0.0)
PERIOD = 100


@dataclass
class ManualClock:
    """Time that stands still until it is moved."""

    at: float = 1.7e9
    since: float = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.since


def manifest(release: int = 1, **changes: Any) -> Manifest:
    made = decode_manifest(make_bundle(release)["manifest.json"])
    random = np.random.default_rng(0)
    spec = fit_drift_spec(random.normal(size=(400, len(made.features))), random.normal(0.3, 0.05, 400))
    drift = msgspec.structs.replace(spec, **({"period_windows": PERIOD} | changes))
    return msgspec.structs.replace(made, drift=drift)


@dataclass
class Rig:
    """An observer, fed by hand; every report goes once over the wire."""

    clock: ManualClock = field(default_factory=ManualClock)
    notified: list[tuple[str, str]] = field(default_factory=list)
    reports: list[DriftReport] = field(default_factory=list)
    index: int = 0
    quality: DataQuality = field(default_factory=DataQuality)

    def __post_init__(self) -> None:
        self.observer = DriftObserver("main", self.clock, lambda: self.quality, self.on_drift)

    def on_drift(self, pipeline: str, why: str) -> None:
        self.notified.append((pipeline, why))

    def feed(self, seen: Manifest | None, features: Any = None, score: float | None = None, t_s: float = 1.0) -> None:
        window = Window(NOTHING.samples, t_s)
        values = None if features is None else np.asarray(features, dtype=np.float32)
        self.quality += DataQuality(windows=1)
        self.take(self.observer.observe(Observation("main", self.index, window, seen, values, score)))
        self.index += 1

    def take(self, records: Any) -> None:
        for report in records:
            back = decode(Up.REPORT, encode(report))
            assert isinstance(back, Report)
            assert isinstance(back.body, DriftReport)
            self.reports.append(back.body)

    def end(self) -> None:
        self.take(self.observer.end())


def stream(seen: Manifest, seed: int = 1) -> Iterator[tuple[Any, float]]:
    random = np.random.default_rng(seed)
    while True:
        yield random.normal(size=len(seen.features)).astype(np.float32), float(random.normal(0.3, 0.05))


def total(reports: list[DriftReport]) -> Sketches:
    merged = decode_sketches(reports[0].sketches)
    for report in reports[1:]:
        merged = merged.merged(decode_sketches(report.sketches))
    return merged


def test_every_window_is_in_one_report_and_they_add_up() -> None:
    rig, seen = Rig(), manifest()
    rows = []
    for features, score in itertools.islice(stream(seen), 2 * PERIOD + 37):
        rows.append(features)
        rig.feed(seen, features, score, t_s=10.0 * rig.index)
    rig.end()
    rig.end()  # once more says nothing
    assert [report.why for report in rig.reports] == ["period", "period", "end"]
    assert [(report.first_window, report.last_window) for report in rig.reports] == [(0, 99), (100, 199), (200, 236)]
    assert [report.windows for report in rig.reports] == [100, 100, 37]
    assert (rig.reports[1].first_t_s, rig.reports[1].last_t_s) == (1000.0, 1990.0)
    assert [report.quality.windows for report in rig.reports if report.quality] == [100, 100, 37]
    assert seen.drift is not None
    wanted = Bins([one.edges for one in seen.drift.features]).sketch(np.stack(rows))
    merged = total(rig.reports)
    np.testing.assert_array_equal(merged.counts, wanted.counts)
    np.testing.assert_allclose(merged.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.m2, wanted.m2, rtol=1e-12)
    assert sum(decode_sketches(report.score).n[0] for report in rig.reports) == 237
    assert rig.notified == []


def test_a_change_of_the_score_is_reported_at_once_but_not_again_and_again() -> None:
    rig, seen = Rig(), manifest(period_windows=400)
    source = stream(seen)
    for features, score in itertools.islice(source, 400):
        rig.feed(seen, features, score)
    for count, (features, score) in enumerate(itertools.islice(source, 700)):
        level = [5.0, 0.1, 5.0, 0.1, 5.0][count // 140]  # five jumps, each is an event
        rig.feed(seen, features, score + level)
    rig.end()
    early = [report for report in rig.reports if report.why == "change"]
    event = early[0].events[0]
    assert (event.kind, event.window) == ("level", early[0].last_window)
    assert 400 <= event.window < 400 + 96
    assert event.after > event.before
    assert ("main", "change.level") in rig.notified
    more = [len(report.events) for report in rig.reports if report.why == "period"]
    assert max(more) > 0  # a further change is in the next report
    for one, other in itertools.pairwise(rig.reports):
        assert not one.why == other.why == "change"
        assert other.first_window == one.last_window + 1
    assert sum(report.windows for report in rig.reports) == 1100
    events = [one for report in rig.reports for one in report.events if one.kind != "feature"]
    assert len(events) == sum(why.startswith("change.") for _, why in rig.notified)


def test_features_that_move_are_named_and_told_of_once() -> None:
    rig, seen = Rig(), manifest()
    for features, score in itertools.islice(stream(seen), 3 * PERIOD):
        features[3] += 4.0 * (rig.index >= PERIOD)
        rig.feed(seen, features, score)
    name = seen.features[3].name
    assert [[event.feature for event in report.events] for report in rig.reports] == [[], [name], [name]]
    assert rig.reports[1].events[0].psi > 1.0  # type: ignore[operator]  # it is there
    assert rig.reports[1].events[0].after == pytest.approx(4.0, abs=0.5)
    assert rig.notified == [("main", f"feature.{name}")]


def test_another_release_begins_anew() -> None:
    rig, first, second = Rig(), manifest(1), manifest(2)
    source = stream(first)
    for features, score in itertools.islice(source, 50):
        rig.feed(first, features, score)
    for features, score in itertools.islice(source, 40):
        rig.feed(second, features, score + 3.0)  # another model's scores are no change of the machine
    rig.feed(None)
    rig.feed(None)
    rig.end()
    assert [(report.release, report.why, report.windows) for report in rig.reports] == [
        (1, "swap", 50),
        (2, "swap", 40),
    ]
    assert [(report.first_window, report.last_window) for report in rig.reports] == [(0, 49), (50, 89)]
    assert rig.notified == []


def test_without_the_section_there_are_no_reports() -> None:
    rig, seen = Rig(), msgspec.structs.replace(manifest(), drift=None)
    for features, score in itertools.islice(stream(seen), 3 * PERIOD):
        rig.feed(seen, features, score)
    rig.end()
    assert rig.reports == []


def test_windows_that_could_not_be_scored_are_counted() -> None:
    rig, seen = Rig(), manifest()
    for number, (features, score) in enumerate(itertools.islice(stream(seen), PERIOD)):
        if number % 4 == 0:
            rig.feed(seen)
        else:
            rig.feed(seen, np.where(np.arange(len(features)) == 0, np.nan, features), score)
    (report,) = rig.reports
    assert (report.windows, report.unscored, report.last_window) == (75, 25, 99)
    sketches = decode_sketches(report.sketches)
    assert sketches.missing.tolist() == [75] + [0] * (len(seen.features) - 1)
    assert sketches.n.tolist() == [0] + [75] * (len(seen.features) - 1)


def test_an_hour_is_an_hour_of_the_clock_that_never_jumps() -> None:
    rig, seen = Rig(), manifest(period_seconds=60.0)
    for features, score in itertools.islice(stream(seen), MIN_REPORT_WINDOWS - 1):
        rig.feed(seen, features, score)
    rig.clock.since = 61.0
    rig.clock.at = -5.0  # a clock that was set back behind 1970
    assert rig.reports == []  # too few windows to say anything
    rig.feed(seen, *next(stream(seen)), t_s=-3.0)
    assert [(report.why, report.windows) for report in rig.reports] == [("period", MIN_REPORT_WINDOWS)]
    for t_s in (float("nan"), 1e300):
        rig.feed(seen, *next(stream(seen)), t_s=t_s)
    rig.end()
    assert rig.reports[-1].first_t_s == 0.0
    assert rig.reports[-1].last_t_s == 1e12


def test_indices_that_are_given_again_after_a_full_disk_do_no_harm() -> None:
    rig, seen = Rig(), manifest()
    source = stream(seen)
    for index in (*range(90, 100), *range(80, 90)):
        rig.index = index
        rig.feed(seen, *next(source))
    rig.end()
    (report,) = rig.reports
    assert (report.first_window, report.last_window, report.windows) == (90, 99, 20)


def test_a_hook_that_fails_costs_nothing() -> None:
    rig, seen = Rig(), manifest()

    def broken(pipeline: str, why: str) -> None:
        raise OSError("disk full")

    rig.observer = DriftObserver("main", rig.clock, None, broken)
    for features, score in itertools.islice(stream(seen), PERIOD):
        rig.feed(seen, features + 9, score)
    assert len(rig.reports[0].events) == 8
    assert rig.reports[0].more_events == len(seen.features) - 8
    assert rig.reports[0].quality is None


class ListSource:
    """A source of given windows."""

    def __init__(self, samples: list[Any], pause: Callable[[int], None]) -> None:
        self._samples, self._pause = samples, pause
        self.state, self.dropped = "running", 0
        self.spec = SourceSpec(SMALL.sample_rate_hz, SMALL.window_samples, ("horizontal", "vertical"), ("g", "g"))

    def windows(self, first: int) -> Iterator[Window]:
        for index in range(first, len(self._samples)):
            self._pause(index)
            yield Window(self._samples[index], 10.0 * index)
        self.state = "ended"

    def model_ready(self) -> None:
        pass

    def close(self) -> None:
        pass


def watched_bundle(folder: Path, release: int, samples: list[Any]) -> Bundle:
    """A real bundle whose manifest's drift section was made from its own scores of ``samples``."""
    plain = load_bundle(write_bundle(folder / f"plain-{release}", make_bundle(release, gain=0.4 + release / 10)))
    found = plain.evaluate(np.stack(samples))
    drift: DriftSpec = msgspec.structs.replace(fit_drift_spec(found.features, found.scores.score), period_windows=40)
    files = make_bundle(release, gain=0.4 + release / 10, drift=drift)
    return load_bundle(write_bundle(folder / f"watched-{release}", files))


def test_reports_of_a_running_pipeline_are_in_the_spool_with_their_windows(tmp_path: Path) -> None:
    machine = Machine(SMALL)
    samples = [machine.window(index, index * 10.0) for index in range(100)]
    first, second = (watched_bundle(tmp_path, release, samples[:60]) for release in (1, 2))
    spool, clock = Spool(tmp_path / "spool.db"), SystemClock()
    pipelines: list[Pipeline] = []
    source = ListSource(samples, lambda index: pipelines[0].swap(second) if index == 50 else None)
    pipeline = Pipeline("main", source, spool, clock, [DriftObserver("main", clock)])
    pipelines.append(pipeline)
    pipeline.swap(first)
    pipeline.start()
    pipeline._thread.join(30)
    items = [held.item for held in spool.peek(0, 1000, ("telemetry", "report"))]
    spool.close()
    bodies = [item.body for item in items if isinstance(item, Report)]
    reports = [body for body in bodies if isinstance(body, DriftReport)]
    assert [(one.release, one.why, one.first_window, one.last_window, one.windows) for one in reports] == [
        (1, "period", 0, 39, 40),
        (1, "swap", 40, 49, 10),
        (2, "period", 50, 89, 40),
        (2, "end", 90, 99, 10),
    ]
    records = [item for item in items if isinstance(item, TelemetryRecord)]
    for report in reports:
        scores = [one.score for one in records if report.first_window <= one.window <= report.last_window]
        sketch = decode_sketches(report.score)
        assert sketch.mean[0] == pytest.approx(np.mean([score for score in scores if score is not None]), rel=1e-6)


@pytest.mark.data
def test_a_real_bearings_wear_is_drift(data_dir: Path, tmp_path: Path) -> None:
    """FEMTO 1_1, 7.8 h to failure: wear moves the score, upwards, and the features."""
    anomaly = pytest.importorskip("wheeltapper_fleet.training.anomaly")  # not where only the agent is installed
    importers = pytest.importorskip("wheeltapper_fleet.training.importers")
    run = importers.import_femto(data_dir / "femto" / "Learning_set__Bearing1_1.npz").part(slice(0, None, 3))
    anomaly.train_anomaly([run], healthy_fraction=0.1, out=tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.drift is not None
    assert bundle.manifest.drift.period_windows == 120  # an hour at a snapshot every 30 s
    rig = Rig()
    for start in range(0, run.snapshots, BLOCK_WINDOWS):
        found = bundle.evaluate(run.physical(slice(start, start + BLOCK_WINDOWS)).astype(np.float32))
        for features, score in zip(found.features, found.scores.score, strict=True):
            rig.feed(bundle.manifest, features, float(score), t_s=30.0 * rig.index)
    rig.end()
    assert total(rig.reports).n.tolist() == [run.snapshots] * len(bundle.manifest.features)
    events = [(report.last_window / run.snapshots, one) for report in rig.reports for one in report.events]
    levels = [(life, one.after - one.before) for life, one in events if one.kind == "level"]
    assert len([life for life, _ in levels if life > 0.5]) >= 1
    assert all(step > 0 for _, step in levels)  # it only ever got worse
    assert {one.feature for life, one in events if life > 0.9} >= {"horizontal.rms"}
