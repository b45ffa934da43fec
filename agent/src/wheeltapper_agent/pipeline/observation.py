"""What observers of a pipeline see of each window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["Observation", "Observer"]


class Observation(Struct, frozen=True, gc=False):
    """A window and what was made of it; without a model, or where it failed, everything from ``features`` on is
    None."""

    pipeline: str
    index: int
    window: Window
    manifest: Manifest | None
    features: NDArray[np.float32] | None = None
    """[feature]; empty where the network reads raw samples."""
    score: float | None = None
    """Before smoothing; 1.0 is the warning threshold."""
    verdict: Verdict | None = None
    latency_ms: float | None = None
    """Of the call in which it was scored, divided by the windows in it."""
    call: int = 0
    """Windows scored in one call have the same number; 0: alone."""


class Observer(Protocol):
    """Something that looks at each window after it was scored, one window at a time and in their order: drift, data
    quality, capture rules, a shadow. It must be quick; what raises here is logged and never ends the stream."""

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """Records to append with the window's own, in one transaction (``seq`` and ``epoch`` are the spool's)."""

    def end(self) -> Sequence[Alert | Report]:
        """The stream ended: what is still to be said."""
