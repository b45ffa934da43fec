"""Sources of windows: the replay of a recording, and the choice by configuration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from wheeltapper_agent.adapters.simulator import SimulatorSource
from wheeltapper_agent.config import PipelineConfig, ReplayConfig, SimulatorConfig
from wheeltapper_agent.errors import AgentError
from wheeltapper_agent.ports import Clock, Source, SourceSpec, Window
from wheeltapper_protocols.recording import read_recording

__all__ = ["ReplaySource", "make_source"]


class ReplaySource:
    """A recording, played once from snapshot ``first`` on at a steady rate.

    Raises:
        AgentError: ``source.unreadable``.
        RecordingError: ``recording.*``.
    """

    def __init__(self, config: ReplayConfig, clock: Clock) -> None:
        try:
            self._recording = read_recording(config.path)
        except OSError as error:
            raise AgentError(
                "source.unreadable", f"the recording {config.path.name} cannot be read: {error}"
            ) from error
        if not 0 < config.rate_hz <= 1e6:
            raise AgentError("config.invalid", "rate_hz of a replay must be above 0")
        recording = self._recording
        self._config = config
        self._clock = clock
        self._closed = threading.Event()
        self._begin = threading.Event()
        if not config.hold_until_model:
            self._begin.set()
        self.dropped = 0
        self.state = "waiting" if config.hold_until_model else "running"
        self.spec = SourceSpec(
            float(recording.sample_rate_hz), int(recording.samples.shape[1]), recording.channels, recording.units
        )

    def model_ready(self) -> None:
        """Begin, if the source was holding."""
        self._begin.set()

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()
        self._begin.set()

    def windows(self, first: int) -> Iterator[Window]:
        """Snapshots ``first``, ``first + 1``, …; nothing is skipped when the reader is slow."""
        self._begin.wait()
        if not self._closed.is_set():
            self.state = "running"
        started = self._clock.monotonic()
        for index in range(first, self._recording.samples.shape[0]):
            due_in = started + (index - first) / self._config.rate_hz - self._clock.monotonic()
            if self._closed.is_set() or (due_in > 0 and self._closed.wait(due_in)):
                return
            yield Window(self._recording.physical(slice(index, index + 1))[0], float(self._recording.t_s[index]))
        self.state = "ended"


def make_source(config: PipelineConfig, state_dir: Path, clock: Clock) -> Source:
    """The source that a pipeline's configuration asks for."""
    if isinstance(config.source, SimulatorConfig):
        return SimulatorSource(config.source, state_dir / f"simulator-{config.name}.json", clock)
    return ReplaySource(config.source, clock)
