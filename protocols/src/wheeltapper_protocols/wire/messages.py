"""The messages that cross MQTT: status, telemetry, alert, report, command and ack.

Invariants:
    * A decoded message is valid: numbers are finite and in range, texts and lists are capped, names match their
      pattern.
    * Unknown fields are ignored, so that a newer sender can speak to an older reader.

Records are telemetry, alerts and reports. The device keeps each in its spool until the fleet acknowledges it. A record
carries ``(epoch, seq)``: ``epoch`` is the id of the spool, drawn anew when a spool is made; ``seq`` counts 1, 2, 3, …
without gaps across all three kinds. ``oldest`` is the lowest seq that the spool still holds: a lower one that the fleet
does not have was dropped on the device and never comes. ``after`` states a hole higher up: the records between
``after`` and the (first) seq of the message never come either.

What this module does not do: turn messages into bytes (:mod:`codec`), name topics (:mod:`topics`), carry assignments
(:mod:`assignment`), send anything.
"""

# ruff: noqa: RUF012  # msgspec copies the default of a field for each message; ruff sees no Struct through its base

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from wheeltapper_protocols.drift.sketch import MAX_SKETCH_BYTES, decode_sketches
from wheeltapper_protocols.signal.iso20816 import Zone
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.commands import CancelCommand, CaptureCommand, Command, CommandReport, Settings
from wheeltapper_protocols.wire.ids import NAME_PATTERN, SHA256_PATTERN
from wheeltapper_protocols.wire.values import (
    NO_SCORE,
    Code,
    Count,
    Epoch,
    ExecutionState,
    Identifier,
    Label,
    MessageBase,
    Name,
    Release,
    Seconds,
    Seq,
    Severity,
    Text,
)

__all__ = [
    "NO_SCORE",
    "Ack",
    "Alert",
    "AssignmentRefused",
    "BaselineFeature",
    "BaselineReport",
    "BaselineStatus",
    "CancelCommand",
    "CaptureCommand",
    "CaptureReport",
    "CaptureShare",
    "Code",
    "Command",
    "CommandReport",
    "Count",
    "DriftEvent",
    "DriftReport",
    "Epoch",
    "ExecutionReport",
    "ExecutionState",
    "Identifier",
    "Label",
    "LossReport",
    "Message",
    "Name",
    "PipelineStatus",
    "Reason",
    "Release",
    "Report",
    "ReportBody",
    "Seconds",
    "Seq",
    "Settings",
    "Severity",
    "ShadowReport",
    "Status",
    "Telemetry",
    "TelemetryRecord",
    "Text",
]

TextOfName: TypeAlias = Annotated[str, Meta(max_length=63)]
"""A name whose pattern is checked when the struct is built."""


_NAMES: Final[set[str]] = set()
"""Names that were found good: to look one up costs less than to match it, or to call a function."""
_MOST_NAMES: Final = 4096


def _is_name(text: str) -> bool:
    good = re.match(NAME_PATTERN, text) is not None
    if good and len(_NAMES) < _MOST_NAMES:
        _NAMES.add(text)
    return good


class BaselineFeature(MessageBase, frozen=True, kw_only=True):
    """How one feature of a device differs from the fleet: see :mod:`wheeltapper_protocols.decision.baseline`."""

    feature: Annotated[str, Meta(max_length=120)]
    shift: float
    """Of the usual value, in units of the fleet's scale."""
    ratio: float
    """Of the spread to the fleet's."""
    limited: bool = False
    """Whether the manifest allows no greater shift, and the device has one."""


class BaselineStatus(MessageBase, frozen=True, kw_only=True):
    """How far a device has learnt its own baseline; only where its release has one."""

    phase: Code
    """``learning`` (scores are those of the fleet's values), ``learned`` (of its own), or ``refused``: too many windows
    were far outside the limits, and the fleet's values stay."""
    learned: Count = 0
    """Windows that were learnt."""
    windows: Count = 0
    """Windows that are to be learnt."""
    outside: Count = 0
    """Windows that were not learnt, because they were outside the limits or the machine was not healthy."""
    limited: Count = 0
    """Features that differ more than the manifest allows."""
    features: Annotated[list[BaselineFeature], Meta(max_length=8)] = []
    """Those that differ most from the fleet, the first one most; empty unless it is learned."""


