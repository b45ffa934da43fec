"""Parts for the tests of captures: a spool and a server that refuse when told to, a pipeline, all of it together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.config import CaptureConfig, CaptureRule
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.https import HttpsError
from wheeltapper_agent.pipeline.pipeline import WindowCapture
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.wire.messages import CaptureCommand, CaptureReport, Command, Report

SPEC = SourceSpec(1000.0, 10, ("x",), ("g",))
WINDOW_BYTES = 40
RULE = CaptureRule(pipeline="*", random_share=1.0, random_windows=2)


class Records:
    """A spool that refuses while ``refuses`` is set."""

    def __init__(self) -> None:
        self.refuses = False
        self.bodies: list[CaptureReport] = []

    def append(self, *items: Any) -> None:
        if self.refuses:
            raise OSError(28, "the disk is full")
        for item in items:
            assert isinstance(item, Report)
            assert isinstance(item.body, CaptureReport)
            self.bodies.append(item.body)

    def answered(self, command: str) -> bool:
        if self.refuses:
            raise OSError(5, "the disk is gone")
        return any(body.command == command for body in self.bodies)


class Server:
    """The fleet service or a proxy: answers with the status and code set for a recording's name, else accepts."""

    def __init__(self) -> None:
        self.head_answers: dict[str, int] = {}
        self.patch_answers: dict[str, tuple[int, str]] = {}
        self.away = False
        self.resumable = True
        self.asked: list[str] = []
        self.taken: dict[str, bytes] = {}
        self.put: list[bytes] = []

    def head(self, url: str) -> dict[str, str]:
        name = url.rsplit("/", 1)[1]
        self.asked.append(name)
        if self.away:
            raise HttpsError("fetch.unreachable", "nobody there")
        if status := self.head_answers.get(name, 0):
            raise HttpsError("fetch.status", f"HTTP {status}", status)
        return {"upload-offset": str(len(self.taken.get(name, b"")))} if self.resumable else {}

    def request(self, method: str, url: str, _: int, body: Any = None, __: Any = None) -> bytes:
        name = url.rsplit("/", 1)[1]
        if name in self.patch_answers:
            status, code = self.patch_answers[name]
            raise HttpsError("fetch.status", f"HTTP {status} {code}", status, code)
        if method == "PUT":
            self.put += list(body)
        elif name not in self.head_answers:
            self.taken[name] = self.taken.get(name, b"") + body
        return b""


class Pipeline:
    """Gives windows of ``value`` at once; if ``waiting`` is a list, captures wait there for the test."""

    spec = SPEC

    def __init__(self) -> None:
        self.value = 1.0
        self.waiting: list[WindowCapture] | None = None

    def capture(self, capture: WindowCapture) -> None:
        if self.waiting is not None:
            self.waiting.append(capture)
            return
        capture.on_end(windows(capture.wanted_windows, self.value))

    def end_captures_due(self, now: float) -> None:
        due = [capture for capture in self.waiting or [] if capture.expires_at < now]
        self.waiting = None if self.waiting is None else [one for one in self.waiting if one.expires_at >= now]
        for capture in due:
            capture.on_end(capture.windows)


def windows(count: int, value: float = 1.0) -> list[Window]:
    return [Window(np.full((10, 1), value, dtype=np.float32), float(index)) for index in range(count)]


class Rig:
    """Captures of one pipeline, with a spool and a server that the test controls."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.records, self.server, self.pipeline = Records(), Server(), Pipeline()
        config = CaptureConfig(rules=(RULE,), bytes_per_second=0.0)
        options = {"max_bytes": 10**6, "config": config, **options}
        anything: Any = (self.records, self.server, {"main": self.pipeline})
        self.captures = Captures(
            "dev-1", anything[2], anything[0], anything[1], SystemClock(), folder=folder / "captures", **options
        )

    def take(self, name: str, snapshots: int = 3, pipeline: str = "main", expires_at: float = 1e11) -> None:
        body = CaptureCommand(pipeline=pipeline, snapshots=snapshots)
        self.captures.take(Command(id=name, expires_at=expires_at, body=body), body)

    def codes(self) -> dict[str | None, str]:
        return {body.command or body.upload: body.code for body in self.records.bodies}

    def waiting(self) -> list[str]:
        return [entry.name for entry in self.captures._folder.entries()]
