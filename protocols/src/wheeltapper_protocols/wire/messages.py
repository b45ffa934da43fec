"""Everything that crosses MQTT: status, telemetry, alert, report, command, ack.

Invariants:
    * A decoded message is valid: numbers are finite and in range, texts and lists are capped, names match their
      pattern.
    * Unknown fields are ignored, so that newer senders can speak to older readers.
    * A refused payload raises :class:`WireError` with one of ``wire.too_large``, ``wire.malformed``, ``wire.invalid``;
      nothing else escapes :mod:`codec`, whatever the bytes.

Records (telemetry, alert, report) carry ``(epoch, seq)``: the id of the spool's life and 1, 2, 3, … without gaps across
all three kinds. ``oldest`` is the lowest seq that the spool still holds: what is below it and not with the fleet was
dropped on the device and will never come. ``after`` says the same of a hole in the middle: what lies between it and the
(first) seq of the message.

What this module does not do: bytes (:mod:`codec`), topics (:mod:`topics`), signatures (:mod:`assignment`), sending.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from wheeltapper_protocols.drift.sketch import MAX_SKETCH_BYTES, decode_sketches
from wheeltapper_protocols.signal.iso20816 import Zone
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.ids import NAME_PATTERN, SHA256_PATTERN

__all__ = [
    "Ack",
    "Alert",
    "AssignmentRefused",
    "CancelCommand",
    "CaptureCommand",
    "CaptureReport",
    "Command",
    "DriftEvent",
    "DriftReport",
    "ExecutionReport",
    "ExecutionState",
    "LossReport",
    "Message",
    "PipelineStatus",
    "Reason",
    "Report",
    "ReportBody",
    "Severity",
    "ShadowReport",
    "Status",
    "Telemetry",
    "TelemetryRecord",
]

Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Epoch: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Seq: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Release: TypeAlias = Annotated[int, Meta(ge=1, le=999_999_999)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e12)]
Text: TypeAlias = Annotated[str, Meta(max_length=2000)]
Code: TypeAlias = Annotated[str, Meta(max_length=80)]
Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Identifier: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", max_length=64)]


class Severity(StrEnum):
    """How bad a decision is: nothing to see, a person should look, act now."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


class ExecutionState(StrEnum):
    """States of one device's attempt within a campaign (DESIGN §7). The last six are terminal."""

    ASSIGNED = "ASSIGNED"
    WAITING = "WAITING"
    FETCHING = "FETCHING"
    VERIFYING = "VERIFYING"
    STAGED = "STAGED"
    SELF_TEST = "SELF_TEST"
    SHADOW = "SHADOW"
    ACTIVATING = "ACTIVATING"
    PROBATION = "PROBATION"
    ROLLING_BACK = "ROLLING_BACK"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    SUPERSEDED = "SUPERSEDED"
    CANCELLED = "CANCELLED"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def terminal(self) -> bool:
        """Whether nothing more comes after this state."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset(
    {
        ExecutionState.COMMITTED,
        ExecutionState.FAILED,
        ExecutionState.REJECTED,
        ExecutionState.SUPERSEDED,
        ExecutionState.CANCELLED,
        ExecutionState.ROLLED_BACK,
    }
)


class _Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field} must be a finite number")


class PipelineStatus(_Message, frozen=True, kw_only=True):
    """What one pipeline runs now. ``model`` and ``release`` are both None before the first release."""

    model: Name | None = None
    release: Release | None = None
    windows: Count = 0
    """Windows taken from the source since the agent started."""
    dropped_windows: Count = 0
    source: Code = "running"
    """``running``, ``ended``, ``waiting`` or an error code."""
    quality: DataQuality | None = None
    """Of the windows since the agent started."""
    runtime: Code = ""
    """What computes the network: ``onnxruntime/CPUExecutionProvider``, ``ai-edge-litert/XNNPACK``, …"""


class Status(_Message, frozen=True, kw_only=True):
    """Where a device stands; retained. As the will it has ``online`` False and nothing else set."""

    online: bool
    at: Seconds = 0.0
    """Unix time by the device's clock, in seconds; 0 in a will."""
    epoch: Epoch | None = None
    seq: Count = 0
    """Newest seq in the spool."""
    acked: Count = 0
    agent_version: Code = ""
    profile: Code = ""
    counter: Count = 0
    """Counter of the newest assignment accepted."""
    execution: Identifier | None = None
    execution_state: ExecutionState | None = None
    pipelines: Annotated[dict[Name, PipelineStatus], Meta(max_length=64)] = {}


