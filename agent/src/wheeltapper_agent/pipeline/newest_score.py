"""The newest score of a pipeline, and how old it is. Pure: times are handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.decision.score_age import score_term_seconds

__all__ = ["NewestScore"]


@dataclass(slots=True)
class NewestScore:
    """Follows the windows of one pipeline. Times are seconds by a clock that never jumps."""

    verdict: Verdict | None = None
    """Of the newest window that has a score."""
    at: float = 0.0
    """When that window was judged."""
    pace_seconds: float | None = None
    """From one window to the next; None: not known."""
    unscored: int = 0
    """Windows since, which have no score."""
    no_score: bool = False
    """Whether the alert is on that complete windows get no score."""

    def take(self, verdicts: Sequence[Verdict | None], now: float, no_score: bool = False) -> None:
        """Take windows into account that were judged together just now; None: a window has no score."""
        self.no_score = no_score
        for verdict in verdicts:
            if verdict is None or not verdict.valid:
                self.unscored += 1
            else:
                self.verdict, self.at, self.unscored = verdict, now, 0

    def forget(self) -> None:
        """Forget the score: its model runs no longer."""
        self.verdict, self.unscored = None, 0

    def present(self, now: float) -> Verdict | None:
        """Return the verdict if it is the present one: of the newest window, and not older than its term."""
        if self.verdict is None or self.unscored or now - self.at > score_term_seconds(self.pace_seconds):
            return None
        return self.verdict
