"""Which score of a pipeline is the present one, from the windows that a device delivered. Pure.

Invariants:
    * A score is the present one until it is older than its term, which follows from the pace of the pipeline's windows
      (:mod:`wheeltapper_protocols.decision.score_age`). A window without a score does not make an older one newer.
    * Its age is that of its arrival. A device's clock is not asked: it may be wrong, and a replay has another time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wheeltapper_protocols.decision.score_age import score_term_seconds

__all__ = ["NewestScore", "Window", "newest_by_pipeline"]


class Window(Protocol):
    """One delivered window, as a row of ``records``."""

    @property
    def pipeline(self) -> str | None: ...
    @property
    def t_s(self) -> float | None: ...
    @property
    def score(self) -> float | None: ...
    @property
    def severity(self) -> str | None: ...
    @property
    def received_at(self) -> float: ...


@dataclass(frozen=True)
class NewestScore:
    """The newest score of a pipeline."""

    score: float
    severity: str | None
    at: float
    """When it came to the fleet, in Unix seconds."""
    term_seconds: float
    """From then on it is the present one for so long."""

    def present(self, now: float) -> bool:
        """Whether it is the present one at ``now`` (Unix seconds)."""
        return now - self.at <= self.term_seconds


def newest_by_pipeline(windows: Iterable[Window]) -> dict[str, NewestScore]:
    """The newest score of each pipeline that has one.

    Args:
        windows: the last windows of one device, newest first, with and without scores.
    """
    by_pipeline: dict[str, list[Window]] = {}
    for window in windows:
        by_pipeline.setdefault(window.pipeline or "", []).append(window)
    found = {}
    for name, newest_first in by_pipeline.items():
        for window in newest_first:
            if window.score is not None:
                term = score_term_seconds(_pace_seconds(newest_first))
                found[name] = NewestScore(window.score, window.severity, window.received_at, term)
                break
    return found


def _pace_seconds(newest_first: Sequence[Window]) -> float | None:
    """The time from one window to the next: as they came, or by the machine's clock if that is longer, because a device
    that was offline delivers many at once. None for a single window."""
    steps = len(newest_first) - 1
    if steps < 1:
        return None
    first, last = newest_first[-1], newest_first[0]
    return max((last.received_at - first.received_at) / steps, ((last.t_s or 0.0) - (first.t_s or 0.0)) / steps, 0.0)
