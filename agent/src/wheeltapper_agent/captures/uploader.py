"""A thread that uploads the recordings that wait, one after the other, and reports what became of each.

Invariants: a recording's file goes only after its report is in the spool, so a restart in between uploads nothing twice
and loses nothing. A recording whose upload fails rests for a while and holds up no other. Nothing ends the thread but
:meth:`Uploader.stop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from wheeltapper_agent.captures.pending import PendingFolder, PendingRecording
from wheeltapper_agent.captures.reports import CaptureReports, recording_report
from wheeltapper_agent.captures.resumable_upload import ResumableUpload
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError

__all__ = ["Uploader"]

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 60.0
"""While nothing is to be uploaded, the thread still looks for expired commands this often."""


class Uploader:
    """Uploads one recording at a time.

    Args:
        folder: the recordings that wait.
        upload: uploads one of them.
        reports: where the outcome is reported.
        clock: time.
        stopping: shared with ``upload``, so that :meth:`stop` also ends an upload that waits.
        every_turn: called before each look at the folder.
    """

    def __init__(
        self,
        folder: PendingFolder,
        upload: ResumableUpload,
        reports: CaptureReports,
        clock: Clock,
        stopping: threading.Event,
        every_turn: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._upload = upload
        self._reports = reports
        self._clock = clock
        self._stopping = stopping
        self._every_turn = every_turn
        self._wake = threading.Event()
        self._reported: set[str] = set()
        """Recordings that were reported, and whose files the disk does not let go."""
        self._failures: dict[str, tuple[int, float]] = {}
        """By name: how often the upload failed, and until when the recording rests (monotonic seconds)."""
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def start(self) -> None:
        """Begin to upload."""
        self.wake()
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; :meth:`join` waits for it."""
        self._stopping.set()
        self.wake()

    def join(self, timeout_seconds: float) -> None:
        """Wait until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Look at the folder now: something new is in it."""
        self._wake.set()

    def _run(self) -> None:
        pause_seconds = _FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                self._wake.clear()
                self._every_turn()
                self._reports.retry()
                entry, wait_seconds = self._next()
                if entry is None:
                    self._wake.wait(wait_seconds)
                    continue
                finished = self._finish_or_rest(entry)
            except Exception:  # noqa: BLE001  # logged; the agent must outlive it
                _LOG.exception("captures: the upload thread failed; it goes on")
                finished = False
            pause_seconds = _FIRST_RETRY_SECONDS if finished else min(pause_seconds * 2, _MAX_RETRY_SECONDS)
            if not finished:
                self._stopping.wait(pause_seconds)

    def _next(self) -> tuple[PendingRecording | None, float]:
        """The recording to upload now, the one that failed least often first; or how many seconds to wait for one."""
        now = self._clock.monotonic()
        entries = self._folder.entries()
        names = {entry.name for entry in entries}
        self._failures = {name: failed for name, failed in self._failures.items() if name in names}
        allowed = [entry for entry in entries if self._upload.allowed(entry)]
        due = [entry for entry in allowed if self._failures.get(entry.name, (0, now))[1] <= now]
        if due:
            return min(due, key=lambda entry: self._failures.get(entry.name, (0, now))[0]), 0.0
        idle_seconds = _MAX_RETRY_SECONDS if self._reports.waiting else _IDLE_SECONDS
        waits = [self._failures[entry.name][1] - now for entry in allowed]
        return None, max(0.1, min([idle_seconds, *waits]))

    def _finish_or_rest(self, entry: PendingRecording) -> bool:
        """:meth:`_finish`; where that fails, ``entry`` rests, so that others need not wait for it."""
        try:
            finished = self._finish(entry)
        except Exception:  # noqa: BLE001  # logged; a spool that refuses now may take the report later
            _LOG.exception("capture %s: the upload failed; it is tried again", entry.name)
            finished = False
        if not finished:
            count = self._failures.get(entry.name, (0, 0.0))[0] + 1
            rest_seconds = min(_FIRST_RETRY_SECONDS * 2 ** min(count, 10), _MAX_RETRY_SECONDS)
            self._failures[entry.name] = (count, self._clock.monotonic() + rest_seconds)
        return finished

    def _finish(self, entry: PendingRecording) -> bool:
        """Upload, report, remove; True when all three are done."""
        # The spool may have the report already: the agent was restarted between the report and the removal.
        if entry.name not in self._reported and not self._reports.answered(entry.name):
            try:
                if self._upload.send(entry, self._folder.path(entry)):
                    report = recording_report(entry)
                elif entry.expires_at is None or self._clock.now() <= entry.expires_at:
                    return False
                else:
                    late = "the command expired before the recording was uploaded"
                    report = recording_report(entry, "capture.upload", late)
            except AgentError as error:
                report = recording_report(entry, error.code, error.message)
            self._reports.append(report)
        if not self._folder.remove(entry):
            self._reported.add(entry.name)
            return False
        self._reported.discard(entry.name)
        return True
