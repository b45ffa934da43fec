"""Drift of one pipeline: sketches each scored window over the bins in the release's manifest, and reports them.

A report goes out every period (``DriftSpec.period_windows`` or ``period_seconds``), at once when a detector fires, when
another release runs, and at the end of the stream. Then new sketches begin.

Invariants:
    * Each scored window is in exactly one report, or (a restart, a report that the disk refused) in none; never in two.
    * At most one report out of turn a period: a detector that fires again is told of in the next one.
    * A manifest without a section ``drift`` gives no reports; nothing else changes.
    * Memory does not grow: :data:`BLOCK_WINDOWS` windows of features, one set of sketches, two bounded detectors.

Windows are collected and sketched together, :data:`BLOCK_WINDOWS` at a time: what numpy costs a call is then shared.

What this module does not do: the arithmetic (:mod:`wheeltapper_protocols.drift.sketch`,
:mod:`wheeltapper_protocols.drift.drift`, :mod:`wheeltapper_agent.pipeline.change`), keep anything over a restart,
decide what is done about drift.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.change import Change, ScoreChangeDetector
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.records.port import unnumbered_report
from wheeltapper_protocols.drift.drift import Distances, DriftSpec, distances
from wheeltapper_protocols.drift.sketch import Bins, Sketches, encode_sketches
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.messages import Alert, DriftEvent, DriftReport, Report

__all__ = ["BLOCK_WINDOWS", "MIN_REPORT_WINDOWS", "DriftObserver"]

_LOG = logging.getLogger(__name__)
BLOCK_WINDOWS: Final = 64
MIN_REPORT_WINDOWS: Final = 30
"""Fewer are not compared with the reference, and not reported for the time alone."""
_MAX_EVENTS: Final = 16
_FEATURE_EVENTS: Final = 8
"""Of the features that moved, the ones that moved most."""

OnDrift = Callable[[str, str], None]
"""``(pipeline, why)``, while a window is written down: ``change.level``, ``change.spread`` or ``feature.<name>``."""


class DriftObserver:
    """The drift of ``pipeline``.

    Args:
        pipeline: its name.
        clock: time.
        quality: the data quality counted since the agent started, if anything counts it.
        on_drift: is told when the score changed, or when features begin to be away from the reference.
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
        self._told = DataQuality()
        """The data quality that reports have told of; windows before the first release count in the first report."""
        self._manifest: Manifest | None = None
        self._run: _Run | None = None

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Take a window into account; the report that is due, if one is."""
        said: list[Report] = []
        if seen.manifest is not self._manifest:
            said += self._finish("swap")
            self._manifest = seen.manifest
            spec = seen.manifest.drift if seen.manifest is not None else None
            self._run = _Run(spec, self._clock.monotonic()) if spec is not None else None
        run = self._run
        if run is None:
            return said
        changes = run.take(seen)
        why = run.due(self._clock.monotonic())
        if changes:
            run.note(changes, seen.index)
            if not why and run.may_interrupt:
                why = "change"
            for change in changes:
                self._tell(f"change.{change.kind}")
        return [*said, *self._finish(why)] if why else said

    def end(self) -> Sequence[Alert | Report]:
        """What was seen since the last report."""
        said = self._finish("end")
        self._manifest = self._run = None
        return said

    def _finish(self, why: str) -> list[Report]:
        """Report what was seen, and begin anew."""
        run, manifest = self._run, self._manifest
        if run is None or manifest is None or not run.seen:
            return []
        run.fold()
        fresh = run.compare([feature.name for feature in manifest.features])
        body = run.report(self._pipeline, manifest, why, self._new_quality())
        run.begin(why, self._clock.monotonic())
        for name in fresh:
            self._tell(f"feature.{name}")
        return [unnumbered_report(body, self._clock.now())]

    def _new_quality(self) -> DataQuality | None:
        """What was counted since the report before."""
        if self._quality is None:
            return None
        total, told = self._quality(), self._told
        self._told = total
        names = total.__struct_fields__
        return DataQuality(**{name: max(0, getattr(total, name) - getattr(told, name)) for name in names})

    def _tell(self, why: str) -> None:
        if self._on_drift is None:
            return
        try:
            self._on_drift(self._pipeline, why)
        except Exception:  # noqa: BLE001  # whoever listens must not cost the report
            _LOG.exception("pipeline %s: drift.hook: what listens to drift failed", self._pipeline)


class _Run:
    """One release's time on the pipeline: its detectors, and the sketches of the present period."""

    def __init__(self, spec: DriftSpec, now_seconds: float) -> None:
        self._spec = spec
        self._references = [*spec.features, spec.score]
        self._bins = Bins([reference.edges for reference in self._references])
        self._watch = ScoreChangeDetector(spec.change)
        self._block = np.empty((BLOCK_WINDOWS, len(self._references)), dtype=np.float32)
        self._moved: set[str] = set()
        self.begin("", now_seconds)

    def begin(self, why: str, now_seconds: float) -> None:
        """Empty sketches; the detectors go on."""
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
        """Windows of this period, scored or not."""
        return self._scored + self._unscored

    def take(self, seen: Observation) -> list[Change]:
        """Keep a window's features and score; what the detectors say."""
        if not self.seen:
            self._first = self._last = seen.index, seen.window.wire_t_s
        # Where the disk refuses records, windows are dropped and their indices given again.
        self._last = max(self._last[0], seen.index), seen.window.wire_t_s
        if seen.features is None or seen.score is None:
            self._unscored += 1
            return []
        row = self._block[self._filled]
        row[:-1] = seen.features
        row[-1] = seen.score
        self._filled += 1
        self._scored += 1
        if self._filled == BLOCK_WINDOWS:
            self.fold()
        return self._watch.add(seen.score)

    def fold(self) -> None:
        """Sketch the windows that wait."""
        if self._filled:
            self._sketches = self._sketches.merged(self._bins.sketch(self._block[: self._filled]))
            self._filled = 0

    def due(self, now_seconds: float) -> str:
        """``period`` when it is over."""
        if self.seen >= self._spec.period_windows:
            return "period"
        late = now_seconds - self._began >= self._spec.period_seconds
        return "period" if late and self.seen >= MIN_REPORT_WINDOWS else ""

    def note(self, changes: Sequence[Change], window: int) -> None:
        """Keep what the detectors said for the report."""
        for change in changes:
            self._add(DriftEvent(kind=change.kind, window=window, before=change.before, after=change.after))

    def compare(self, names: Sequence[str]) -> list[str]:
        """Note the features that are away from the reference; the names of those that were not in the last period."""
        if self._scored < MIN_REPORT_WINDOWS:
            return []
        features = self._sketches.part(slice(0, len(names)))
        found = distances(self._spec.features, features)
        moved = [row for row, one in enumerate(found) if one.psi > self._spec.psi_limit + one.psi_noise]
        moved.sort(key=lambda row: -found[row].psi)
        for row in moved[:_FEATURE_EVENTS]:
            self._add(self._feature_event(names[row], self._spec.features[row].mean, features.mean[row], found[row]))
        self._more_events += max(0, len(moved) - _FEATURE_EVENTS)
        before, self._moved = self._moved, {names[row] for row in moved}
        return [names[row] for row in moved if names[row] not in before][:1]

    def _feature_event(self, name: str, before: float, after: float, found: Distances) -> DriftEvent:
        return DriftEvent(
            kind="feature", feature=name, window=self._last[0], before=before, after=float(after), psi=found.psi
        )

    def _add(self, event: DriftEvent) -> None:
        if len(self._events) < _MAX_EVENTS:
            self._events.append(event)
        else:
            self._more_events += 1

    def report(self, pipeline: str, manifest: Manifest, why: str, quality: DataQuality | None) -> DriftReport:
        """The period in a report."""
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
            level=self._watch.level.mean,
            stable_windows=self._watch.level.width,
            events=self._events,
            more_events=self._more_events,
        )
