"""Which windows of a pipeline are recorded without a command: around alerts, on drift, a random share.

Invariants:
    * The pipeline never waits: a complete recording is handed over, or dropped and counted where there is no room.
    * Memory is bounded: ``before_windows`` windows, one recording being collected, one of random windows. A rule that
      would need more than the board's cap gets fewer windows when it is made.
    * The random share is drawn from the seed and the window's index alone, so a restart draws the same.
    * While a recording is collected, and for ``pause_seconds`` after it, further triggers are counted and otherwise
      ignored: a machine that keeps alerting does not fill the disk with copies of one event.

Not done here: files (:mod:`wheeltapper_agent.captures.recorder`); what drift is
(:mod:`wheeltapper_agent.pipeline.drift`).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wheeltapper_agent.captures.config import CaptureRule
from wheeltapper_agent.captures.recording import window_bytes
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["CaptureRules", "Collected", "RulesFromFirstWindow"]

_LOG = logging.getLogger(__name__)
_MAX_REASON_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Collected:
    """Windows that a rule wants to be recorded, complete."""

    pipeline: str
    reason: str
    """``alert``, ``drift.<what drifted>`` or ``random``."""
    spec: SourceSpec
    windows: list[Window]
    first_window: int
    """Index of the first of them in the stream."""


@dataclass(slots=True)
class _Collection:
    """Windows that are being collected for one recording."""

    reason: str
    windows: list[Window]
    first_window: int
    missing: int
    """How many more windows are wanted."""


class CaptureRules:
    """Applies one rule to one pipeline; an observer of its windows.

    Args:
        pipeline: its name.
        spec: what its windows look like.
        rule: what to record.
        record: takes a complete recording without waiting; returns False where there is no room for it.
        clock: time.
        max_bytes: how large a recording may be in memory, as float32.
    """

    def __init__(
        self,
        pipeline: str,
        spec: SourceSpec,
        rule: CaptureRule,
        record: Callable[[Collected], bool],
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._rule = _fit_into(max_bytes, rule, spec, pipeline)
        self._record = record
        self._clock = clock
        self._before: deque[Window] = deque(maxlen=max(0, self._rule.before_windows))
        self._collection: _Collection | None = None
        self._random = _Collection("random", [], 0, 0)
        self._paused_until: float | None = None
        self._lock = threading.Lock()
        self._trigger = ""
        self.ignored = 0
        """Triggers that started no recording: another was being collected, or had just been."""
        self.dropped = 0
        """Recordings for which there was no room."""

    def trigger(self, why: str) -> None:
        """Record around the next window. May be called from any thread.

        Args:
            why: the recording's ``reason``, cut to 80 characters.
        """
        with self._lock:
            if self._trigger:
                self.ignored += 1
            else:
                self._trigger = why[:_MAX_REASON_CHARACTERS]

    def on_drift(self, why: str) -> None:
        """Record around the next window where the rule says so; ``why`` names what drifted."""
        if self._rule.on_drift:
            self.trigger(f"drift.{why}")

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """See :class:`~wheeltapper_agent.pipeline.observation.Observer`; returns no records."""
        if self._rule.on_alert and seen.verdict is not None and seen.verdict.changed and seen.verdict.alert:
            self.trigger("alert")
        with self._lock:
            why, self._trigger = self._trigger, ""
        if why:
            self._begin(why, seen.index)
        if self._collection is not None:
            self._collection.windows.append(seen.window)
            self._collection.missing -= 1
            if self._collection.missing <= 0:
                self._finish()
        elif self._drawn(seen.index):
            self._keep_random(seen)
        self._before.append(seen.window)
        return ()

    def end(self) -> Sequence[Alert | Report]:
        """The stream ended: hand over what was collected, complete or not."""
        if self._collection is not None:
            self._finish()
        self._hand_over_random()
        return ()

    def _begin(self, why: str, index: int) -> None:
        now = self._clock.monotonic()
        if self._collection is not None or (self._paused_until is not None and now < self._paused_until):
            self.ignored += 1
            return
        before = list(self._before)
        self._collection = _Collection(why, before, max(0, index - len(before)), self._rule.after_windows + 1)

    def _finish(self) -> None:
        if self._collection is not None:
            self._hand_over(self._collection)
        self._collection = None
        self._paused_until = self._clock.monotonic() + self._rule.pause_seconds

    def _drawn(self, index: int) -> bool:
        """Whether the window belongs to the random share: a hash of seed, pipeline and index, so that it can be
        repeated."""
        share = self._rule.random_share
        if share <= 0:
            return False
        text = f"{self._rule.seed}/{self._pipeline}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") < share * 2**64

    def _keep_random(self, seen: Observation) -> None:
        if not self._random.windows:
            self._random.first_window = seen.index
        self._random.windows.append(seen.window)
        if len(self._random.windows) >= self._rule.random_windows:
            self._hand_over_random()

    def _hand_over_random(self) -> None:
        if self._random.windows:
            self._hand_over(self._random)
        self._random = _Collection("random", [], 0, 0)

    def _hand_over(self, full: _Collection) -> None:
        if not self._record(Collected(self._pipeline, full.reason, self._spec, full.windows, full.first_window)):
            self.dropped += 1
            _LOG.warning(
                "pipeline %s: a recording (%s) was dropped: there is no room beside those that wait",
                self._pipeline,
                full.reason,
            )


class RulesFromFirstWindow:
    """An observer that is made with the first window, since a source may not know before what its windows look like.

    Args:
        make: called once; None where the pipeline has no rule.
    """

    def __init__(self, make: Callable[[], CaptureRules | None]) -> None:
        self._make, self._asked = make, False
        self._rules: CaptureRules | None = None

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """See :class:`~wheeltapper_agent.pipeline.observation.Observer`."""
        if not self._asked:
            self._rules, self._asked = self._make(), True
        return self._rules.observe(seen) if self._rules is not None else ()

    def end(self) -> Sequence[Alert | Report]:
        """See :class:`~wheeltapper_agent.pipeline.observation.Observer`."""
        return self._rules.end() if self._rules is not None else ()


def _fit_into(max_bytes: int, rule: CaptureRule, spec: SourceSpec, pipeline: str) -> CaptureRule:
    """``rule`` with so few windows in a recording that it takes at most ``max_bytes``; at least one window."""
    most = max(1, max_bytes // max(1, window_bytes(spec)))
    after = min(rule.after_windows, most - 1)
    cut = replace(
        rule,
        after_windows=after,
        before_windows=min(rule.before_windows, most - 1 - after),
        random_windows=max(1, min(rule.random_windows, most)),
    )
    if cut != rule:
        _LOG.warning(
            "pipeline %s: a recording by rule gets at most %d windows: more do not fit into this board's cap",
            pipeline,
            most,
        )
    return cut