class PipelineStatus(MessageBase, frozen=True, kw_only=True):
    """What one pipeline runs now. ``model`` and ``release`` are None before its first release."""

    model: Name | None = None
    release: Release | None = None
    windows: Count = 0
    """Windows taken from the source since the agent started."""
    dropped_windows: Count = 0
    source: Code = "running"
    """State of the source: ``running``, ``ended``, ``waiting`` or an error code."""
    quality: DataQuality | None = None
    """Data quality of the windows since the agent started."""
    runtime: Code = ""
    """The library that computes the model, e.g. ``onnxruntime/CPUExecutionProvider``, ``ai-edge-litert/XNNPACK``."""
    detail: Text = ""
    """Why the source gives no windows now, for a person; empty while it does."""
    faults: Count = 0
    """Faults of the source and of the pipeline's own work since the agent started."""
    baseline: BaselineStatus | None = None
    partly_scored: Count = 0
    """Windows since the start that were scored although channels were missing, which the release allows."""
    unknown_conditions: Count = 0
    """Windows since the start without a score, because the release does not know their operating condition."""


class CaptureShare(MessageBase, frozen=True, kw_only=True):
    """How much of what recordings by rule may use of the network in a day is used, and what waits for its upload."""

    sent_bytes: Count
    """Uploaded in the present day."""
    limit_bytes: Count = 0
    """What a day may take; 0: no limit."""
    waiting: Count = 0
    """Recordings."""


class Status(MessageBase, frozen=True, kw_only=True):
    """State of a device; retained by the broker. The will is a status with ``online`` False, ``instance`` and nothing
    else."""

    online: bool
    at: Seconds = 0.0
    """Unix time by the device's clock, in seconds; 0 in a will."""
    epoch: Epoch | None = None
    seq: Count = 0
    """Newest seq in the spool."""
    acked: Count = 0
    """Newest seq that the fleet acknowledged."""
    agent_version: Code = ""
    profile: Code = ""
    counter: Count = 0
    """Counter of the newest assignment accepted."""
    execution: Identifier | None = None
    execution_state: ExecutionState | None = None
    pipelines: Annotated[dict[Name, PipelineStatus], Meta(max_length=64)] = {}
    instance: Epoch | None = None
    """Drawn at random at each start of the agent, and also in the will. A value that comes back after another one was
    seen means that two devices share one identity."""
    disconnects: Annotated[dict[Code, Count], Meta(max_length=32)] = {}
    """How often the connection to the broker ended since the agent started, by stable code; see docs/protocol.md."""
    attributes: Annotated[dict[Code, Annotated[str, Meta(max_length=200)]], Meta(max_length=64)] = {}
    """What the device is: operating system, architecture, versions of libraries, hash of its configuration."""
    settings_version: Count = 0
    """Version of the settings that are in force; 0 for those of the device's own configuration."""
    settings: Settings | None = None
    """What is in force of what the fleet may set."""
    captures: CaptureShare | None = None
    """The day's share of recordings; None of agents that do not say it."""


class TelemetryRecord(MessageBase, frozen=True, kw_only=True, gc=False):
    """One window of a pipeline, with its score. Without a release it has no score."""

    seq: Seq
    pipeline: TextOfName
    window: Count
    """Index of the window since its source began, without gaps: 0, 1, 2, …"""
    t_s: Seconds
    """Start of the window by the machine's clock, in seconds; in a replay, the time in the recording."""
    model: TextOfName | None = None
    release: Release | None = None
    score: float | None = None
    """1.0 is the warning threshold."""
    severity: Severity = Severity.NORMAL
    latency_ms: float | None = None
    """Time from features to score, in milliseconds."""
    label: Label | None = None
    """The likeliest class, for the task ``classification``."""
    value: float | None = None
    """The life that remains, in the manifest's unit, for the task ``remaining_life``."""
    zone: Zone | None = None
    """Vibration severity zone of ISO 20816, where the release asks for it."""
    undated: bool = False
    """The device's clock was not set, and the record cannot be dated: ``t_s`` is in seconds since its boot."""
    partial: bool = False
    """The score is that of some of the channels: others were missing, without which the release allows to score."""

    def __post_init__(self) -> None:
        # This runs for every record, so it calls nothing. The sum is finite if all numbers are; of no other number
        # than a finite one is the difference to itself 0. Patterns on the fields would be matched anew every time.
        total = self.t_s + (self.score or 0.0) + (self.latency_ms or 0.0) + (self.value or 0.0)
        if total - total != 0.0 or self.pipeline not in _NAMES or (self.model is not None and self.model not in _NAMES):
            self._check()

    def _check(self) -> None:
        super().__post_init__()
        if not (_is_name(self.pipeline) and (self.model is None or _is_name(self.model))):
            raise ValueError("pipeline and model must be names: a-z, 0-9 and -, not beginning with -")


