"""Captures: the fleet's commands and the device's rules ask for recordings; this is where both arrive.

A recording passes through four files: its windows are collected by a pipeline (a command) or by
:mod:`~wheeltapper_agent.captures.rules`, written by :mod:`~wheeltapper_agent.captures.recorder`, kept by
:mod:`~wheeltapper_agent.captures.pending` and uploaded by :mod:`~wheeltapper_agent.captures.uploader`.

Invariants:
    * A command is answered once. One that was interrupted before its recording was a file is done when the fleet
      repeats it.
    * A recording that is a file survives a restart, and its upload goes on where the server is.
    * The answer is a record of the spool, and the file goes only after it.
    * No pipeline waits. What finds no room is dropped, counted and reported.
    * All windows that wait in memory take at most ``max_memory_bytes``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.pending import PendingFolder
from wheeltapper_agent.captures.recorder import Recorder, RecordingJob
from wheeltapper_agent.captures.recording import window_bytes
from wheeltapper_agent.captures.reports import AnsweringRecords, CaptureReports
from wheeltapper_agent.captures.resumable_upload import ResumableUpload
from wheeltapper_agent.captures.rules import CaptureRules
from wheeltapper_agent.captures.uploader import Uploader
from wheeltapper_agent.captures.window_memory import WindowMemory
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.pipeline.pipeline import Pipeline, WindowCapture
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.wire.messages import CaptureCommand, CaptureShare, Command

__all__ = ["Captures"]

_LOG = logging.getLogger(__name__)
_JOIN_SECONDS = 2.0


class Captures:
    """Takes commands and what rules collected; two threads of its own write and upload.

    Args:
        device: the device's id, for the recording's meta.
        pipelines: by name; may be filled until :meth:`start`.
        records: the spool, where reports go.
        client: HTTPS to the fleet service.
        clock: time.
        max_bytes: of one recording in memory, and of all files that wait for their upload.
        folder: where recordings wait for their upload.
        config: the rules, and the limits of uploads; None: the defaults.
        max_memory_bytes: of all windows that are collected for commands or wait to become a file; None: no limit.
        metered: says whether traffic to the fleet costs; while it does, nothing is uploaded.
    """

    def __init__(
        self,
        device: str,
        pipelines: Mapping[str, Pipeline],
        records: AnsweringRecords,
        client: HttpsClient,
        clock: Clock,
        max_bytes: int,
        folder: Path,
        config: CaptureConfig | None = None,
        max_memory_bytes: int | None = None,
        metered: Callable[[], bool | None] = lambda: False,
    ) -> None:
        self._pipelines = pipelines
        self._clock = clock
        self._max_bytes = max_bytes
        self._metered = metered
        self._config = config or CaptureConfig()
        self._rules: dict[str, CaptureRules] = {}
        self._memory = WindowMemory(max_memory_bytes)
        """Reserved by the name of the recording. A command is under way while its id is in it."""
        self._folder = PendingFolder(folder, max_bytes)
        self._reports = CaptureReports(records, clock, self._dropped_by_rules)
        self._stopping = threading.Event()
        self._upload = upload = ResumableUpload(
            client, self._config, clock, folder / "uplink.state", self._stopping, metered
        )
        self._uploader = Uploader(
            self._folder, upload, self._reports, clock, self._stopping, self._end_expired_captures
        )
        self._recorder = Recorder(device, self._folder, self._reports, self._memory, clock, self._uploader.wake)

    # --- rules --------------------------------------------------------------------------------------------------------

    def rules(self, pipeline: str, spec: SourceSpec) -> CaptureRules | None:
        """The observer that applies the configured rule to ``pipeline``; None where it has no rule.

        Args:
            pipeline: its name.
            spec: what its windows look like.
        """
        rule = self._config.rule_for(pipeline)
        if rule is None:
            return None
        limits = [self._max_bytes] if self._memory.max_bytes is None else [self._max_bytes, self._memory.max_bytes]
        made = CaptureRules(pipeline, spec, rule, self._recorder.record_by_rule, self._clock, min(limits))
        self._rules[pipeline] = made
        return made

    def on_drift(self, pipeline: str, why: str) -> None:
        """Called by the drift observer of ``pipeline``; records where the pipeline's rule says so."""
        rules = self._rules.get(pipeline)
        if rules is not None:
            rules.on_drift(why)

    def _dropped_by_rules(self) -> dict[str, int]:
        return {pipeline: rules.dropped for pipeline, rules in list(self._rules.items())}

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write and upload."""
        self._recorder.start()
        self._uploader.start()

    def stop(self) -> None:
        """End. Files are uploaded after the next start; what is not a file yet, when the fleet repeats its command."""
        self._uploader.stop()
        self._recorder.stop()
        self._recorder.join(_JOIN_SECONDS)
        self._uploader.join(_JOIN_SECONDS)

    def alive(self) -> bool:
        """Whether both threads run, or were stopped."""
        return self._stopping.is_set() or (self._recorder.alive() and self._uploader.alive())

    def share(self) -> CaptureShare:
        """How much of the day's share of the network is used."""
        limit = max(0, int(self._upload.limit_bytes))
        return CaptureShare(sent_bytes=self._upload.sent_bytes, limit_bytes=limit, waiting=len(self._folder.entries()))

    def figures(self) -> dict[str, int]:
        """For the status.

        Returns:
            ``waiting``: recordings that wait for their upload; ``dropped``: recordings given up since the start;
            ``ignored``: triggers that started no recording since the start; ``unsaid``: reports that the spool has not
            taken yet.
        """
        rules = list(self._rules.values())
        return {
            "waiting": len(self._folder.entries()),
            "dropped": self._recorder.dropped + sum(one.dropped for one in rules),
            "ignored": sum(one.ignored for one in rules),
            "unsaid": self._reports.waiting,
        }

    @property
    def held_back(self) -> bool:
        """Whether recordings wait because the network is metered."""
        return bool(self._folder.entries()) and bool(self._metered())

    # --- commands -----------------------------------------------------------------------------------------------------

    def take(self, command: Command, body: CaptureCommand) -> None:
        """Begin a capture, unless it is under way, waits for its upload, was answered or is expired.

        A command that can never be done is refused with a report; one that only finds too little memory now is left to
        the fleet, which repeats it.
        """
        if command.expires_at < self._clock.now() or self._known(command.id):
            return
        pipeline, name = self._pipelines.get(body.pipeline), body.pipeline
        if pipeline is None:
            self._reports.refuse(command.id, name, "capture.unknown_pipeline", f"there is no pipeline {name}")
            return
        try:
            spec = pipeline.spec
        except AgentError as error:  # its source is not there yet
            self._reports.refuse(command.id, name, error.code, error.message)
            return
        size_bytes = body.snapshots * window_bytes(spec)
        asked = f"{body.snapshots} windows are {size_bytes} bytes"
        if size_bytes > self._max_bytes:
            detail = f"{asked}; this board's cap is {self._max_bytes}: ask for fewer"
            self._reports.refuse(command.id, name, "capture.too_large", detail)
            return
        memory_bytes = self._memory.max_bytes
        if memory_bytes is not None and size_bytes > memory_bytes:
            detail = f"{asked} in memory until they are a file; this board has {memory_bytes}: ask for fewer"
            self._reports.refuse(command.id, name, "capture.memory", detail)
            return
        if not self._memory.reserve(command.id, size_bytes):
            _LOG.info("capture %s: other recordings take the memory now; it begins when it is repeated", command.id)
            return

        def done(windows: list[Window]) -> None:
            self._recorder.record(
                RecordingJob(command.id, name, spec, windows, command=command, wanted_windows=body.snapshots)
            )

        pipeline.capture(WindowCapture(body.snapshots, done, command.expires_at))

    def _known(self, command: str) -> bool:
        """Whether a command needs nothing more. Asked in the order in which a capture proceeds, so none is missed."""
        if command in self._memory or self._reports.is_waiting(command):
            return True
        if any(entry.name == command for entry in self._folder.entries()):
            return True
        try:
            return self._reports.answered(command)
        except Exception:  # noqa: BLE001  # logged; the fleet repeats the command
            _LOG.exception("capture %s: the spool cannot tell whether it was answered", command)
            return True

    def _end_expired_captures(self) -> None:
        """End the collecting for commands that expired; a source that is silent would never end it."""
        for pipeline in self._pipelines.values():
            pipeline.end_captures_due(self._clock.now())
