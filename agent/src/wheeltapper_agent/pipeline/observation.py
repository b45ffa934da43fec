"""What the observers of a pipeline see of each window. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wheeltapper_agent.source.base import Window
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.wire.messages import Alert, Report

if TYPE_CHECKING:  # for annotations only: what the manifest imports is not pure
    from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["Observation", "Observer"]


class Observation(Struct, frozen=True, gc=False):
    """A window, and its score and decision.

    All fields from ``features`` on are None if no model ran or the model failed on this window.
    """

    pipeline: str
    index: int
    window: Window
    manifest: Manifest | None
    features: NDArray[np.float32] | None = None
    """[feature]; empty where the model reads raw samples."""
    score: float | None = None
    """Before smoothing; 1.0 is the warning threshold."""
    verdict: Verdict | None = None
    latency_ms: float | None = None
    """Duration of the call that scored this window, divided by the number of windows in the call."""
    call: int = 0
    """Windows that were scored in one call have the same number; 0: the window was scored alone."""
    partial: bool = False
    """Whether the score is that of some of the channels: others were missing."""
    unknown_condition: bool = False
    """Whether there is no score because the release does not know the operating condition."""


class Observer(Protocol):
    """Looks at each window after it was scored: drift, data quality, capture rules, a shadow model.

    An observer sees one window at a time, in their order. It must be quick. An exception that it raises is logged and
    does not end the stream.
    """

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        """Take a window into account.

        Returns:
            Records to append in the transaction that appends the window's own record. The spool sets their ``seq`` and
            ``epoch``.
        """

    def end(self) -> Sequence[Alert | Report]:
        """The stream ended; return the records that are still to be appended."""
