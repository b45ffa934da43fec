"""What is said of the windows that a pipeline scored: a record each, alerts, and what the observers say.

Windows are judged at once and written down in blocks: what a window costs beside its score is then paid while the code
for it is in the processor's cache, and once for many. A block is settled when an alert is raised or cleared, when it is
full, when it is ``wait_seconds`` old, and at once where windows come further apart than half of that.

Invariants:
    * Each window that was added becomes exactly one telemetry record; indices have no gaps and rise in the order in
      which windows were added.
    * A window, its alert and what the observers say of it are one transaction.
    * Where the disk refuses, records of up to :data:`MAX_PENDING` windows wait for it in memory; further windows are
      counted as dropped and take no index.
    * Memory is bounded: :data:`MAX_BLOCK` windows of at most :data:`MAX_BLOCK_BYTES` in all are kept with their
      samples.

Safe to use from two threads: the pipeline's, and one that calls :meth:`Ledger.settle_due` for a source that fell
silent. Observers are called by one of them at a time.

What this module does not do: score, decide (:mod:`pipeline`), store (:mod:`adapters.spool`).
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
from wheeltapper_agent.records.port import NO_EPOCH, Records
from wheeltapper_protocols.decision.decision import DecisionState
from wheeltapper_protocols.wire.messages import Alert, Report, Severity, TelemetryRecord

__all__ = ["MAX_BLOCK", "MAX_PENDING", "Judged", "Ledger", "observed"]

_LOG = logging.getLogger(__name__)
MAX_BLOCK: Final = 32
MAX_BLOCK_BYTES: Final = 1024 * 1024
MAX_PENDING: Final = 600
"""Windows whose records wait for the spool."""

Item: TypeAlias = TelemetryRecord | Alert | Report


@dataclass(slots=True)
class Judged:
    """A window that was scored, or could not be."""

    seen: Observation
    """Its index is the ledger's to give."""
    before: DecisionState
    """The decision before it."""
    said: list[Item] = field(default_factory=list)
    """What was said of it already."""

    @property
    def urgent(self) -> bool:
        """Whether a person should hear of it now."""
        return self.seen.verdict is not None and self.seen.verdict.changed