class Telemetry(MessageBase, frozen=True, kw_only=True):
    """A batch of telemetry records of one epoch, by rising seq."""

    epoch: Epoch
    oldest: Seq
    records: Annotated[list[TelemetryRecord], Meta(min_length=1, max_length=5000)]
    after: Count | None = None
    """The seq that the spool holds next below the first record; those between never come. None: there is no hole."""


class Reason(MessageBase, frozen=True, kw_only=True):
    """One feature that explains a score: its value, its usual value, and its share of the score (0 to 1)."""

    feature: Annotated[str, Meta(max_length=120)]
    value: float
    usual: float
    share: float


class Alert(MessageBase, frozen=True, kw_only=True):
    """A decision that a person should see. ``raised`` is False when the alert is cleared."""

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
    """The likeliest class, for the task ``classification``; :data:`NO_SCORE` for the alert that there is no score."""
    value: float | None = None
    """The life that remains, in ``unit``, for the task ``remaining_life``."""
    unit: Label | None = None
    zone: Zone | None = None
    slowly: bool = False
    """Whether it was raised slowly: by a score that lasts, though it is not at the threshold."""
    after: Count | None = None
    """The seq that the spool holds next below this one; those between never come. None: there is no hole."""
    undated: bool = False
    """The device's clock was not set, and the record cannot be dated: both times are in seconds since its boot."""


class ExecutionReport(MessageBase, frozen=True, kw_only=True, tag="execution"):
    """An execution entered ``state``. ``code`` and ``detail`` say why it failed or what it waits for."""

    execution: Identifier
    state: ExecutionState
    code: Code = ""
    detail: Text = ""
    metrics: Annotated[dict[Code, float], Meta(max_length=32)] = {}


class AssignmentRefused(MessageBase, frozen=True, kw_only=True, tag="assignment-refused"):
    """The device refused an assignment, which changed nothing on it."""

    code: Code
    detail: Text = ""
    execution: Identifier | None = None
    """Set only where the signature was valid, so that the id can be trusted."""


class CaptureReport(MessageBase, frozen=True, kw_only=True, tag="capture"):
    """A capture was uploaded, or ``code`` says why not. It answers ``command``, or a rule of the device asked for it.

    ``sha256`` and ``length`` (bytes) are those of the uploaded recording.
    """

    command: Identifier | None = None
    pipeline: Name
    sha256: Annotated[str, Meta(pattern=SHA256_PATTERN)] | None = None
    length: Count = 0
    snapshots: Count = 0
    code: Code = ""
    detail: Text = ""
    reason: Code = ""
    """The rule that asked for it: ``alert``, ``drift``, ``random`` or the name of another trigger."""
    upload: Identifier | None = None
    """The name under which a rule's recording was uploaded. A command's is uploaded under the command's id."""


class LossReport(MessageBase, frozen=True, kw_only=True, tag="loss"):
    """Records that never come: dropped from this spool, or lost with an earlier spool that was damaged.

    ``counts`` are by kind (``telemetry``, ``alert``, ``report``) since the epoch began, so a later report replaces an
    earlier one. They count records that the device dropped; where only the ack got lost, the fleet has the record.
    """

    why: Code
    """``spool.full``, ``spool.age``, ``spool.unreadable`` (several are joined by a comma), or ``spool.corrupt``."""
    counts: Annotated[dict[Code, Count], Meta(max_length=16)] = {}
    lost_epoch: Epoch | None = None
    """The epoch that ended with ``spool.corrupt``, where it could still be read."""
    first: Count = 0
    """Lowest seq of the lost epoch that was not acknowledged; 0 where unknown."""
    last: Count = 0
    """Newest seq of the lost epoch."""
    detail: Text = ""


class DriftEvent(MessageBase, frozen=True, kw_only=True):
    """The score or a feature changed at ``window``."""

    kind: Code
    """``level`` (mean) or ``spread`` (deviation) of ``score / (1 + score)``, or ``feature``."""
    window: Count
    before: float
    """The mean before the change of what ``kind`` names; for a feature, its mean in training."""
    after: float
    """The mean after the change."""
    feature: Annotated[str, Meta(max_length=120)] | None = None
    psi: float | None = None
    """Population stability index of the feature over the period (:mod:`wheeltapper_protocols.drift.drift`)."""


