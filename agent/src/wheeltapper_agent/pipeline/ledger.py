"""Turns the judged windows of a pipeline into records: one record a window, alerts, and the records of the observers.

Windows are judged at once and written down in blocks. That costs less than a transaction a window, and the code for it
stays in the processor's cache. A block is written when an alert is raised or cleared, when the block is full, when it
is ``wait_seconds`` old, and at once if windows come further apart than half of that.

Invariants:
    * Each window that was added becomes exactly one telemetry record. Indices have no gaps and rise in the order in
      which windows were added.
    * A window, its alert and what the observers return for it are one transaction.
    * While the disk refuses, records of up to :data:`MAX_PENDING` windows wait in memory. Further windows are counted
      as dropped and take no index.
    * Memory is bounded: at most :data:`MAX_BLOCK` windows of together at most :data:`MAX_BLOCK_BYTES` keep their
      samples.

Two threads may use a ledger: the pipeline's, and one that calls :meth:`Ledger.flush_due` for a source that fell silent.
Observers are called by one of them at a time.

What this module does not do: score or decide (:mod:`wheeltapper_agent.pipeline.pipeline`), store
(:mod:`wheeltapper_agent.records.spool`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.observation import Observation, Observer
from wheeltapper_agent.records.port import NO_EPOCH, Records, no_score_key
from wheeltapper_protocols.decision.decision import DecisionState
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import NO_SCORE, Alert, Report, Severity, TelemetryRecord

__all__ = ["MAX_BLOCK", "MAX_PENDING", "JudgedWindow", "Ledger", "call_observers"]

_LOG = logging.getLogger(__name__)
MAX_BLOCK: Final = 32
"""Greatest number of windows in a block."""
MAX_BLOCK_BYTES: Final = 1024 * 1024
"""Greatest size of the samples in a block."""
MAX_PENDING: Final = 600
"""Greatest number of windows whose records wait for the disk."""

Item: TypeAlias = TelemetryRecord | Alert | Report
"""What a window may become in the spool."""


@dataclass(slots=True)
class JudgedWindow:
    """A window that was scored, or that could not be scored."""

    observation: Observation
    """Its index is provisional; the ledger gives the final one."""
    state_before: DecisionState
    """The decision before this window."""
    items: list[Item] = field(default_factory=list)
    """Records that go with the window's own: those of the observers that saw it when it was judged."""
    no_score: tuple[bool, Manifest] | None = None
    """The alert that windows get no score was raised (True) or is over at this window; with the release's manifest."""

    @property
    def urgent(self) -> bool:
        """Whether the window raised, cleared or changed an alert: it is written down at once."""
        return self.changed or self.no_score is not None

    @property
    def changed(self) -> bool:
        """Whether the window raised, cleared or changed the alert of its score."""
        return self.observation.verdict is not None and self.observation.verdict.changed


