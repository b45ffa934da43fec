"""Drift of one pipeline: sketches each scored window over the bins of the release's manifest, and reports the sketches.

A report goes out every period (``DriftSpec.period_windows`` or ``period_seconds``), at once when a change of the score
is detected, when another release begins to run, and at the end of the stream. Then new sketches begin.

Invariants:
    * Each scored window is in at most one report. It is in none only after a restart, or if the disk refused the
      report.
    * At most one report a period goes out early. A further change in that period is in the next report.
    * A manifest without a section ``drift`` gives no reports, and nothing else changes.
    * Memory is bounded: :data:`BLOCK_WINDOWS` windows of features, one set of sketches, two bounded detectors.

Windows are sketched :data:`BLOCK_WINDOWS` at a time, because numpy's cost of a call is then shared.

What this module does not do: the arithmetic (:mod:`wheeltapper_protocols.drift.sketch`,
:mod:`wheeltapper_protocols.drift.drift`, :mod:`wheeltapper_agent.pipeline.change`); keep anything over a restart;
decide what is done about drift.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.change import Change, ScoreChangeDetector
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.records.port import unnumbered_report
from wheeltapper_protocols.drift.drift import Distances, DriftSpec, distances
from wheeltapper_protocols.drift.sketch import Bins, Sketches, encode_sketches
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.messages import Alert, DriftEvent, DriftReport, Report

if TYPE_CHECKING:  # for annotations only: what the manifest imports is not pure
    from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["BLOCK_WINDOWS", "MIN_REPORT_WINDOWS", "DriftObserver"]

_LOG = logging.getLogger(__name__)
BLOCK_WINDOWS: Final = 64
"""Number of windows that are sketched together."""
MIN_REPORT_WINDOWS: Final = 30
"""Fewer windows than this are not compared with the reference, and do not make a report when the time of a period is
over."""
_MAX_EVENTS: Final = 16
"""Events in one report; the number of further ones is in ``more_events``."""
_FEATURE_EVENTS: Final = 8
"""Features named in one report, those with the greatest PSI first."""

OnDrift = Callable[[str, str], None]
"""``(pipeline, why)``, called while a window is written down: ``change.level``, ``change.spread`` or
``feature.<name>``."""


class DriftObserver:
    """Observes the drift of one pipeline; an :class:`~wheeltapper_agent.pipeline.observation.Observer`.

    Args:
        pipeline: its name.
        clock: the device's.
        quality: returns the data quality counted since the agent started; None: reports have none.
        on_drift: called when the score changed, and when features begin to differ from the reference.
    """

    def __init__(
        self,
        pipeline: str,
        clock: Clock,
        quality: Callable[[], DataQuality] | None = None,
        on_drift: OnDrift | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._quality = quality
        self._on_drift = on_drift
        self._reported_quality = DataQuality()
        """The data quality in earlier reports. Windows before the first release count in the first report."""
        self._manifest: Manifest | None = None
        self._run: _ReleaseDrift | None = None

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        """Take a window into account; return the report that is due, if one is."""
        reports: list[Report] = []
        if observation.manifest is not self._manifest:
            reports += self._finish("swap")
            self._manifest = observation.manifest
            spec = observation.manifest.drift if observation.manifest is not None else None
            self._run = _ReleaseDrift(spec, self._clock.monotonic()) if spec is not None else None
        run = self._run
        if run is None:
            return reports
        changes = run.take(observation)
        why = run.due(self._clock.monotonic())
        if changes:
            run.note(changes, observation.index)
            if not why and run.may_interrupt:
                why = "change"
            for change in changes:
                self._notify(f"change.{change.kind}")
        return [*reports, *self._finish(why)] if why else reports

    def end(self) -> Sequence[Alert | Report]:
        """Return the report on the windows since the last one."""
        reports = self._finish("end")
        self._manifest = self._run = None
        return reports

    def _finish(self, why: str) -> list[Report]:
        """Return the report on this period, and begin a new one; nothing where no window was seen."""
        run, manifest = self._run, self._manifest
        if run is None or manifest is None or not run.seen:
            return []
        run.fold()
        newly_moved = run.compare([feature.name for feature in manifest.features])
        body = run.report(self._pipeline, manifest, why, self._new_quality())
        run.begin(why, self._clock.monotonic())
        for name in newly_moved:
            self._notify(f"feature.{name}")
        return [unnumbered_report(body, self._clock.now())]

    def _new_quality(self) -> DataQuality | None:
        """Return what was counted since the report before."""
        if self._quality is None:
            return None
        total, reported = self._quality(), self._reported_quality
        self._reported_quality = total
        names = total.__struct_fields__
        return DataQuality(**{name: max(0, getattr(total, name) - getattr(reported, name)) for name in names})

    def _notify(self, why: str) -> None:
        """Call ``on_drift``; what it raises is logged."""
        if self._on_drift is None:
            return
        try:
            self._on_drift(self._pipeline, why)
        except Exception:  # noqa: BLE001  # a failing callback must not cost the report
            _LOG.exception("pipeline %s: drift.hook: the on_drift callback failed", self._pipeline)


class _ReleaseDrift:
    """The drift while one release runs: its change detectors, and the sketches of the present period."""

    def __init__(self, spec: DriftSpec, now_seconds: float) -> None:
        self._spec = spec
        self._references = [*spec.features, spec.score]
        self._bins = Bins([reference.edges for reference in self._references])
        self._detector = ScoreChangeDetector(spec.change)
        self._block = np.empty((BLOCK_WINDOWS, len(self._references)), dtype=np.float32)
        self._moved: set[str] = set()
        self.begin("", now_seconds)

    def begin(self, why: str, now_seconds: float) -> None:
        """Begin a period with empty sketches; the detectors keep what they know."""
        self.may_interrupt = why != "change"
        self._began = now_seconds
        self._sketches: Sketches = self._bins.empty()
        self._filled = 0
        self._scored = 0
        self._unscored = 0
        self._first = self._last = (0, 0.0)
        self._events: list[DriftEvent] = []
        self._more_events = 0

    @property
    def seen(self) -> int:
        """Number of windows of this period, scored or not."""
        return self._scored + self._unscored

    def take(self, observation: Observation) -> list[Change]:
        """Keep the features and the score of a window; return the changes that the detectors found."""
        if not self.seen:
            self._first = self._last = observation.index, observation.window.wire_t_s
        # While the disk refuses records, windows are dropped and their indices are used again.
        self._last = max(self._last[0], observation.index), observation.window.wire_t_s
        if observation.features is None or observation.score is None:
            self._unscored += 1
            return []
        row = self._block[self._filled]
        row[:-1] = observation.features
        row[-1] = observation.score
        self._filled += 1
        self._scored += 1
        if self._filled == BLOCK_WINDOWS:
            self.fold()
        return self._detector.add(observation.score)

    def fold(self) -> None:
        """Sketch the windows that wait in the block."""
        if self._filled:
            self._sketches = self._sketches.merged(self._bins.sketch(self._block[: self._filled]))
            self._filled = 0

    def due(self, now_seconds: float) -> str:
        """Return ``period`` when the period is over, otherwise an empty text."""
        if self.seen >= self._spec.period_windows:
            return "period"
        elapsed = now_seconds - self._began >= self._spec.period_seconds
        return "period" if elapsed and self.seen >= MIN_REPORT_WINDOWS else ""

    def note(self, changes: Sequence[Change], window: int) -> None:
        """Keep changes that the detectors found for the report."""
        for change in changes:
            self._add(DriftEvent(kind=change.kind, window=window, before=change.before, after=change.after))

    def compare(self, names: Sequence[str]) -> list[str]:
        """Keep the features that differ from the reference for the report.

        Returns:
            The name of the feature that differs most among those that did not differ in the period before; or nothing.
        """
        if self._scored < MIN_REPORT_WINDOWS:
            return []
        features = self._sketches.part(slice(0, len(names)))
        distance = distances(self._spec.features, features)
        moved = [row for row, one in enumerate(distance) if one.psi > self._spec.psi_limit + one.psi_noise]
        moved.sort(key=lambda row: -distance[row].psi)
        for row in moved[:_FEATURE_EVENTS]:
            self._add(self._feature_event(names[row], self._spec.features[row].mean, features.mean[row], distance[row]))
        self._more_events += max(0, len(moved) - _FEATURE_EVENTS)
        before, self._moved = self._moved, {names[row] for row in moved}
        return [names[row] for row in moved if names[row] not in before][:1]

    def _feature_event(self, name: str, before: float, after: float, distance: Distances) -> DriftEvent:
        """Return the event of a feature that differs from the reference."""
        return DriftEvent(
            kind="feature", feature=name, window=self._last[0], before=before, after=float(after), psi=distance.psi
        )

    def _add(self, event: DriftEvent) -> None:
        """Keep an event for the report; only count it if there are many."""
        if len(self._events) < _MAX_EVENTS:
            self._events.append(event)
        else:
            self._more_events += 1

    def report(self, pipeline: str, manifest: Manifest, why: str, quality: DataQuality | None) -> DriftReport:
        """Return the report on this period."""
        features = len(self._spec.features)
        return DriftReport(
            pipeline=pipeline,
            model=manifest.model,
            release=manifest.release or 1,
            why=why,
            first_window=self._first[0],
            last_window=self._last[0],
            first_t_s=self._first[1],
            last_t_s=self._last[1],
            windows=self._scored,
            unscored=self._unscored,
            sketches=encode_sketches(self._sketches.part(slice(0, features))),
            score=encode_sketches(self._sketches.part(slice(features, None))),
            quality=quality,
            level=self._detector.level.mean,
            stable_windows=self._detector.level.width,
            events=self._events,
            more_events=self._more_events,
        )
