"""Which score of a pipeline is the present one. Pure.

Invariants:
    * A score is the present one until it is older than its term, which follows from the pace of the pipeline's windows
      (:mod:`wheeltapper_protocols.decision.score_age`). A window without a score does not make an older one newer.
    * Its age is that of its arrival. A device's clock is not asked: it may be wrong, and a replay has another time.
"""

from __future__ import annotations

from dataclasses import dataclass

from wheeltapper_protocols.decision.score_age import score_term_seconds

__all__ = ["NewestScore", "term_seconds"]


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


def term_seconds(paced: int, arrival_pace_s: float, machine_pace_s: float) -> float:
    """For how long a score is the present one.

    Args:
        paced: from how many steps between windows the paces are; 0: not known.
        arrival_pace_s: seconds from one window to the next as they come to the fleet.
        machine_pace_s: the same by the machine's clock. The longer one counts: a device that was offline delivers many
            windows at once.
    """
    return score_term_seconds(max(arrival_pace_s, machine_pace_s) if paced else None)