class Ledger:
    """Writes the records of one pipeline.

    Args:
        pipeline: its name.
        records: the spool that takes them.
        clock: the device's.
        observers: look at each window when it is written down, in this order.
        wait_seconds: how long a window may wait to be written down with others; 0: not at all.
    """

    def __init__(
        self, pipeline: str, records: Records, clock: Clock, observers: Sequence[Observer], wait_seconds: float = 0.0
    ) -> None:
        self._pipeline = pipeline
        self._records = records
        self._clock = clock
        self._observers = tuple(observers)
        self._wait_seconds = wait_seconds
        self._flushing = threading.Lock()
        self._lock = threading.Lock()
        self._block: list[JudgedWindow] = []
        self._block_bytes = 0
        self._began_at = self._added_at = float("-inf")
        self._index = 0
        self._pending: list[tuple[Item, ...]] = []
        self._broken: set[str] = set()
        self.dropped = 0
        """Number of windows that were dropped because the disk refused for too long."""
        self.storage_failed = False
        """Whether the disk refused the last records."""

    def begin(self) -> int:
        """Return the index of the next window, which follows on from the records of earlier runs of the agent."""
        self._index = self._records.next_window(self._pipeline)
        return self._index

    @property
    def open_alert(self) -> Severity:
        """Severity of the alert that an earlier run of the agent left open; normal if there is none."""
        return self._records.open_alert(self._pipeline)

    @property
    def open_no_score(self) -> bool:
        """Whether an earlier run of the agent left the alert open that windows get no score."""
        return self._records.open_alert(no_score_key(self._pipeline)) is not Severity.NORMAL

    @property
    def next_index(self) -> int:
        """Index of the window that is added next, unless windows are dropped."""
        return self._index + len(self._block)

    @property
    def has_pending(self) -> bool:
        """Whether records wait for the disk."""
        return bool(self._pending)

    def add(self, judged: Sequence[JudgedWindow]) -> DecisionState | None:
        """Take windows that follow each other.

        Returns:
            None, or if windows were dropped the decision before the first of them. The caller goes back to that
            decision, so that an alert that was dropped is raised again by a later window.
        """
        now = self._clock.monotonic()
        if self._must_flush(judged, now):
            self._added_at = now
            return self._flush(judged)
        with self._lock:
            if not self._block:
                self._began_at = now
            self._block += judged
            self._block_bytes += sum(each.observation.window.samples.nbytes for each in judged)
        self._added_at = now
        return None

    def _must_flush(self, judged: Sequence[JudgedWindow], now: float) -> bool:
        """Return whether the block is to be written with these windows."""
        half = self._wait_seconds / 2
        return (
            not now - self._added_at < half  # always true where wait_seconds is 0
            or bool(self._pending)
            or len(self._block) + len(judged) >= MAX_BLOCK
            or self._block_bytes >= MAX_BLOCK_BYTES
            or (bool(self._block) and now - self._began_at >= half)
            or any(each.urgent for each in judged)
        )

    def flush_due(self) -> None:
        """Write the block if it is old enough, and try again what waits for the disk."""
        if self._pending or (self._block and self._clock.monotonic() - self._began_at >= self._wait_seconds / 2):
            self._flush()

    def end(self) -> None:
        """The stream ended: write everything, and what the observers return at the end."""
        self._flush()
        with self._flushing:
            if items := self._observed(None):
                self._append([tuple(items)])

    def _flush(self, more: Sequence[JudgedWindow] = ()) -> DecisionState | None:
        """Write the block and ``more``; return the decision before the first dropped window, if one was dropped."""
        with self._flushing:
            with self._lock:
                block, self._block, self._block_bytes = [*self._block, *more], [], 0
            if not block:
                self._append_pending()
                return None
            items: list[tuple[Item, ...]] = []
            rows: list[JudgedWindow] = []
            for judged in block:
                try:
                    items.append(self._items(self._index + len(items), judged))
                except Exception:  # noqa: BLE001  # a window of which no record can be made takes no other with it
                    self.dropped += 1
                    if "records" not in self._broken:
                        self._broken.add("records")
                        _LOG.exception("pipeline %s: a window cannot be written down, and is dropped", self._pipeline)
                else:
                    rows.append(judged)
            kept = self._append(items)
            self._index += kept
            if kept == len(rows):
                return None
            self.dropped += len(rows) - kept
            return rows[kept].state_before

    def _items(self, index: int, judged: JudgedWindow) -> tuple[Item, ...]:
        """Return the records of a window: its own, an alert, those of the live observers and of the ledger's."""
        observation = judged.observation
        if observation.index != index:
            observation = msgspec.structs.replace(observation, index=index)
        record = _record(observation)
        alerts: tuple[Item, ...] = (self._alert(record, observation),) if judged.changed else ()
        if judged.no_score is not None:
            alerts += (self._no_score_alert(record, *judged.no_score),)
        return (record, *alerts, *judged.items, *self._observed(observation))

    def _no_score_alert(self, record: TelemetryRecord, raised: bool, manifest: Manifest) -> Alert:
        """Return the alert that the model gives complete windows no score, or that it does again."""
        return Alert(
            epoch=NO_EPOCH,
            oldest=1,
            seq=1,
            pipeline=self._pipeline,
            window=record.window,
            t_s=record.t_s,
            at=max(0.0, self._clock.now()),
            model=manifest.model,
            release=manifest.release or 1,
            score=0.0,
            severity=Severity.WARNING if raised else Severity.NORMAL,
            raised=raised,
            label=NO_SCORE,
        )

    def _alert(self, record: TelemetryRecord, observation: Observation) -> Alert:
        """Return the alert of a window that changed the decision."""
        verdict, manifest = observation.verdict, observation.manifest
        assert verdict is not None  # the window changed the decision
        life = manifest.remaining_life if manifest is not None else None
        return Alert(
            epoch=NO_EPOCH,
            oldest=1,
            seq=1,
            pipeline=self._pipeline,
            window=record.window,
            t_s=record.t_s,
            at=max(0.0, self._clock.now()),
            model=record.model or "",
            release=record.release or 1,
            score=float(verdict.score),
            severity=verdict.severity,
            raised=verdict.alert,
            reasons=list(verdict.reasons[:16]),
            label=verdict.label,
            value=verdict.value,
            unit=life.unit if life is not None else None,
            zone=verdict.zone,
            slowly=verdict.slowly,
        )

    def _observed(self, observation: Observation | None) -> list[Item]:
        """Return the records of the ledger's observers for a window, or at the end of the stream (None)."""
        return call_observers(self._observers, observation, self._pipeline, self._broken)

    def _append(self, items: Sequence[tuple[Item, ...]]) -> int:
        """Append ``items``, after what waits already; keep what fits in memory if the disk refuses. Return how many of
        ``items`` were kept, counted from the first."""
        self._pending += items
        if self._append_pending():
            return len(items)
        beyond = max(0, len(self._pending) - MAX_PENDING)
        if beyond:
            del self._pending[-beyond:]
        return max(0, len(items) - beyond)

    def _append_pending(self) -> bool:
        """Append the records that wait; return False if the disk refuses."""
        if not self._pending:
            return True
        try:
            self._records.append(*(item for items in self._pending for item in items))
        except (TypeError, ValueError, OverflowError):  # no disk raises these: a record cannot be encoded
            if not self._append_one_by_one():
                return False
        except Exception as error:  # noqa: BLE001  # SQLite and the file system raise different classes
            if not self.storage_failed:
                _LOG.error(
                    "pipeline %s: spool.storage: the disk refuses records: %s; they wait in memory",
                    self._pipeline,
                    error,
                )
            self.storage_failed = True
            return False
        if self.storage_failed:
            _LOG.info("pipeline %s: the disk takes records again", self._pipeline)
        self._pending.clear()
        self.storage_failed = False
        return True

    def _append_one_by_one(self) -> bool:
        """Append what waits window by window, and drop the windows whose records cannot be encoded; return False if the
        disk refuses."""
        while self._pending:
            try:
                self._records.append(*self._pending[0])
            except (TypeError, ValueError, OverflowError) as error:
                self.dropped += 1
                if "encoding" not in self._broken:
                    self._broken.add("encoding")
                    _LOG.error("pipeline %s: a record cannot be encoded, and is dropped: %s", self._pipeline, error)
            except Exception:  # noqa: BLE001  # see _append_pending; the next attempt tells
                return False
            del self._pending[0]
        return True


