"""The baseline of one pipeline's machine: learnt in its first healthy windows, kept over restarts and releases.

With the manifest's section ``baseline`` a device learns how its machine differs from the fleet, within the manifest's
limits (:mod:`wheeltapper_protocols.decision.baseline`). Scores are those of the fleet's values until it is learned.

Invariants:
    * What was learnt is on disk before a window is scored with it. While the disk refuses, the fleet's values stay.
    * The pipeline judges no two windows in one call of which the first completes the baseline, so scores do not depend
      on how windows are batched.
    * It is counted in windows: clocks that jump change nothing. A kill loses at most what came in
      :data:`WRITE_SECONDS`.
    * While an alert is on that was raised before the release began, nothing is learnt: the machine is not well.
    * What ends the learning is an event: it is logged once, and goes to the fleet in a report.

The cumulative sum of the decision is kept in the same file, so that slow wear is also found by an agent that is
restarted every day.

Not done here: the file (:mod:`wheeltapper_agent.pipeline.remembered`).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.model.bundle import Bundle, Evaluation
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.remembered import Remembered, find, read_file, remove_file, write_file
from wheeltapper_agent.records.port import unnumbered_report
from wheeltapper_protocols.decision.baseline import BaselineState, Phase, adjustment, windows_left
from wheeltapper_protocols.decision.decision import DecisionState, initial_state
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import BaselineFeature, BaselineReport, BaselineStatus, Report, Severity

__all__ = ["BASELINES_FOLDER", "WRITE_SECONDS", "Baseline"]

_LOG = logging.getLogger(__name__)
BASELINES_FOLDER: Final = "baselines"
"""In the state folder; one file a pipeline."""
WRITE_SECONDS: Final = 10.0
"""Progress is written at most so often."""
_SLOW_STEPS: Final = 16
"""The cumulative sum is written when it has moved by one part in so many of ``slow_limit``."""
_FEATURES_SHOWN: Final = 8


class Baseline:
    """What one pipeline learns of its machine.

    All methods but :meth:`status`, :meth:`reset` and :meth:`preview` are for the pipeline's thread.

    Args:
        pipeline: its name.
        path: the file that keeps what was learnt; None: it is not kept.
        clock: the device's.
    """

    def __init__(self, pipeline: str, path: Path | None, clock: Clock) -> None:
        self._pipeline, self._path, self._clock = pipeline, path, clock
        self._lock = threading.Lock()
        self._known: tuple[Remembered, ...] | None = None
        self._bundle: Bundle | None = None
        """The bundle that runs, with the fleet's values; None if nothing is to be remembered of it."""
        self._state = BaselineState()
        self._applied: Phase = "learning"
        """The phase that is on disk and in force."""
        self._renewed: Bundle | None = None
        self._events: list[str] = []
        self._unwell = False
        self._written: tuple[int, float] = (0, 0.0)
        self._write_at = float("-inf")
        self._refused_by_disk = False

    # --- a release begins ---------------------------------------------------------------------------------------------

    def begin(self, bundle: Bundle | None, before: DecisionState) -> tuple[Bundle | None, DecisionState]:
        """A release begins; return it as it is to run, and the decision that it begins with.

        Args:
            bundle: the release; None: none runs.
            before: the decision so far.

        Returns:
            The bundle, with the device's own values where they are known. The decision, where an open alert goes on.
        """
        if bundle is None:
            with self._lock:
                self._bundle, self._renewed = None, None
            return None, initial_state(before.severity)
        running, slow_sum = self._begin(bundle, before.severity is not Severity.NORMAL)
        return running, initial_state(before.severity, before.no_score, slow_sum)

    def _begin(self, bundle: Bundle, alert_open: bool) -> tuple[Bundle, float | None]:
        """Return the bundle as it is to run, and the cumulative sum of the same release (None: another one ran)."""
        with self._lock:
            self._bundle, self._renewed = None, None
            if not (bundle.manifest.baseline or bundle.manifest.decision.slow_limit):
                return bundle, None
            known = self._read()
            self._bundle = bundle
            self._state, carried = find(known, bundle.manifest, bundle.sha256)
            self._applied = self._state.phase
            if carried:
                self._events.append("kept")
            goes_on = bool(known) and known[0].sha256 == bundle.sha256
            slow_sum = known[0].slow_sum if goes_on else None
            self._unwell = alert_open and not goes_on
            self._written = self._state.seen, slow_sum or 0.0
            return self._adapted(bundle), slow_sum

    def preview(self, bundle: Bundle) -> Bundle:
        """Return ``bundle`` as it would run, and change nothing: for its shadow run."""
        if bundle.manifest.baseline is None:
            return bundle
        with self._lock:
            known = (self._entry(0.0), *self._known_others()) if self._bundle is not None else self._read()
        state, _ = find(known, bundle.manifest, bundle.sha256)
        return bundle.with_baseline(state)

    def renewed(self, before: DecisionState) -> tuple[Bundle, DecisionState] | None:
        """Return the bundle to run from the next window on, and its decision, where that has changed: learned, or
        reset."""
        if self._renewed is None:  # as always but once or twice
            return None
        with self._lock:
            renewed, self._renewed = self._renewed, None
        return None if renewed is None else (renewed, initial_state(before.severity, before.no_score))

    # --- windows ------------------------------------------------------------------------------------------------------

    def together(self, windows: int) -> int:
        """Return how many of so many windows may be judged in one call."""
        if self._bundle is None or self._state.phase != "learning":
            return windows
        spec = self._bundle.manifest.baseline
        return min(windows, windows_left(spec, self._state)) if spec is not None else windows

    def learn(self, observation: Observation, evaluation: Evaluation, row: int) -> None:
        """Take a window into account that has a score."""
        if self._bundle is None or self._state.phase != "learning" or observation.verdict is None:
            return
        self._unwell = self._unwell and observation.verdict.alert
        if self._unwell:
            return
        with self._lock:
            if self._renewed is None:  # otherwise it was reset meanwhile, and the window was scored with other values
                self._state = self._bundle.learn(self._state, evaluation, observation.verdict, row)

    def turn(self, decision: DecisionState) -> list[Report]:
        """After some windows: write down what is to be kept; return reports of what happened.

        Args:
            decision: the state of the decision after these windows.
        """
        if self._bundle is None:
            return []
        manifest = self._bundle.manifest
        step = manifest.decision.slow_limit / _SLOW_STEPS
        with self._lock:
            ended = self._state.phase != self._applied
            moved = self._state.seen != self._written[0] or abs(decision.slow_sum - self._written[1]) > step
            now = self._clock.monotonic()
            at_once = ended and not self._refused_by_disk
            if at_once or ((ended or moved) and now >= self._write_at):
                self._write(decision.slow_sum, now, ended)
            if not self._events:
                return []
            events, self._events = self._events, []
            status = self._status()
            return [self._report(manifest, event, status) for event in events if status is not None]

    def end(self, decision: DecisionState) -> None:
        """The stream ended: write down what is to be kept."""
        if self._bundle is not None:
            with self._lock:
                self._write(decision.slow_sum, self._clock.monotonic(), ended=False)

    def _write(self, slow_sum: float, now: float, ended: bool) -> None:
        """Keep the present state; with ``ended``, let it come into force."""
        assert self._bundle is not None  # the callers have looked
        known = (self._entry(slow_sum), *self._known_others())
        try:
            if self._path is not None:
                write_file(self._path, known)
        except OSError as error:
            if not self._refused_by_disk:
                _LOG.error("pipeline %s: %s", self._pipeline, storage_error(error, "its baseline cannot be kept"))
            self._refused_by_disk, self._write_at = True, now + WRITE_SECONDS
            return
        self._known, self._refused_by_disk = known, False
        self._written, self._write_at = (self._state.seen, slow_sum), now + WRITE_SECONDS
        if ended:
            self._applied = self._state.phase
            self._events.append(self._applied)
            self._renewed = self._adapted(self._bundle) if self._applied == "learned" else None
            self._log_end()

    def _log_end(self) -> None:
        state, name = self._state, self._pipeline
        if self._applied == "learned":
            _LOG.info("pipeline %s: its baseline is learned from %d windows", name, state.learned)
        else:
            _LOG.warning(
                "pipeline %s: baseline.refused: %d windows were far from what the fleet knows, or not healthy: look at "
                "the machine, then reset the baseline; scores stay those of the fleet's values",
                name,
                state.outside,
            )

    # --- asked from outside -------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was learnt and learn anew, from the next window on.

        Raises:
            AgentError: ``baseline.none``: the release that runs learns none; ``storage.*``: nothing has changed.
        """
        with self._lock:
            if self._bundle is None or self._bundle.manifest.baseline is None:
                raise AgentError("baseline.none", f"the release that {self._pipeline} runs learns no baseline")
            if self._path is not None:
                remove_file(self._path)
            self._known, self._state, self._applied = (), BaselineState(), "learning"
            self._renewed, self._unwell = self._bundle, False
            self._written = (0, 0.0)
            self._events.append("reset")
        _LOG.info("pipeline %s: its baseline is learnt anew", self._pipeline)

    def status(self) -> BaselineStatus | None:
        """Return what is learnt, for the device's status; None where the release that runs learns none."""
        with self._lock:
            return self._status()

    # --- under the lock -----------------------------------------------------------------------------------------------

    def _read(self) -> tuple[Remembered, ...]:
        if self._known is None:
            try:
                self._known = read_file(self._path) if self._path is not None else ()
            except AgentError as error:
                _LOG.warning("pipeline %s: its baseline is learnt anew: %s", self._pipeline, error)
                self._known = ()
                self._events.append("unreadable")
        return self._known

    def _known_others(self) -> tuple[Remembered, ...]:
        """Return what is known of other releases than the one that runs."""
        assert self._bundle is not None  # the callers have looked
        return tuple(each for each in self._known or () if each.sha256 != self._bundle.sha256)

    def _entry(self, slow_sum: float) -> Remembered:
        assert self._bundle is not None  # the callers have looked
        manifest = self._bundle.manifest
        return Remembered(
            sha256=self._bundle.sha256,
            input=manifest.input,
            features=list(manifest.features),
            scoring=manifest.scoring,
            condition=manifest.condition,
            baseline=self._state,
            slow_sum=min(slow_sum, manifest.decision.slow_limit),
        )

    def _adapted(self, bundle: Bundle) -> Bundle:
        """Return ``bundle`` with the device's own values, where they are in force."""
        return bundle.with_baseline(self._state) if self._applied == "learned" else bundle

    def _status(self) -> BaselineStatus | None:
        spec = self._bundle.manifest.baseline if self._bundle is not None else None
        if self._bundle is None or spec is None:
            return None
        state = replace(self._state, phase=self._applied)
        moved = adjustment(spec, state)
        features: list[BaselineFeature] = []
        if state.phase == "learned":
            order = sorted(range(len(moved.shift)), key=lambda row: -abs(float(moved.shift[row])))
            features = [
                BaselineFeature(
                    feature=self._bundle.manifest.features[row].name[:120],
                    shift=round(float(moved.shift[row]), 4),
                    ratio=round(float(moved.ratio[row]), 4),
                    limited=bool(moved.limited[row]),
                )
                for row in order[:_FEATURES_SHOWN]
            ]
        return BaselineStatus(
            phase=state.phase,
            learned=state.learned,
            windows=spec.windows,
            outside=state.outside,
            limited=int(moved.limited.sum()),
            features=features,
        )

    def _report(self, manifest: Manifest, event: str, status: BaselineStatus) -> Report:
        body = BaselineReport(
            pipeline=self._pipeline,
            model=manifest.model,
            release=manifest.release or 1,
            event=event,
            baseline=status,
        )
        return unnumbered_report(body, self._clock.now())