class Ledger:
    """The records of one pipeline.

    Args:
        pipeline: its name.
        records: where they go.
        clock: time.
        observers: what looks at each window when it is written down, in this order.
        wait_seconds: how long a window may wait for others; 0: not at all.
    """

    def __init__(
        self, pipeline: str, records: Records, clock: Clock, observers: Sequence[Observer], wait_seconds: float = 0.0
    ) -> None:
        self._pipeline = pipeline
        self._records = records
        self._clock = clock
        self._observers = tuple(observers)
        self._wait_seconds = wait_seconds
        self._settling = threading.Lock()
        self._lock = threading.Lock()
        self._block: list[Judged] = []
        self._block_bytes = 0
        self._began_at = self._added_at = float("-inf")
        self._index = 0
        self._pending: list[tuple[Item, ...]] = []
        self._broken: set[str] = set()
        self.dropped = 0
        """Windows that found no room."""
        self.storage_failed = False
        """Whether the disk refused the last time."""

    def begin(self) -> int:
        """The index of the next window, from the records of an earlier life."""
        self._index = self._records.next_window(self._pipeline)
        return self._index

    @property
    def open_alert(self) -> Severity:
        """How bad the alert is that an earlier life left open; normal where there is none."""
        return self._records.open_alert(self._pipeline)

    @property
    def following(self) -> int:
        """The index of the window that is added next, where none is dropped."""
        return self._index + len(self._block)

    @property
    def waits(self) -> bool:
        """Whether records wait for the disk."""
        return bool(self._pending)

    def add(self, judged: Sequence[Judged]) -> DecisionState | None:
        """Take windows that follow each other.

        Returns:
            None; or, where windows were dropped, the decision before the first of them, so that an alert among them is
            raised again by a later one.
        """
        now = self._clock.monotonic()
        if self._must_settle(judged, now):
            self._added_at = now
            return self._settle(judged)
        with self._lock:
            if not self._block:
                self._began_at = now
            self._block += judged
            self._block_bytes += sum(each.seen.window.samples.nbytes for each in judged)
        self._added_at = now
        return None

    def _must_settle(self, judged: Sequence[Judged], now: float) -> bool:
        half = self._wait_seconds / 2
        return (
            not now - self._added_at < half  # also where nothing shall wait
            or bool(self._pending)
            or len(self._block) + len(judged) >= MAX_BLOCK
            or self._block_bytes >= MAX_BLOCK_BYTES
            or (bool(self._block) and now - self._began_at >= half)
            or any(each.urgent for each in judged)
        )

    def settle_due(self) -> None:
        """Write down what waited long enough, and what waits for the disk."""
        if self._pending or (self._block and self._clock.monotonic() - self._began_at >= self._wait_seconds / 2):
            self._settle()

    def end(self) -> None:
        """The stream ended: write down everything, and what the observers still have to say."""
        self._settle()
        with self._settling:
            if said := self._observed(None):
                self._keep([tuple(said)])

    def _settle(self, more: Sequence[Judged] = ()) -> DecisionState | None:
        with self._settling:
            with self._lock:
                block, self._block, self._block_bytes = [*self._block, *more], [], 0
            if not block:
                self._flush()
                return None
            kept = self._keep([self._items(self._index + row, judged) for row, judged in enumerate(block)])
            self._index += kept
            if kept == len(block):
                return None
            self.dropped += len(block) - kept
            return block[kept].before

    def _items(self, index: int, judged: Judged) -> tuple[Item, ...]:
        seen = judged.seen
        if seen.index != index:
            seen = msgspec.structs.replace(seen, index=index)
        record = _record(seen)
        alert = (self._alert(record, seen),) if judged.urgent else ()
        return (record, *alert, *judged.said, *self._observed(seen))

    def _alert(self, record: TelemetryRecord, seen: Observation) -> Alert:
        assert seen.verdict is not None  # it is urgent
        life = seen.manifest.remaining_life if seen.manifest is not None else None
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
            score=float(seen.verdict.score),
            severity=seen.verdict.severity,
            raised=seen.verdict.alert,
            reasons=list(seen.verdict.reasons[:16]),
            label=seen.verdict.label,
            value=seen.verdict.value,
            unit=life.unit if life is not None else None,
            zone=seen.verdict.zone,
        )

    def _observed(self, seen: Observation | None) -> list[Item]:
        return observed(self._observers, seen, self._pipeline, self._broken)

    def _keep(self, items: Sequence[tuple[Item, ...]]) -> int:
        """Append, with what waited before; where the disk refuses, what fits waits in memory. Returns how many of
        ``items`` were kept, the first ones."""
        self._pending += items
        if self._flush():
            return len(items)
        beyond = max(0, len(self._pending) - MAX_PENDING)
        if beyond:
            del self._pending[-beyond:]
        return max(0, len(items) - beyond)

    def _flush(self) -> bool:
        """Append what waits; False if the disk refuses."""
        if not self._pending:
            return True
        try:
            self._records.append(*(item for items in self._pending for item in items))
        except Exception as error:  # noqa: BLE001  # SQLite and the file system each have their own
            if not self.storage_failed:
                _LOG.error("pipeline %s: spool.storage: %s; records wait", self._pipeline, error)
            self.storage_failed = True
            return False
        if self.storage_failed:
            _LOG.info("pipeline %s: the spool takes records again", self._pipeline)
        self._pending.clear()
        self.storage_failed = False
        return True


def observed(observers: Sequence[Observer], seen: Observation | None, pipeline: str, broken: set[str]) -> list[Item]:
    """What observers say of a window, or (None) at the end of the stream; the first fault of a kind is logged, and
    ``broken`` remembers it."""
    said: list[Item] = []
    for observer in observers:
        try:
            said += observer.end() if seen is None else observer.observe(seen)
        except Exception:  # noqa: BLE001  # an observer must not end the stream
            if type(observer).__name__ not in broken:
                broken.add(type(observer).__name__)
                _LOG.exception("pipeline %s: %s failed", pipeline, type(observer).__name__)
    return said


def _record(seen: Observation) -> TelemetryRecord:
    manifest, verdict = seen.manifest, seen.verdict
    model, release = (manifest.model, manifest.release) if manifest is not None else (None, None)
    t_s = seen.window.wire_t_s
    if verdict is None:
        return TelemetryRecord(seq=1, pipeline=seen.pipeline, window=seen.index, t_s=t_s, model=model, release=release)
    return TelemetryRecord(
        seq=1,
        pipeline=seen.pipeline,
        window=seen.index,
        t_s=t_s,
        model=model,
        release=release,
        score=seen.score,
        severity=verdict.severity,
        latency_ms=seen.latency_ms,
        label=verdict.label,
        value=verdict.value,
        zone=verdict.zone,
    )
