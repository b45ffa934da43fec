"""Faults in the work of a pipeline that nothing else has caught: they are counted and shown, and end nothing."""

from __future__ import annotations

import logging
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.source.deferred import SourceTrouble

__all__ = ["StreamFaults"]

_LOG = logging.getLogger(__name__)
_CODE: Final = "pipeline.failed"


class StreamFaults:
    """The faults of one pipeline. The pipeline's thread writes, any thread reads.

    Args:
        pipeline: its name.
        clock: the device's.
    """

    def __init__(self, pipeline: str, clock: Clock) -> None:
        self.lost_windows = 0
        """Windows that were dropped because of such faults."""
        self._pipeline = pipeline
        self._faults = RepeatedFaults(_LOG, clock)
        self._message = ""

    @property
    def code(self) -> str:
        """``pipeline.failed`` if the newest windows could not be processed; otherwise empty."""
        return _CODE if self._message else ""

    @property
    def trouble(self) -> SourceTrouble | None:
        """What is wrong; None while windows are processed."""
        message = self._message
        return SourceTrouble(_CODE, message, self._faults.total, 0.0) if message else None

    @property
    def total(self) -> int:
        """Faults since the agent started."""
        return self._faults.total

    def happened(self, error: BaseException, windows: int) -> None:
        """Note a fault; ``windows`` were lost by it."""
        self.lost_windows += windows
        self._message = f"{type(error).__name__}: {error}"[:500]
        _LOG.debug("pipeline %s: a fault", self._pipeline, exc_info=error)
        self._faults.happened(
            f"pipeline {self._pipeline}: {windows} windows could not be processed: {self._message} [{_CODE}]"
        )

    def ended(self) -> None:
        """Windows are processed again."""
        if self._message:
            self._message = ""
            self._faults.ended()
