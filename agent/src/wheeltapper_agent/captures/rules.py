"""Which windows of a pipeline are recorded without being asked for: around alerts, on drift, a random share.

Invariants:
    * The pipeline never waits: a recording that is complete is handed over, or dropped and counted where nobody takes
      it.
    * Memory is bounded: ``before_windows`` windows, one recording being collected, one of random windows; a rule that
      would need more than the board's cap is cut down when it is made.
    * The random share is drawn from the seed and the window's index alone, so a restart draws the same.
    * While a recording is collected, and ``pause_seconds`` after it, further triggers are counted and otherwise
      ignored: a machine that keeps alerting does not fill the disk with the same.

Not done here: files, uploads (:mod:`captures`); what is drift (:mod:`drift`).
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
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["CaptureRules", "Collected", "RulesFromFirstWindow"]

_LOG = logging.getLogger(__name__)
_SAMPLE_BYTES: Final = 4
_MAX_WHY: Final = 80


@dataclass(frozen=True, slots=True)
class Collected:
    """Windows that a rule wants to be recorded."""

    pipeline: str
    reason: str
    spec: SourceSpec
    windows: list[Window]
    first_window: int


@dataclass(slots=True)
class _Open:
    reason: str
    windows: list[Window]
    first_window: int
    left: int


class CaptureRules:
    """The rules of one pipeline; an observer of its windows.

    Args:
        pipeline: its name.
        spec: what its windows look like.
        rule: what to record.
        sink: takes a recording at once, or says False.
        clock: time.
        max_bytes: how large a recording may be, as float32 in memory.
    """

    def __init__(
        self,
        pipeline: str,
        spec: SourceSpec,
        rule: CaptureRule,
        sink: Callable[[Collected], bool],
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._rule = _within(rule, spec, max_bytes, pipeline)
        self._sink = sink
        self._clock = clock
        self._recent: deque[Window] = deque(maxlen=max(0, self._rule.before_windows))
        self._open: _Open | None = None
        self._random = _Open("random", [], 0, 0)
        self._quiet_until: float | None = None
        self._lock = threading.Lock()
        self._wanted = ""
        self.ignored = 0
        """Triggers that came while a recording was collected, or soon after it."""
        self.dropped = 0
        """Recordings that nobody took."""

    def trigger(self, why: str) -> None:
        """Record around the next window; from any thread."""
        with self._lock:
            if self._wanted:
                self.ignored += 1
            else:
                self._wanted = why[:_MAX_WHY]

    def on_drift(self, why: str) -> None:
        """As :meth:`trigger`, where the rule says so."""
        if self._rule.on_drift:
            self.trigger(f"drift.{why}")

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Take a window into account; says nothing by itself."""
        if self._rule.on_alert and seen.verdict is not None and seen.verdict.changed and seen.verdict.alert:
            self.trigger("alert")
        with self._lock:
            why, self._wanted = self._wanted, ""
        if why:
            self._begin(why, seen.index)
        if self._open is not None:
            self._open.windows.append(seen.window)
            self._open.left -= 1
            if self._open.left <= 0:
                self._close()
        elif self._drawn(seen.index):
            self._keep_random(seen)
        self._recent.append(seen.window)
        return ()

    def end(self) -> Sequence[Alert | Report]:
        """The stream is over: what was collected is handed over."""
        if self._open is not None:
            self._close()
        self._hand_over_random()
        return ()

    def _begin(self, why: str, index: int) -> None:
        now = self._clock.monotonic()
        if self._open is not None or (self._quiet_until is not None and now < self._quiet_until):
            self.ignored += 1
            return
        before = list(self._recent)
        self._open = _Open(why, before, max(0, index - len(before)), self._rule.after_windows + 1)

    def _close(self) -> None:
        if self._open is not None:
            self._hand_over(self._open)
        self._open = None
        self._quiet_until = self._clock.monotonic() + self._rule.pause_seconds

    def _drawn(self, index: int) -> bool:
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
        self._random = _Open("random", [], 0, 0)

    def _hand_over(self, full: _Open) -> None:
        if not self._sink(Collected(self._pipeline, full.reason, self._spec, full.windows, full.first_window)):
            self.dropped += 1
            _LOG.warning("pipeline %s: a recording (%s) was dropped: others wait", self._pipeline, full.reason)


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


def _within(rule: CaptureRule, spec: SourceSpec, max_bytes: int, pipeline: str) -> CaptureRule:
    """``rule`` with no more windows in a recording than ``max_bytes`` allow."""
    most = max(1, max_bytes // max(1, spec.window_samples * len(spec.channels) * _SAMPLE_BYTES))
    after = min(rule.after_windows, most - 1)
    cut = replace(
        rule,
        after_windows=after,
        before_windows=min(rule.before_windows, most - 1 - after),
        random_windows=max(1, min(rule.random_windows, most)),
    )
    if cut != rule:
        _LOG.warning("pipeline %s: recordings by rule are cut to %d windows, the board's cap", pipeline, most)
    return cut
