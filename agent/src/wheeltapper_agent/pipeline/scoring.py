"""Windows become rows of an evaluation: which of them the model may see, and in how few calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.model.bundle import Bundle, Evaluation
from wheeltapper_agent.pipeline.model_calls import ModelCalls
from wheeltapper_agent.pipeline.verdicts import Row
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.deferred import DeferredSource
from wheeltapper_protocols.decision.condition import UNKNOWN
from wheeltapper_protocols.signal.quality import is_complete

__all__ = ["Scoring"]

_LOG = logging.getLogger(__name__)


class Scoring:
    """Scores the windows of one source.

    Args:
        pipeline: its name.
        source: of the windows.
        clock: the device's.
        failed: is told the error of each window that the model cannot score.
        misfits: is told when a window has another form than the source says, which is not the model's fault.
    """

    def __init__(
        self,
        pipeline: str,
        source: DeferredSource,
        clock: Clock,
        failed: Callable[[Bundle, Exception], None],
        misfits: Callable[[], None],
    ) -> None:
        self.calls = 0
        """Calls of the model that came back."""
        self.partly_scored = 0
        self.unknown_conditions = 0
        self._unknown = False
        """Windows that were scored although channels were missing, which the release allows."""
        self._pipeline, self._without = pipeline, tuple[str, ...]()
        self.model_calls = ModelCalls(clock)
        self.hanging: Bundle | None = None
        """A bundle that is not called any more, because a call of it did not come back."""
        self._source, self._clock = source, clock
        self._failed, self._misfits = failed, misfits

    def rows(self, batch: Sequence[Window], bundle: Bundle) -> list[Row | None]:
        """Score windows; None for one on which the model fails, or with missing samples that its score would hide.

        Raises:
            LeftBehind: a call of the model came back after it was given up.
        """
        rows: list[Row | None] = [None] * len(batch)
        form = self._source.form
        if form is not None and any(each.samples.shape != form for each in batch):
            if len(batch) > 1:
                return [self.rows((each,), bundle)[0] for each in batch]
            if self._source.misfits(batch[0]):
                self._misfits()
                return rows
        any_window = bundle.propagates_nan or bundle.manifest.missing_channels > 0
        usable = [row for row, each in enumerate(batch) if any_window or is_complete(each.samples)]
        if not usable or bundle is self.hanging:
            return rows
        began = self._clock.monotonic()
        try:
            evaluation = self.model_calls.run(bundle.evaluate, _stacked([batch[row].samples for row in usable]))
        except Exception as error:  # noqa: BLE001  # the stream goes on; probation asks for the health
            if len(usable) == 1:
                self._failed(bundle, error)
                return rows
            for row in usable:  # one window may make the call fail for all
                rows[row] = self.rows((batch[row],), bundle)[0]
            return rows
        latency_ms = (self._clock.monotonic() - began) * 1e3 / len(usable)
        self.calls += 1
        if evaluation.missing is not None or self._without:
            self._note_missing(bundle, evaluation)
        if bundle.manifest.condition is not None:
            self._note_condition(evaluation)
        for place, row in enumerate(usable):
            rows[row] = (evaluation, place, latency_ms, self.calls)
        return rows

    def _note_condition(self, evaluation: Evaluation) -> None:
        """Count windows in a condition that the release does not know; log it once, until a known one comes."""
        labels = evaluation.scores.labels or ()
        unknown = sum(label == UNKNOWN for label in labels)
        self.unknown_conditions += unknown
        if unknown and not self._unknown:
            _LOG.warning(
                "pipeline %s: %s: the release was not trained at this speed or load, so it gives no scores until a "
                "known one; train it on recordings of this condition, too",
                self._pipeline,
                UNKNOWN,
            )
        self._unknown = unknown > 0

    def _note_missing(self, bundle: Bundle, evaluation: Evaluation) -> None:
        """Count windows that were scored without all channels; log which are missing, once until that changes."""
        missing = evaluation.missing
        without: tuple[str, ...] = ()
        if missing is not None:
            self.partly_scored += int(missing.any(axis=1).sum())
            manifest, last = bundle.manifest, np.flatnonzero(missing.any(axis=0))
            gone = {manifest.features[column].channel for column in last}
            without = tuple(manifest.input.channels[channel] for channel in sorted(gone))
        if without and without != self._without:
            _LOG.warning("pipeline %s: it is scored without the channels %s", self._pipeline, ", ".join(without))
        elif self._without and not without:
            _LOG.info("pipeline %s: all channels are there again", self._pipeline)
        self._without = without


def _stacked(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return [window, sample, channel]; a single window is not copied."""
    return samples[0][None] if len(samples) == 1 else np.stack(samples)