def call_observers(
    observers: Sequence[Observer], observation: Observation | None, pipeline: str, broken: set[str]
) -> list[Item]:
    """Show a window to observers, or (None) tell them that the stream ended; return the records that they give.

    The first failure of each class of observer is logged. ``broken`` remembers the classes that failed.
    """
    items: list[Item] = []
    for observer in observers:
        try:
            items += observer.end() if observation is None else observer.observe(observation)
        except Exception:  # noqa: BLE001  # a failing observer must not end the stream
            if type(observer).__name__ not in broken:
                broken.add(type(observer).__name__)
                _LOG.exception("pipeline %s: the observer %s failed", pipeline, type(observer).__name__)
    return items


def _record(observation: Observation) -> TelemetryRecord:
    """Return the telemetry record of a window; the spool gives the final ``seq``."""
    manifest, verdict = observation.manifest, observation.verdict
    model, release = (manifest.model, manifest.release) if manifest is not None else (None, None)
    t_s = observation.window.wire_t_s
    if verdict is None:
        return TelemetryRecord(
            seq=1, pipeline=observation.pipeline, window=observation.index, t_s=t_s, model=model, release=release
        )
    return TelemetryRecord(
        seq=1,
        pipeline=observation.pipeline,
        window=observation.index,
        t_s=t_s,
        model=model,
        release=release,
        score=observation.score,
        severity=verdict.severity,
        latency_ms=observation.latency_ms,
        label=verdict.label,
        value=verdict.value,
        zone=verdict.zone,
        partial=observation.partial,
    )
