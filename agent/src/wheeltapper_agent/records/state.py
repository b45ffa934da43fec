"""Where a spool stands: its numbering, what it holds, what was dropped. Pure.

The database keeps one of these (:func:`wheeltapper_agent.records.database.write_state`); the rest of the room changes
a copy of it within a transaction, and takes the copy over once the transaction is committed.
"""

from __future__ import annotations

import msgspec

from wheeltapper_agent.records.port import NO_EPOCH, no_score_key
from wheeltapper_agent.records.rows import Item
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.messages import NO_SCORE, Alert, LossReport, TelemetryRecord

__all__ = ["State", "loss_report"]


class State(msgspec.Struct, kw_only=True):
    """Where a spool stands. Counts are by kind of record: ``telemetry``, ``alert``, ``report``."""

    epoch: str = NO_EPOCH
    """The id of this spool's life; :data:`NO_EPOCH` until the database could be opened."""
    seq: int = 0
    """The number that was given last."""
    acked: int = 0
    """The fleet has every record up to this number."""
    age_seconds: float = 0.0
    """How long the agent has run with this spool: the clock by which records grow old."""
    held: dict[str, int] = {}
    """Records that are not acknowledged yet."""
    dropped: dict[str, int] = {}
    """Records that were deleted without an acknowledgement."""
    why: list[str] = []
    """The error codes for which records were dropped, each once, e.g. ``spool.full``."""
    reported: int = 0
    """How many dropped records the newest loss report tells of."""
    report_seq: int = 0
    """The number of the newest loss report."""
    windows: dict[str, int] = {}
    """The index of the next window, by pipeline."""
    alerts: dict[str, str] = {}
    """The severity of the open alert, by pipeline; a pipeline without one is missing. The alert that there is no score
    stands under the name that :func:`no_score_key` gives."""

    def copy(self) -> State:
        """An independent copy: changing it does not change this state."""
        return msgspec.structs.replace(
            self,
            held=dict(self.held),
            dropped=dict(self.dropped),
            why=list(self.why),
            windows=dict(self.windows),
            alerts=dict(self.alerts),
        )

    def note(self, item: Item) -> None:
        """Update ``windows`` and ``alerts`` for a record that the spool keeps."""
        if type(item) is TelemetryRecord:
            self.windows[item.pipeline] = item.window + 1
        elif type(item) is Alert:
            key = no_score_key(item.pipeline) if item.label == NO_SCORE else item.pipeline
            if item.raised:
                self.alerts[key] = item.severity.value
            else:
                self.alerts.pop(key, None)


def loss_report(lost: State, detail: str) -> LossReport:
    """What the fleet is told about a damaged spool.

    Args:
        lost: where the damaged spool stood, as far as it is known.
        detail: the error that showed the damage; the first 500 characters are sent.
    """
    return LossReport(
        why="spool.corrupt",
        counts=dict(lost.held),
        lost_epoch=None if lost.epoch == NO_EPOCH else lost.epoch,
        first=lost.acked + 1 if lost.seq > lost.acked else 0,
        last=lost.seq,
        detail=brief(detail),
    )
