"""Captures: the windows of a pipeline as a recording, on request or by a rule, kept as a file, uploaded, reported.

Invariants: a command is answered once; one that broke off before its recording was a file is done when it is repeated.
A recording that is a file survives a restart and goes up from where the server is. The answer is a record of the spool,
and the file goes only after it; one that the spool refuses is tried again. No pipeline waits: what finds no room is
dropped, counted and reported. All windows that wait in memory take at most a share of it. Nothing ends the threads.

Not done here: what a rule wants (:mod:`capture_rules`), the folder (:mod:`adapters.pending`), HTTP
(:mod:`adapters.uplink`).
"""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.pending import NotKeptError, Pending, PendingFolder
from wheeltapper_agent.captures.rules import CaptureRules, Collected
from wheeltapper_agent.captures.uplink import Uplink
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.pipeline.pipeline import Captured, Pipeline
from wheeltapper_agent.records.port import Records, unnumbered_report
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, write_recording
from wheeltapper_protocols.wire.messages import CaptureCommand, CaptureReport, Command

__all__ = ["Captures", "make_recording"]

_LOG = logging.getLogger(__name__)
_RETRY_CAP_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 60.0
_WAITING: Final = 4
"""Recordings by rule whose windows wait in memory to become a file."""
_SAMPLE_BYTES: Final = 4
_UNSAID: Final = 100
"""Answers that wait for the spool to take them."""


