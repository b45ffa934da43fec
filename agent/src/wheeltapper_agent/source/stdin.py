"""The kind ``stdin``: one JSON payload a line on standard input, for sensors that no other kind can read.

A program that measures is piped into the agent: ``measure | wheeltapper-agent run``. The end of the input ends the
stream. If the pipeline falls behind, the pipe waits, unless ``when_full`` says otherwise.

What this module does not do: start that program, or start it again.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from typing import Final, Literal

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.payload import MAX_PAYLOAD_BYTES, PayloadConfig, PayloadReader
from wheeltapper_agent.source.stream import Sink, StreamSource

__all__ = ["KIND", "LineReader", "StdinConfig"]

_READ_BYTES: Final = 64 * 1024
_WAIT_SECONDS: Final = 0.5
_STDIN: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StdinConfig(PayloadConfig):
    """JSON lines on standard input."""

    kind: Literal["stdin"] = "stdin"
    when_full: Literal["wait", "drop"] = "wait"

    def __post_init__(self) -> None:
        PayloadConfig.__post_init__(self)
        if self.payload != "json":
            raise AgentError("config.invalid", "standard input is read as JSON lines: payload must be 'json'")


class LineReader:
    """Reads lines from a file descriptor, a payload in each.

    A line above the cap is refused and skipped.
    """

    def __init__(self, config: StdinConfig, descriptor: int) -> None:
        self._payloads = PayloadReader(config)
        self._descriptor = descriptor

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        sink.connected()
        rest, skipping = b"", False
        while not sink.closed.is_set():
            if not select.select([self._descriptor], [], [], _WAIT_SECONDS)[0]:
                continue
            try:
                chunk = os.read(self._descriptor, _READ_BYTES)
            except OSError as error:
                raise AgentError("source.unreachable", f"standard input cannot be read: {error.strerror}") from error
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk:
                lines, rest = [rest], b""
            for line in lines:
                if not skipping:
                    self._line(sink, line)
                skipping = False
            if not chunk:
                return
            if skipping or len(rest) > MAX_PAYLOAD_BYTES:
                if not skipping:
                    sink.refuse(
                        AgentError("source.payload", f"a line has more than {MAX_PAYLOAD_BYTES} bytes and is skipped")
                    )
                rest, skipping = b"", True

    def _line(self, sink: Sink, line: bytes) -> None:
        """Push the samples of a line into ``sink``; an empty line is skipped."""
        if not line.strip():
            return
        try:
            samples, t_s = self._payloads.read(line)
        except AgentError as error:
            sink.refuse(error)
        else:
            sink.push(samples, t_s)


def _make(config: StdinConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    reader = LineReader(config, _STDIN)
    return StreamSource(reader, config, context.clock, context.pipeline, wait_when_full=config.when_full == "wait")


KIND = SourceKind(StdinConfig, _make, exclusive=True)
