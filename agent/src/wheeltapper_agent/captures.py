"""Captures on request: the next windows of a pipeline as a recording, uploaded, answered with a report.

Invariants: a command is answered once; one that broke off (a restart) is done when it is repeated; the answer is a
record of the spool.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from wheeltapper_agent.adapters.http import HttpsClient, HttpsError
from wheeltapper_agent.errors import AgentError
from wheeltapper_agent.pipeline import NO_EPOCH, Captured, Pipeline
from wheeltapper_agent.ports import Clock, Records, SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.messages import CaptureCommand, CaptureReport, Command, Report
from wheeltapper_protocols.recording import Recording, recording_bytes

__all__ = ["Captures", "make_recording"]

_LOG = logging.getLogger(__name__)
_MAX_ANSWER_BYTES: Final = 64 * 1024
_RETRY_CAP_SECONDS: Final = 30.0


class _AnsweringRecords(Records, Protocol):
    def answered(self, command: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Job:
    command: Command
    body: CaptureCommand
    spec: SourceSpec
    windows: list[Window]


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
    """Takes commands; uploads in a thread of its own, so that no pipeline waits for the network."""

    def __init__(
        self,
        device: str,
        pipelines: Mapping[str, Pipeline],
        records: _AnsweringRecords,
        client: HttpsClient,
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._device = device
        self._pipelines = pipelines
        self._records = records
        self._client = client
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)

    def start(self) -> None:
        """Begin to upload."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is unfinished is done when the fleet repeats it."""
        self._stopping.set()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def take(self, command: Command, body: CaptureCommand) -> None:
        """Begin a capture, unless it is under way, answered or expired."""
        with self._lock:
            if command.id in self._under_way or command.expires_at < self._clock.now():
                return
            if self._records.answered(command.id):
                return
            self._under_way.add(command.id)
        pipeline = self._pipelines.get(body.pipeline)
        if pipeline is None:
            self._answer(command, body, code="capture.unknown_pipeline", detail=f"there is no pipeline {body.pipeline}")
            return
        size = body.snapshots * pipeline.spec.window_samples * len(pipeline.spec.channels) * 4
        if size > self._max_bytes:
            detail = f"{body.snapshots} windows are {size} bytes; this board's cap is {self._max_bytes}"
            self._answer(command, body, code="capture.too_large", detail=detail)
            return
        done = _Done(self._jobs, command, body, pipeline.spec)
        pipeline.capture(Captured(body.snapshots, done))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            try:
                self._finish(job)
            except (AgentError, RecordingError) as error:
                self._answer(job.command, job.body, code=error.code, detail=error.message)
            except Exception as error:  # noqa: BLE001  # logged; the agent must outlive it
                _LOG.exception("capture %s failed", job.command.id)
                self._answer(job.command, job.body, code="capture.failed", detail=str(error)[:300])

    def _finish(self, job: _Job) -> None:
        meta = {"device": self._device, "pipeline": job.body.pipeline, "command": job.command.id}
        content = recording_bytes(make_recording(job.windows, job.spec, meta))
        sha256 = hashlib.sha256(content).hexdigest()
        delay = 0.5
        while not self._stopping.is_set():
            try:
                self._client.request(
                    "PUT",
                    f"/v1/captures/{job.command.id}",
                    _MAX_ANSWER_BYTES,
                    content,
                    {"X-Content-SHA256": sha256, "Content-Type": "application/octet-stream"},
                )
            except HttpsError as error:
                final = 400 <= error.status < 500 and error.status not in (408, 429)
                if final or self._clock.now() > job.command.expires_at:
                    raise AgentError("capture.upload", error.message) from error
                _LOG.info("capture %s: %s", job.command.id, error)
                self._stopping.wait(delay)
                delay = min(delay * 2, _RETRY_CAP_SECONDS)
            else:
                self._answer(job.command, job.body, sha256=sha256, length=len(content), snapshots=len(job.windows))
                return

    def _answer(
        self,
        command: Command,
        body: CaptureCommand,
        sha256: str | None = None,
        length: int = 0,
        snapshots: int = 0,
        code: str = "",
        detail: str = "",
    ) -> None:
        report = CaptureReport(
            command=command.id,
            pipeline=body.pipeline,
            sha256=sha256,
            length=length,
            snapshots=snapshots,
            code=code,
            detail=detail[:1000],
        )
        self._records.append(Report(epoch=NO_EPOCH, oldest=1, seq=1, at=self._clock.now(), body=report))
        with self._lock:
            self._under_way.discard(command.id)


@dataclass(frozen=True, slots=True)
class _Done:
    """Hands the windows over to the uploading thread."""

    jobs: queue.SimpleQueue[_Job | None]
    command: Command
    body: CaptureCommand
    spec: SourceSpec

    def __call__(self, windows: list[Window]) -> None:
        self.jobs.put(_Job(self.command, self.body, self.spec, windows))
