"""A thread that turns windows into recordings, and recordings into files that wait for their upload.

Invariants: no pipeline waits for it: a recording by rule that finds no room is refused at once. Windows leave memory,
and their reservation is released, whatever happens to the recording. Nothing ends the thread but :meth:`Recorder.stop`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from wheeltapper_agent.captures.pending import NotKeptError, PendingFolder, PendingRecording
from wheeltapper_agent.captures.recording import make_recording, window_bytes
from wheeltapper_agent.captures.reports import CaptureReports, recording_report
from wheeltapper_agent.captures.rules import Collected
from wheeltapper_agent.captures.window_memory import WindowMemory
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError, brief
from wheeltapper_protocols.signal.recording import write_recording
from wheeltapper_protocols.wire.messages import CaptureReport, Command

__all__ = ["Recorder", "RecordingJob"]

_LOG = logging.getLogger(__name__)
_MAX_QUEUED_BY_RULE: Final = 4
"""Recordings by rule whose windows may wait in memory to become a file."""
_MAX_DETAIL_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class RecordingJob:
    """Windows that are to become a recording."""

    name: str
    """The command's id, or ``auto-<16 hex digits>``."""
    pipeline: str
    spec: SourceSpec
    windows: list[Window]
    reason: str = ""
    """Why a rule recorded them; empty for a command."""
    command: Command | None = None
    first_window: int | None = None
    """Index of the first window in the stream, for a recording by rule."""
    wanted_windows: int = 0
    """How many the command asked for."""


class Recorder:
    """Writes one recording at a time.

    Args:
        device: the device's id, for the recording's meta.
        folder: where recordings wait for their upload.
        reports: what became of recordings that never reach the fleet is reported there.
        memory: the reservations of windows.
        clock: time.
        on_stored: called when a new recording waits for its upload.
    """

    def __init__(
        self,
        device: str,
        folder: PendingFolder,
        reports: CaptureReports,
        memory: WindowMemory,
        clock: Clock,
        on_stored: Callable[[], None],
    ) -> None:
        self._device = device
        self._folder = folder
        self._reports = reports
        self._memory = memory
        self._clock = clock
        self._on_stored = on_stored
        self._jobs: queue.SimpleQueue[RecordingJob | None] = queue.SimpleQueue()
        self._places_by_rule = threading.BoundedSemaphore(_MAX_QUEUED_BY_RULE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self.dropped = 0
        """Recordings by rule that were given up for lack of room since the start."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; :meth:`join` waits for it."""
        self._stopping.set()
        self._jobs.put(None)

    def join(self, timeout_seconds: float) -> None:
        """Wait until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def record(self, job: RecordingJob) -> None:
        """Record the windows of a command; their memory is reserved under the job's name. Never waits."""
        self._jobs.put(job)

    def record_by_rule(self, collected: Collected) -> bool:
        """Record what a rule collected; False where there is no room for it now. Never waits."""
        if not self._places_by_rule.acquire(blocking=False):
            return False
        name = f"auto-{secrets.token_hex(8)}"
        spec, windows = collected.spec, collected.windows
        if not self._memory.reserve(name, len(windows) * window_bytes(spec)):
            self._places_by_rule.release()
            return False
        self._jobs.put(
            RecordingJob(name, collected.pipeline, spec, windows, collected.reason, first_window=collected.first_window)
        )
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            try:
                self._write(job)
            except (AgentError, RecordingError) as error:
                self._report_failure(job, error.code, error.message)
            except Exception as error:  # noqa: BLE001  # logged; the agent must outlive it
                _LOG.exception("capture %s: the recording cannot be written", job.name)
                self._report_failure(job, "capture.failed", brief(error))
            finally:
                job.windows.clear()
                self._memory.release(job.name)
                if job.command is None:
                    self._places_by_rule.release()
            self._reports.retry()

    def _write(self, job: RecordingJob) -> None:
        """Make the recording's bytes and add them to the folder. Its windows are cleared as early as possible.

        Raises:
            AgentError: ``capture.expired``, ``capture.empty``, ``capture.no_room``, ``storage.*``.
            RecordingError: ``recording.*``.
        """
        windows, meta = self._complete_windows(job)
        recording = make_recording(windows, job.spec, meta)
        del windows
        job.windows.clear()  # memory has no room for them beside the file's bytes
        buffer = io.BytesIO()
        write_recording(recording, buffer)
        snapshots = recording.snapshots
        del recording
        content = buffer.getbuffer()
        entry = PendingRecording(
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
            self._report_dropped(self._folder.add(entry, content))
        except NotKeptError as error:
            self._report_dropped(error.dropped)
            raise
        self._on_stored()

    def _complete_windows(self, job: RecordingJob) -> tuple[list[Window], dict[str, str]]:
        """The windows that can be recorded, and the recording's meta.

        A rule's windows with missing samples are left out, since a recording cannot hold a missing sample; the meta
        says how many. A command's are not: there the missing samples are an error that the fleet should see.
        """
        meta = {"device": self._device, "pipeline": job.pipeline}
        windows = job.windows
        if job.command is not None:
            if len(windows) < job.wanted_windows and job.command.expires_at < self._clock.now():
                came = f"{len(windows)} of {job.wanted_windows} windows came"
                raise AgentError("capture.expired", f"{came} until the command expired; is the source silent?")
            meta["command"] = job.command.id
            return windows, meta
        meta |= {"reason": job.reason, "first_window": str(job.first_window)}
        complete = [window for window in windows if bool(np.all(np.isfinite(window.samples)))]
        if len(complete) < len(windows):
            meta["left_out_windows"] = str(len(windows) - len(complete))
        return complete, meta

    def _report_dropped(self, dropped: Sequence[PendingRecording]) -> None:
        for entry in dropped:
            self.dropped += 1
            report = recording_report(entry, "capture.dropped", "newer recordings needed its place")
            self._reports.add(entry.name, report)

    def _report_failure(self, job: RecordingJob, code: str, detail: str) -> None:
        if job.command is not None:
            self._reports.refuse(job.name, job.pipeline, code, detail)
            return
        self.dropped += 1
        report = CaptureReport(
            pipeline=job.pipeline,
            code=code,
            detail=detail[:_MAX_DETAIL_CHARACTERS],
            reason=job.reason,
            upload=job.name,
        )
        self._reports.add(job.name, report)