class TelemetryRecord(_Message, frozen=True, kw_only=True):
    """One scored (or, before the first release, unscored) window."""

    seq: Seq
    pipeline: Name
    window: Count
    """Index of the window since its source began, without gaps: 0, 1, 2, …"""
    t_s: Seconds
    """Start of the window by the machine's clock, in seconds (for a replay: the recording's)."""
    model: Name | None = None
    release: Release | None = None
    score: float | None = None
    """1.0 is the warning threshold."""
    severity: Severity = Severity.NORMAL
    latency_ms: float | None = None
    label: Label | None = None
    """The class, of a classification."""
    value: float | None = None
    """What remains, of a remaining life, in the manifest's unit."""
    zone: Zone | None = None
    """Vibration severity zone of ISO 20816, where the release asks for it."""


class Telemetry(_Message, frozen=True, kw_only=True):
    """A batch of telemetry records of one epoch, in rising seq."""

    epoch: Epoch
    oldest: Seq
    records: Annotated[list[TelemetryRecord], Meta(min_length=1, max_length=5000)]
    after: Count | None = None
    """The seq that the spool holds next below the first record; what lies between will never come. None: no hole."""


class Reason(_Message, frozen=True, kw_only=True):
    """One feature that moved: its value, what was usual, and its share of the score (0 to 1)."""

    feature: Annotated[str, Meta(max_length=120)]
    value: float
    usual: float
    share: float


class Alert(_Message, frozen=True, kw_only=True):
    """A decision that a person should see. ``raised`` False says that it is over."""

    epoch: Epoch
    oldest: Seq
    seq: Seq
    pipeline: Name
    window: Count
    t_s: Seconds
    at: Seconds
    model: Name
    release: Release
    score: float
    severity: Severity
    raised: bool = True
    reasons: Annotated[list[Reason], Meta(max_length=16)] = []
    label: Label | None = None
    """The class, of a classification."""
    value: float | None = None
    """What remains, of a remaining life, in ``unit``."""
    unit: Label | None = None
    zone: Zone | None = None
    after: Count | None = None
    """As in :class:`Telemetry`."""


class ExecutionReport(_Message, frozen=True, kw_only=True, tag="execution"):
    """An execution came to ``state``. ``code`` and ``detail`` say why, where that is not plain."""

    execution: Identifier
    state: ExecutionState
    code: Code = ""
    detail: Text = ""
    metrics: Annotated[dict[Code, float], Meta(max_length=32)] = {}


class AssignmentRefused(_Message, frozen=True, kw_only=True, tag="assignment-refused"):
    """An assignment that was not accepted: it changed nothing."""

    code: Code
    detail: Text = ""
    execution: Identifier | None = None
    """Only where the signature held, so that the id can be believed."""


class CaptureReport(_Message, frozen=True, kw_only=True, tag="capture"):
    """The answer to a capture command, or (without one) what a rule of the device recorded: the uploaded recording by
    its ``sha256``, or the code that says why not."""

    command: Identifier | None = None
    pipeline: Name
    sha256: Annotated[str, Meta(pattern=SHA256_PATTERN)] | None = None
    length: Count = 0
    snapshots: Count = 0
    code: Code = ""
    detail: Text = ""
    reason: Code = ""
    """Which rule asked for it: ``alert``, ``drift``, ``random`` or another trigger's name."""
    upload: Identifier | None = None
    """Under which name a rule's recording was uploaded; a command's has the command's id."""


class LossReport(_Message, frozen=True, kw_only=True, tag="loss"):
    """Records that will never come: dropped from this spool, or lost with another that could not be read any more.

    ``counts`` are by kind (``telemetry``, ``alert``, ``report``) since the epoch began, so a later report replaces an
    earlier one. They count what the device gave up; a record whose ack was lost may be with the fleet all the same.
    """

    why: Code
    """``spool.full``, ``spool.age``, ``spool.unreadable``, several joined by a comma, or ``spool.corrupt``."""
    counts: Annotated[dict[Code, Count], Meta(max_length=16)] = {}
    lost_epoch: Epoch | None = None
    """The epoch that ended with ``spool.corrupt``, where it could still be told."""
    first: Count = 0
    """Of a lost epoch: the lowest seq that was not acknowledged; 0 where unknown."""
    last: Count = 0
    """Of a lost epoch: the newest seq."""
    detail: Text = ""


class DriftEvent(_Message, frozen=True, kw_only=True):
    """Something changed at ``window``."""

    kind: Code
    """``level`` or ``spread`` of the score (as ``score / (1 + score)``), or ``feature``."""
    window: Count
    before: float
    """The mean before, of what ``kind`` says; of a feature: in training."""
    after: float
    feature: Annotated[str, Meta(max_length=120)] | None = None
    psi: float | None = None
    """Of a feature: its population stability index over the period."""


