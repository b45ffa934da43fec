"""Captures under way: each collects the next windows of a pipeline."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wheeltapper_agent.source.base import Window

__all__ = ["WindowCapture", "WindowCaptures"]

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class WindowCapture:
    """A capture under way: collects the next windows of a pipeline.

    ``on_end`` is called once with the windows: when ``wanted_windows`` are there, or with fewer when the source ends or
    when :meth:`WindowCaptures.end_due` is called after ``expires_at`` (Unix seconds).
    """

    wanted_windows: int
    on_end: Callable[[list[Window]], None]
    expires_at: float = math.inf
    windows: list[Window] = field(default_factory=list)


class WindowCaptures:
    """The captures of one pipeline. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captures: list[WindowCapture] = []

    def add(self, capture: WindowCapture) -> None:
        """Collect the next windows for ``capture``."""
        with self._lock:
            self._captures.append(capture)

    def feed(self, windows: Sequence[Window]) -> None:
        """Give windows to the captures under way."""
        if not self._captures:
            return
        for window in windows:
            with self._lock:
                for capture in self._captures:
                    capture.windows.append(window)
            self._end(lambda capture: len(capture.windows) >= capture.wanted_windows)

    def end_due(self, now: float) -> None:
        """End the captures that expired before ``now`` (Unix seconds)."""
        self._end(lambda capture: capture.expires_at < now)

    def end_all(self) -> None:
        """End every capture: no more windows come."""
        self._end(lambda _: True)

    def _end(self, ended: Callable[[WindowCapture], bool]) -> None:
        """End the captures for which ``ended`` is true."""
        with self._lock:
            to_end = [capture for capture in self._captures if ended(capture)]
            self._captures = [capture for capture in self._captures if not ended(capture)]
        for capture in to_end:
            try:
                capture.on_end(capture.windows)
            except Exception:  # noqa: BLE001  # the stream goes on; the fleet repeats its command
                _LOG.exception("a capture of %d windows cannot be taken further", len(capture.windows))