class _AnsweringRecords(Records, Protocol):
    def answered(self, command: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Job:
    """Windows that are to become a recording."""

    name: str
    pipeline: str
    spec: SourceSpec
    windows: list[Window]
    reason: str = ""
    command: Command | None = None
    first_window: int | None = None
    wanted: int = 0


def make_recording(windows: list[Window], spec: SourceSpec, meta: dict[str, str]) -> Recording:
    """A recording of ``windows``: int16 with a scale a channel, so that the loudest sample uses the whole range.

    Raises:
        AgentError: ``capture.empty``.
        RecordingError: ``recording.*``, e.g. where the sensor gave NaN.
    """
    if not windows:
        raise AgentError("capture.empty", "no window came")
    shape = windows[0].samples.shape
    peak = np.zeros(shape[1:])
    for window in windows:  # one by one: beside them there is room for their int16, not for copies of all
        if window.samples.shape != shape:
            raise RecordingError("recording.shape", f"a window is {window.samples.shape}, the first one is {shape}")
        if not np.all(np.isfinite(window.samples)):
            raise RecordingError("recording.nan", "the sensor gave values that are not finite")
        peak = np.maximum(peak, np.abs(window.samples).max(axis=0))
    scale = np.where(peak > 0, peak, 1.0) / 32767.0
    coded = np.empty((len(windows), *shape), dtype=np.int16)
    for row, window in enumerate(windows):
        coded[row] = np.clip(np.rint(window.samples / scale), -32767, 32767)
    times = np.array([window.t_s for window in windows], dtype=np.float64)
    return Recording(coded, scale, spec.sample_rate_hz, times, spec.channels, spec.units, dict(meta))


class Captures:
    """Takes commands and what rules collected; two threads of its own write and upload.

    Args:
        device: its id, for the recording's meta.
        pipelines: by name.
        records: where reports go.
        client: to the fleet service.
        clock: time.
        max_bytes: of one recording in memory, and of all that wait for their upload.
        folder: where they wait.
        config: rules and bounds of the uplink.
        max_memory_bytes: of all windows that are collected for commands or wait to become a file; None: no bound.
    """

    def __init__(
        self,
        device: str,
        pipelines: Mapping[str, Pipeline],
        records: _AnsweringRecords,
        client: HttpsClient,
        clock: Clock,
        max_bytes: int,
        folder: Path,
        config: CaptureConfig | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        self._device = device
        self._pipelines = pipelines
        self._records = records
        self._clock = clock
        self._max_bytes = max_bytes
        self._config = config or CaptureConfig()
        self._lock = threading.Lock()
        self._max_memory_bytes = max_memory_bytes
        self._held: dict[str, int] = {}
        """Bytes of the windows in memory, by the name of their recording. A command is under way while it is here."""
        self._unsaid: dict[str, CaptureReport] = {}
        self._reported: dict[str, int] = {}
        self._saying = threading.Lock()
        self._told: set[str] = set()
        """Recordings whose upload was reported and whose files the disk does not let go."""
        self._failures: dict[str, tuple[int, float]] = {}
        """How often an upload failed, and until when it rests."""
        self._rules: dict[str, CaptureRules] = {}
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._by_rule = threading.BoundedSemaphore(_WAITING)
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._folder = PendingFolder(folder, max_bytes)
        self._uplink = Uplink(client, self._config, clock, folder / "uplink.state", self._stopping)
        self._threads = [
            threading.Thread(target=self._write_all, name="captures", daemon=True),
            threading.Thread(target=self._send_all, name="uplink", daemon=True),
        ]
        self.dropped = 0
        """Recordings by rule that were given up for lack of room since the start."""

    def rules(self, pipeline: str, spec: SourceSpec) -> CaptureRules | None:
        """The observer for a pipeline that has a rule."""
        rule = self._config.rule_for(pipeline)
        if rule is None:
            return None
        most = self._max_bytes if self._max_memory_bytes is None else min(self._max_bytes, self._max_memory_bytes)
        made = CaptureRules(pipeline, spec, rule, self._collected, self._clock, most)
        self._rules[pipeline] = made
        return made

    def trigger(self, pipeline: str, why: str) -> bool:
        """Record around the next window of ``pipeline``; False if it has no rule. From any thread; never waits."""
        rules = self._rules.get(pipeline)
        if rules is not None:
            rules.trigger(why)
        return rules is not None

    def on_drift(self, pipeline: str, why: str) -> None:
        """The drift observer's word; recorded where the pipeline's rule says so."""
        rules = self._rules.get(pipeline)
        if rules is not None:
            rules.on_drift(why)

    def alive(self) -> bool:
        """Whether the threads run, or were stopped."""
        return self._stopping.is_set() or all(thread.is_alive() for thread in self._threads)

    def figures(self) -> dict[str, int]:
        """Since the start: recordings that ``wait`` for their upload, were ``dropped``, triggers that were ``ignored``;
        and ``unsaid``, answers that the spool has not taken yet."""
        rules = list(self._rules.values())
        return {
            "waiting": len(self._folder.entries()),
            "dropped": self.dropped + sum(one.dropped for one in rules),
            "ignored": sum(one.ignored for one in rules),
            "unsaid": len(self._unsaid),
        }

    def start(self) -> None:
        """Begin to write and upload."""
        self._ready.set()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; files go up after the next start, what is not a file yet when the fleet repeats its command."""
        self._stopping.set()
        self._ready.set()
        self._jobs.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2)

    def take(self, command: Command, body: CaptureCommand) -> None:
        """Begin a capture, unless it is under way, waits for its upload, was answered or is expired."""
        if command.expires_at < self._clock.now() or self._known(command.id):
            return
        pipeline = self._pipelines.get(body.pipeline)
        if pipeline is None:
            self._refuse(command.id, body.pipeline, "capture.unknown_pipeline", f"there is no pipeline {body.pipeline}")
            return
        try:
            spec, name = pipeline.spec, body.pipeline
        except AgentError as error:  # its source is not there
            self._refuse(command.id, body.pipeline, error.code, error.message)
            return
        size = body.snapshots * _window_bytes(spec)
        asked = f"{body.snapshots} windows are {size} bytes"
        if size > self._max_bytes:
            self._refuse(command.id, name, "capture.too_large", f"{asked}; this board's cap is {self._max_bytes}")
            return
        if self._max_memory_bytes is not None and size > self._max_memory_bytes:
            detail = f"{asked} in memory until they are a file; this board has {self._max_memory_bytes}: ask for fewer"
            self._refuse(command.id, name, "capture.memory", detail)
            return
        if not self._hold(command.id, size):
            _LOG.info(
                "capture %s: others take the memory for recordings now; it is done when it is repeated", command.id
            )
            return

        def done(windows: list[Window]) -> None:
            self._jobs.put(_Job(command.id, name, spec, windows, command=command, wanted=body.snapshots))

        pipeline.capture(Captured(body.snapshots, done, command.expires_at))

    def _known(self, command: str) -> bool:
        """Whether a command needs nothing more; asked in the order in which it gets on, so that none is missed."""
        if command in self._held or command in self._unsaid:
            return True
        if any(entry.name == command for entry in self._folder.entries()):
            return True
        try:
            return self._records.answered(command)
        except Exception:  # noqa: BLE001  # logged; the fleet repeats the command
            _LOG.exception("capture %s: the spool does not say whether it was answered", command)
            return True

    def _refuse(self, command: str, pipeline: str, code: str, detail: str) -> None:
        self._say(command, CaptureReport(command=command, pipeline=pipeline, code=code, detail=detail[:1000]))

    def _hold(self, name: str, size: int) -> bool:
        """Set memory aside for the windows of a recording, if there is so much."""
        with self._lock:
            if self._max_memory_bytes is not None and sum(self._held.values()) + size > self._max_memory_bytes:
                return False
            self._held[name] = size
            return True

    def _collected(self, full: Collected) -> bool:
        if not self._by_rule.acquire(blocking=False):
            return False
        name = f"auto-{secrets.token_hex(8)}"
        if not self._hold(name, len(full.windows) * _window_bytes(full.spec)):
            self._by_rule.release()
            return False
        self._jobs.put(_Job(name, full.pipeline, full.spec, full.windows, full.reason, first_window=full.first_window))
        return True

    # --- windows become files -----------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            try:
                self._write(job)
            except (AgentError, RecordingError) as error:
                self._failed(job, error.code, error.message)
            except Exception as error:  # noqa: BLE001  # logged; the agent must outlive it
                _LOG.exception("capture %s failed", job.name)
                self._failed(job, "capture.failed", str(error)[:300])
            finally:
                job.windows.clear()
                with self._lock:
                    self._held.pop(job.name, None)
                if job.command is None:
                    self._by_rule.release()
            self._say_rest()

    def _write(self, job: _Job) -> None:
        meta = {"device": self._device, "pipeline": job.pipeline}
        windows = job.windows
        if job.command is not None:
            if len(windows) < job.wanted and job.command.expires_at < self._clock.now():
                came = f"{len(windows)} of {job.wanted} windows came"
                raise AgentError("capture.expired", f"{came} until the command expired; is the source silent?")
            meta["command"] = job.command.id
        else:
            meta |= {"reason": job.reason, "first_window": str(job.first_window)}
            windows = [window for window in windows if bool(np.all(np.isfinite(window.samples)))]
            if len(windows) < len(job.windows):  # a recording has no place for a sample that is missing
                meta["left_out_windows"] = str(len(job.windows) - len(windows))
        recording = make_recording(windows, job.spec, meta)
        del windows
        job.windows.clear()  # they are not needed beside the file's bytes
        buffer = io.BytesIO()
        write_recording(recording, buffer)
        snapshots = recording.snapshots
        del recording
        content = buffer.getbuffer()
        entry = Pending(
            name=job.name,
            pipeline=job.pipeline,
            sha256=hashlib.sha256(content).hexdigest(),
            length=len(content),
            snapshots=snapshots,
            reason=job.reason,
            command=job.command.id if job.command is not None else None,
            expires_at=job.command.expires_at if job.command is not None else None,
        )
        try:
            self._gave_way(self._folder.add(entry, content))
        except NotKeptError as error:
            self._gave_way(error.gone)
            raise
        self._ready.set()

    def _gave_way(self, gone: Sequence[Pending]) -> None:
        for entry in gone:
            self.dropped += 1
            self._say(entry.name, _report(entry, "capture.dropped", "newer recordings needed its place"))

    def _failed(self, job: _Job, code: str, detail: str) -> None:
        if job.command is not None:
            self._refuse(job.name, job.pipeline, code, detail)
            return
        self.dropped += 1
        report = CaptureReport(
            pipeline=job.pipeline, code=code, detail=detail[:1000], reason=job.reason, upload=job.name
        )
        self._say(job.name, report)

    # --- what is said, also by a spool that refuses for a while -------------------------------------------------------

    def _say(self, name: str, report: CaptureReport) -> None:
        """Append ``report``, now or when the spool takes it."""
        try:
            self._append(report)
        except Exception:  # noqa: BLE001  # logged; the spool may take it later
            _LOG.exception("capture %s: the spool does not take its report; it is tried again", name)
            with self._saying:
                if len(self._unsaid) < _UNSAID:
                    self._unsaid[name] = report
                else:
                    _LOG.error("capture %s: %s is not reported: too many reports wait", name, report.code)

    def _say_rest(self) -> None:
        """Append what the spool refused before, and how many recordings by rule nobody could take."""
        with self._saying:
            try:
                for name, report in list(self._unsaid.items()):
                    self._unsaid[name] = self._unsaid.pop(name)  # to the end: one that is refused holds up no other
                    self._append(report)
                    del self._unsaid[name]
                for pipeline, rules in list(self._rules.items()):
                    dropped, known = rules.dropped, self._reported.get(pipeline, 0)
                    if dropped == known:
                        continue
                    detail = f"{dropped - known} recordings by rule were dropped: others were still to become files"
                    self._append(CaptureReport(pipeline=pipeline, code="capture.busy", detail=detail))
                    self._reported[pipeline] = dropped
            except Exception:  # noqa: BLE001  # logged; the spool may take it later
                _LOG.warning("captures: reports wait for the spool", exc_info=True)

    # --- files go up --------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            try:
                self._ready.clear()
                for pipeline in self._pipelines.values():
                    pipeline.end_captures_due(self._clock.now())
                self._say_rest()
                entry, wait_seconds = self._next()
                if entry is None:
                    self._ready.wait(wait_seconds)
                    continue
                sent = self._send_safely(entry)
            except Exception:  # noqa: BLE001  # logged; the agent must outlive it
                _LOG.exception("captures: the uplink failed")
                sent = False
            pause = 0.5 if sent else min(pause * 2, _RETRY_CAP_SECONDS)
            if not sent:
                self._stopping.wait(pause)

    def _next(self) -> tuple[Pending | None, float]:
        """The recording that goes up now: of those that failed least the first; or how long to wait for one."""
        now, idle = self._clock.monotonic(), _RETRY_CAP_SECONDS if self._unsaid else _IDLE_SECONDS
        entries = self._folder.entries()
        names = {entry.name for entry in entries}
        self._failures = {name: failed for name, failed in self._failures.items() if name in names}
        allowed = [entry for entry in entries if self._uplink.allowed(entry)]
        due = [entry for entry in allowed if self._failures.get(entry.name, (0, now))[1] <= now]
        if due:
            return min(due, key=lambda entry: self._failures.get(entry.name, (0, now))[0]), 0.0
        waits = [self._failures[entry.name][1] - now for entry in allowed]
        return None, max(0.1, min([idle, *waits]))

    def _send_safely(self, entry: Pending) -> bool:
        """:meth:`_send`, and how long ``entry`` rests where that failed: others are not to wait for it."""
        try:
            sent = self._send(entry)
        except Exception:  # noqa: BLE001  # logged; a spool that refuses now may take the report later
            _LOG.exception("capture %s: the upload failed", entry.name)
            sent = False
        if not sent:
            count = self._failures.get(entry.name, (0, 0.0))[0] + 1
            rest_seconds = min(0.5 * 2 ** min(count, 10), _RETRY_CAP_SECONDS)
            self._failures[entry.name] = (count, self._clock.monotonic() + rest_seconds)
        return sent

    def _send(self, entry: Pending) -> bool:
        if entry.name not in self._told and not self._records.answered(entry.name):  # else: a restart in between
            try:
                if self._uplink.send(entry, self._folder.path(entry)):
                    report = _report(entry)
                elif entry.expires_at is None or self._clock.now() <= entry.expires_at:
                    return False
                else:
                    report = _report(entry, "capture.upload", "the command expired before the recording was uploaded")
            except AgentError as error:
                report = _report(entry, error.code, error.message)
            self._append(report)
        if not self._folder.remove(entry):
            self._told.add(entry.name)
            return False
        self._told.discard(entry.name)
        return True

    def _append(self, body: CaptureReport) -> None:
        self._records.append(unnumbered_report(body, self._clock.now()))


def _report(entry: Pending, code: str = "", detail: str = "") -> CaptureReport:
    """What became of a recording."""
    return CaptureReport(
        command=entry.command,
        pipeline=entry.pipeline,
        sha256=None if code else entry.sha256,
        length=0 if code else entry.length,
        snapshots=0 if code else entry.snapshots,
        code=code,
        detail=detail[:1000],
        reason=entry.reason,
        upload=None if entry.command is not None else entry.name,
    )


def _window_bytes(spec: SourceSpec) -> int:
    """Of one window in memory."""
    return spec.window_samples * len(spec.channels) * _SAMPLE_BYTES
