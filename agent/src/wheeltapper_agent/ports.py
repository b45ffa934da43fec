"""What the agent's services need of the world, as small Protocols; the adapters and the tests' fakes implement them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wheeltapper_agent.core.tensors import Tensor
from wheeltapper_protocols.assignment import PipelineTarget
from wheeltapper_protocols.decision import Verdict
from wheeltapper_protocols.manifest import Manifest
from wheeltapper_protocols.messages import Alert, Report, ReportBody, Severity, TelemetryRecord

__all__ = [
    "NO_EPOCH",
    "Clock",
    "MetadataClient",
    "Model",
    "Network",
    "Observation",
    "Observer",
    "Pause",
    "Records",
    "Source",
    "SourceContext",
    "SourceKind",
    "SourceSpec",
    "Verified",
    "Window",
    "malformed_payloads",
    "no_pause",
    "pending_windows",
    "source_room",
    "unnumbered_report",
]


Pause = Callable[[float], None]
"""Waits for so many seconds (0: only looks whether to go on); raises to break off."""


def no_pause(_seconds: float) -> None:
    """Goes on at once."""


class Clock(Protocol):
    """Time: :meth:`now` may jump, :meth:`monotonic` never does. Both in seconds."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


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


class Model(Protocol):
    """A loaded network with one input: float32 [window, …] in, float32 [window, …] out; the task's reader checks the
    output's form."""

    @property
    def provider(self) -> str:
        """What computes: ``onnxruntime/CPUExecutionProvider``, ``ai-edge-litert/XNNPACK``, …"""

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for the only input. Quantised tensors are converted; NaN in a window gives NaN out."""


class Network(Model, Protocol):
    """A loaded network, whole; see :mod:`wheeltapper_agent.adapters.runtimes`."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def run_all(self, arrays: Sequence[NDArray[Any]], raw: bool = False) -> list[NDArray[Any]]:
        """Every output for every input: real values as float32, or with ``raw`` what the tensors hold."""


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


NO_EPOCH: Final = "0" * 16
"""Stands in a record until the spool gives its own."""


def unnumbered_report(body: ReportBody, now_seconds: float) -> Report:
    """A report for :meth:`Records.append`, which gives it its seq and epoch. A clock before 1970 counts as 1970."""
    return Report(epoch=NO_EPOCH, oldest=1, seq=1, at=max(0.0, now_seconds), body=body)


class Records(Protocol):
    """The spool, as its writers see it."""

    def append(self, *items: TelemetryRecord | Alert | Report) -> None: ...

    def next_window(self, pipeline: str) -> int: ...

    def open_alert(self, pipeline: str) -> Severity:
        """The severity of the alert that was raised last and not cleared, NORMAL where there is none; of records that
        were kept, and so over restarts."""


class Verified(Protocol):
    """One consistent, verified view of the repository."""

    @property
    def expires_at_seconds(self) -> float: ...

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None: ...

    def check_target(self, target: PipelineTarget) -> None: ...


class MetadataClient(Protocol):
    """Where verified views come from; see :class:`wheeltapper_agent.adapters.tuf_client.TufClient`."""

    def refresh(self, not_before_seconds: float, pause: Pause = no_pause) -> Verified: ...