class DriftReport(_Message, frozen=True, kw_only=True, tag="drift"):
    """Sketches of the windows ``first_window`` to ``last_window``, over the bins in the release's manifest.

    Reports of one pipeline do not overlap, so that the sketches of any of them can be added up.
    """

    pipeline: Name
    model: Name
    release: Release
    why: Code
    """``period``, ``change`` (a detector fired), ``swap`` (another release runs now) or ``end`` (of the stream)."""
    first_window: Count
    last_window: Count
    first_t_s: Seconds
    last_t_s: Seconds
    """By the machine's clock; it may have jumped between the two."""
    windows: Count
    """Scored ones, and thus in the sketches."""
    unscored: Count = 0
    sketches: Annotated[bytes, Meta(max_length=MAX_SKETCH_BYTES)]
    """Of the features, in the manifest's order: :func:`wheeltapper_protocols.drift.sketch.encode_sketches`."""
    score: Annotated[bytes, Meta(max_length=1024)]
    """Of the score, likewise: one sketch."""
    quality: DataQuality | None = None
    """Of the windows since the report before, scored or not."""
    level: float = 0.0
    """The mean of the score (as ``score / (1 + score)``) since the last change."""
    stable_windows: Count = 0
    """How long that is."""
    events: Annotated[list[DriftEvent], Meta(max_length=16)] = []
    more_events: Count = 0
    """Events that found no room."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decode_sketches(self.sketches)
        if len(decode_sketches(self.score)) != 1:
            raise ValueError("score must hold one sketch")
        if self.last_window < self.first_window:
            raise ValueError("last_window is below first_window")


class ShadowReport(_Message, frozen=True, kw_only=True, tag="shadow"):
    """A release scored live windows beside the active one; nobody acted on its output. All statistics are paired.

    Scores: 1.0 is the warning threshold. What is not defined (no variance, too few windows) is left out.
    """

    execution: Identifier | None = None
    pipeline: Name | None = None
    model: Name | None = None
    release: Release | None = None
    active_model: Name | None = None
    active_release: Release | None = None
    windows: Count = 0
    """Scored by both."""
    skipped: Count = 0
    """Left out for want of spare CPU."""
    failed: Count = 0
    """That the new release could not score."""
    mean_difference: float | None = None
    """New minus active."""
    sd_difference: float | None = None
    correlation: float | None = None
    active_quantiles: Annotated[list[float], Meta(max_length=16)] = []
    """Of the active release's scores at 5, 25, 50, 75 and 95 %."""
    quantiles: Annotated[list[float], Meta(max_length=16)] = []
    """Of the new release's, likewise."""
    agreement: float | None = None
    """Share of windows of which both decided the same severity."""
    kappa: float | None = None
    """Cohen's, of these decisions."""
    active_latency_p95_ms: float | None = None
    latency_p95_ms: float | None = None
    code: Code = ""
    """Why it ended, where that is not plain: ``shadow.disagrees``, ``shadow.too_few``, ``shadow.timeout``."""


ReportBody: TypeAlias = ExecutionReport | AssignmentRefused | CaptureReport | LossReport | DriftReport | ShadowReport


class Report(_Message, frozen=True, kw_only=True):
    """Something that the fleet must know and must not lose."""

    epoch: Epoch
    oldest: Seq
    seq: Seq
    at: Seconds
    body: ReportBody
    after: Count | None = None
    """As in :class:`Telemetry`."""


class CaptureCommand(_Message, frozen=True, kw_only=True, tag="capture"):
    """Record the next ``snapshots`` windows of ``pipeline`` and upload them as one recording."""

    pipeline: Name
    snapshots: Annotated[int, Meta(ge=1, le=100_000)]


class CancelCommand(_Message, frozen=True, kw_only=True, tag="cancel"):
    """End ``execution`` if its release is not active yet."""

    execution: Identifier


class Command(_Message, frozen=True, kw_only=True):
    """Something to do, once. Repeated by the fleet until it is answered or ``expires_at`` (Unix seconds) has passed."""

    id: Identifier
    expires_at: Seconds
    body: CaptureCommand | CancelCommand


class Ack(_Message, frozen=True, kw_only=True):
    """Every record of ``epoch`` up to and with ``seq`` is in the fleet's database, or was dropped by the device."""

    epoch: Epoch
    seq: Count


Message: TypeAlias = Status | Telemetry | Alert | Report | Command | Ack
