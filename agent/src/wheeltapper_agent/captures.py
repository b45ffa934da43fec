"""Captures: the windows of a pipeline as a recording, on request or by a rule, kept as a file, uploaded, reported.

Invariants: a command is answered once; one that broke off before its recording was a file is done when it is repeated.
A recording that is a file survives a restart and goes up from where the server is. The answer is a record of the spool,
and the file goes only after it. No pipeline waits: what finds no room is dropped, counted and reported.

Not done here: what a rule wants (:mod:`capture_rules`), the folder (:mod:`adapters.pending`), HTTP
(:mod:`adapters.uplink`).
"""

from __future__ import annotations

import hashlib
import logging
import queue
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from wheeltapper_agent.adapters.http import HttpsClient
from wheeltapper_agent.adapters.pending import Pending, PendingFolder
from wheeltapper_agent.adapters.uplink import Uplink
from wheeltapper_agent.capture_rules import CaptureRules, Collected
from wheeltapper_agent.config import CaptureConfig
from wheeltapper_agent.errors import AgentError
from wheeltapper_agent.pipeline import Captured, Pipeline
from wheeltapper_agent.ports import Clock, Records, SourceSpec, Window, unnumbered_report
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.messages import CaptureCommand, CaptureReport, Command
from wheeltapper_protocols.recording import Recording, recording_bytes

__all__ = ["Captures", "make_recording"]

_LOG = logging.getLogger(__name__)
_RETRY_CAP_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 60.0
_WAITING: Final = 4
"""Recordings by rule whose windows wait in memory to become a file."""


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


def make_recording(windows: list[Window], spec: SourceSpec, meta: dict[str, str]) -> Recording:
    """A recording of ``windows``: int16 with a scale a channel, so that the loudest sample uses the whole range.

    Raises:
        AgentError: ``capture.empty``.
        RecordingError: ``recording.*``, e.g. where the sensor gave NaN.
    """
    if not windows:
        raise AgentError("capture.empty", "the source ended before the first window")
    samples = np.stack([window.samples for window in windows])
    if not np.all(np.isfinite(samples)):
        raise RecordingError("recording.nan", "the sensor gave values that are not finite")
    peak = np.abs(samples).max(axis=(0, 1)).astype(np.float64)
    scale = np.where(peak > 0, peak, 1.0) / 32767.0
    coded = np.clip(np.rint(samples / scale), -32767, 32767).astype(np.int16)
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
    ) -> None:
        self._device = device
        self._pipelines = pipelines
        self._records = records
        self._clock = clock
        self._max_bytes = max_bytes
        self._config = config or CaptureConfig()
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
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
        made = CaptureRules(pipeline, spec, rule, self._collected, self._clock, self._max_bytes)
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
        waiting = {entry.name for entry in self._folder.entries()}
        with self._lock:
            if command.id in self._under_way or command.id in waiting or command.expires_at < self._clock.now():
                return
            if self._records.answered(command.id):
                return
            self._under_way.add(command.id)
        pipeline = self._pipelines.get(body.pipeline)
        if pipeline is None:
            detail = f"there is no pipeline {body.pipeline}"
            self._refuse(command.id, body.pipeline, "capture.unknown_pipeline", detail)
            return
        try:
            spec, name = pipeline.spec, body.pipeline
        except AgentError as error:  # its source is not there
            self._refuse(command.id, body.pipeline, error.code, error.message)
            return
        size = body.snapshots * spec.window_samples * len(spec.channels) * 4
        if size > self._max_bytes:
            detail = f"{body.snapshots} windows are {size} bytes; this board's cap is {self._max_bytes}"
            self._refuse(command.id, body.pipeline, "capture.too_large", detail)
            return

        def done(windows: list[Window]) -> None:
            self._jobs.put(_Job(command.id, name, spec, windows, command=command))

        pipeline.capture(Captured(body.snapshots, done))

    def _collected(self, full: Collected) -> bool:
        if not self._by_rule.acquire(blocking=False):
            return False
        name = f"auto-{secrets.token_hex(8)}"
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
                if job.command is None:
                    self._by_rule.release()

    def _write(self, job: _Job) -> None:
        meta = {"device": self._device, "pipeline": job.pipeline}
        windows = job.windows
        if job.command is not None:
            meta["command"] = job.command.id
        else:
            meta |= {"reason": job.reason, "first_window": str(job.first_window)}
            windows = [window for window in windows if bool(np.all(np.isfinite(window.samples)))]
            if len(windows) < len(job.windows):  # a recording has no place for a sample that is missing
                meta["left_out_windows"] = str(len(job.windows) - len(windows))
        content = recording_bytes(make_recording(windows, job.spec, meta))
        entry = Pending(
            name=job.name,
            pipeline=job.pipeline,
            sha256=hashlib.sha256(content).hexdigest(),
            length=len(content),
            snapshots=len(windows),
            reason=job.reason,
            command=job.command.id if job.command is not None else None,
            expires_at=job.command.expires_at if job.command is not None else None,
        )
        for gone in self._folder.add(entry, content):
            self.dropped += 1
            self._report(gone, "capture.dropped", "newer recordings needed its place")
        with self._lock:
            self._under_way.discard(job.name)
        self._ready.set()

    def _failed(self, job: _Job, code: str, detail: str) -> None:
        if job.command is not None:
            self._refuse(job.command.id, job.pipeline, code, detail)
            return
        self.dropped += 1
        report = CaptureReport(
            pipeline=job.pipeline, code=code, detail=detail[:1000], reason=job.reason, upload=job.name
        )
        self._append(report)

    def _refuse(self, command: str, pipeline: str, code: str, detail: str) -> None:
        self._append(CaptureReport(command=command, pipeline=pipeline, code=code, detail=detail[:1000]))
        with self._lock:
            self._under_way.discard(command)

    # --- files go up --------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        delay = 0.5
        while not self._stopping.is_set():
            self._ready.clear()
            entry = next((one for one in self._folder.entries() if self._uplink.allowed(one)), None)
            if entry is None:
                self._ready.wait(_IDLE_SECONDS)
                continue
            try:
                sent = self._send(entry)
            except Exception:  # noqa: BLE001  # logged; a spool that refuses now may take the report later
                _LOG.exception("capture %s: the upload failed", entry.name)
                sent = False
            delay = 0.5 if sent else min(delay * 2, _RETRY_CAP_SECONDS)
            if not sent:
                self._stopping.wait(delay)

    def _send(self, entry: Pending) -> bool:
        if self._records.answered(entry.name):  # a restart between the report and the removal
            self._folder.remove(entry)
            return True
        try:
            if self._uplink.send(entry, self._folder.path(entry)):
                self._report(entry)
            elif entry.expires_at is None or self._clock.now() <= entry.expires_at:
                return False
            else:
                self._report(entry, "capture.upload", "the command expired before the recording was uploaded")
        except AgentError as error:
            self._report(entry, error.code, error.message)
        self._folder.remove(entry)
        return True

    def _report(self, entry: Pending, code: str = "", detail: str = "") -> None:
        self._append(
            CaptureReport(
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
        )

    def _append(self, body: CaptureReport) -> None:
        self._records.append(unnumbered_report(body, self._clock.now()))