class DriftReport(MessageBase, frozen=True, kw_only=True, tag="drift"):
    """Sketches of the windows ``first_window`` to ``last_window``, over the bins in the release's manifest.

    Reports of one pipeline do not overlap, so that the sketches of any of them can be added up.
    """

    pipeline: Name
    model: Name
    release: Release
    why: Code
    """``period`` (it is over), ``change`` (detected), ``swap`` (to another release) or ``end`` (of the stream)."""
    first_window: Count
    last_window: Count
    first_t_s: Seconds
    last_t_s: Seconds
    """Start of the last window by the machine's clock, which may have jumped since ``first_t_s``."""
    windows: Count
    """Windows with a score; these are in the sketches."""
    unscored: Count = 0
    """Windows without a score."""
    sketches: Annotated[bytes, Meta(max_length=MAX_SKETCH_BYTES)]
    """Of each feature, in the manifest's order: :func:`wheeltapper_protocols.drift.sketch.encode_sketches`."""
    score: Annotated[bytes, Meta(max_length=1024)]
    """Of the score: one sketch, encoded in the same way."""
    quality: DataQuality | None = None
    """Data quality of all windows since the report before, scored or not."""
    level: float = 0.0
    """The mean of the score (as ``score / (1 + score)``) since the last change."""
    stable_windows: Count = 0
    """Windows since the last change."""
    events: Annotated[list[DriftEvent], Meta(max_length=16)] = []
    more_events: Count = 0
    """Events beyond the 16 that fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decode_sketches(self.sketches)
        if len(decode_sketches(self.score)) != 1:
            raise ValueError("score must hold one sketch")
        if self.last_window < self.first_window:
            raise ValueError("last_window is below first_window")


class ShadowReport(MessageBase, frozen=True, kw_only=True, tag="shadow"):
    """Result of a shadow run: a new release scored the same live windows as the active one, without effect.

    All statistics are over the windows that both scored; a score of 1.0 is the warning threshold. Statistics that are
    not defined (no variance, too few windows) are None.
    """

    execution: Identifier | None = None
    pipeline: Name | None = None
    model: Name | None = None
    release: Release | None = None
    active_model: Name | None = None
    active_release: Release | None = None
    windows: Count = 0
    """Windows that both scored."""
    skipped: Count = 0
    """Windows left out because there was no spare CPU."""
    failed: Count = 0
    """Windows that the new release could not score."""
    mean_difference: float | None = None
    """Mean of the new score minus the active one."""
    sd_difference: float | None = None
    """Standard deviation of that difference."""
    correlation: float | None = None
    """Pearson's correlation of the two scores."""
    active_quantiles: Annotated[list[float], Meta(max_length=16)] = []
    """Quantiles of the active release's scores at 5, 25, 50, 75 and 95 %."""
    quantiles: Annotated[list[float], Meta(max_length=16)] = []
    """The same quantiles of the new release's scores."""
    agreement: float | None = None
    """Share of windows for which both decided on the same severity."""
    kappa: float | None = None
    """Cohen's kappa of the two severities (Cohen, Educ. Psychol. Meas. 20 (1960) 37-46)."""
    active_latency_p95_ms: float | None = None
    latency_p95_ms: float | None = None
    code: Code = ""
    """Why it failed: ``shadow.disagrees``, ``shadow.too_few`` or ``shadow.timeout``; empty where it passed."""


class BaselineReport(MessageBase, frozen=True, kw_only=True, tag="baseline"):
    """Something happened to the baseline of a device."""

    pipeline: Name
    model: Name
    release: Release
    event: Code
    """``learned``, ``refused``, ``kept`` (from another release with the same features), ``reset`` (on request; it is
    learnt anew) or ``unreadable`` (what was learnt is lost; it is learnt anew)."""
    baseline: BaselineStatus


ReportBody: TypeAlias = (
    ExecutionReport
    | AssignmentRefused
    | CaptureReport
    | LossReport
    | DriftReport
    | ShadowReport
    | CommandReport
    | BaselineReport
)


class Report(MessageBase, frozen=True, kw_only=True):
    """An event on the device that the fleet must not lose; ``body`` says which."""

    epoch: Epoch
    oldest: Seq
    seq: Seq
    at: Seconds
    body: ReportBody
    after: Count | None = None
    """The seq that the spool holds next below this one; those between never come. None: there is no hole."""
    undated: bool = False
    """The device's clock was not set, and the record cannot be dated: ``at`` is in seconds since its boot."""


class Ack(MessageBase, frozen=True, kw_only=True):
    """Every record of ``epoch`` up to and including ``seq`` is in the fleet's database or was dropped by the device."""

    epoch: Epoch
    seq: Count


Message: TypeAlias = Status | Telemetry | Alert | Report | Command | Ack
