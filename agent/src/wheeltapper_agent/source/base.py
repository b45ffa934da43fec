"""What a source of windows is, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock

__all__ = [
    "Source",
    "SourceContext",
    "SourceKind",
    "SourceSpec",
    "Window",
    "malformed_payloads",
    "pending_windows",
    "source_room",
]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What the windows of a source look like."""

    sample_rate_hz: float
    window_samples: int
    channels: tuple[str, ...]
    units: tuple[str, ...]
    full_scale: tuple[float, ...] = ()
    """Largest absolute value that the sensor can give, a channel, in its unit; beyond it, it clips. Empty: unknown."""
    hop_samples: int = 0
    """From the start of a window to the start of the next; 0: as ``window_samples``, or not a continuous stream."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window: ``samples`` [sample, channel] float32 in the spec's units, begun at ``t_s`` of its clock.

    A sample that is missing is NaN; nothing is interpolated.
    """

    samples: NDArray[np.float32]
    t_s: float
    gap_samples: int = 0
    """Samples that the source lost between the window before and this one."""
    late_seconds: float = 0.0
    """How much later than due its last sample came."""
    late_samples: int = 0
    """Samples that the source left out since the window before: they came twice or when their place had passed."""

    @property
    def wire_t_s(self) -> float:
        """``t_s`` as messages take it: a clock that is nonsense counts as 0."""
        return min(max(0.0, self.t_s), 1e12) if math.isfinite(self.t_s) else 0.0


class Source(Protocol):
    """Where windows come from. ``state`` is ``waiting``, ``running``, ``ended`` or an error code.

    A source that can have several windows ready also has ``pending``, and one that keeps windows while nobody asks for
    them has ``room``: see :func:`pending_windows` and :func:`source_room`.
    """

    @property
    def spec(self) -> SourceSpec: ...

    @property
    def state(self) -> str: ...

    @property
    def dropped(self) -> int:
        """Windows that were skipped because the reader was late."""

    def windows(self, first: int) -> Iterator[Window]:
        """Windows ``first``, ``first + 1``, … paced by the wall clock; ends when closed or over."""

    def model_ready(self) -> None:
        """A model is active: a source that holds until then begins."""

    def close(self) -> None: ...


def pending_windows(source: Source) -> int:
    """How many windows ``source`` gives without waiting, beside the one that it gave last; 0 where it cannot say.

    A reader may take so many at once and score them in one call. The number may rise at any time, and fall only by
    taking."""
    return int(getattr(source, "pending", 0))


def source_room(source: Source) -> int:
    """How many windows ``source`` keeps, without losing one, while nobody asks for them; 0 where it cannot say."""
    return int(getattr(source, "room", 0))


def malformed_payloads(source: Source) -> int:
    """How many payloads ``source`` could not read; 0 where it cannot say."""
    return int(getattr(source, "malformed_payloads", 0))


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may know of the agent around it."""

    pipeline: str
    """Name of its pipeline."""
    state_dir: Path
    """Where it may keep a file of its own, named after the pipeline."""
    clock: Clock


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source: what an entry point of the group ``wheeltapper.sources`` names. Its name there is the kind.

    Args:
        config: a frozen dataclass with a field ``kind`` (``kind: Literal["x"] = "x"``) and fields of the types that a
            configuration can hold: str, bool, int, float, Path, Literal, another such dataclass, a tuple of one of
            these, or one of these or None. It may refuse what it is given by raising ``AgentError`` from
            ``__post_init__``.
        make: the source from such a configuration.
        exclusive: whether only one pipeline of a device may have it.
        exclusive_by: a field of ``config`` in which the pipelines of a device that have it must differ; empty: none.
    """

    config: type[Any]
    make: Callable[[Any, SourceContext], Source]
    exclusive: bool = False
    exclusive_by: str = ""
