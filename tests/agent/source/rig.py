"""What the tests of all sources need: a running source, and configurations from TOML as a user writes them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.agent.servers import until
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.source.base import Source, Window
from wheeltapper_agent.source.opening import make_source

_NUMBERS = itertools.count()


def pipeline_config(folder: Path, source: str, quality: str = "") -> PipelineConfig:
    """The one pipeline of a configuration whose ``[pipelines.source]`` is ``source``."""
    path = folder / f"agent-{next(_NUMBERS)}.toml"
    head = f'[device]\nstate_dir = "state"\n[[pipelines]]\nname = "main"\n{quality}\n[pipelines.source]\n'
    path.write_text(head + source)
    return load_config(path).pipelines[0]


def open_source(folder: Path, source: str) -> Source:
    """The source of such a configuration."""
    return make_source("main", pipeline_config(folder, source).source, folder, SystemClock())


class RunningSource:
    """A source whose windows are taken in a thread, as a pipeline does; ``gate`` holds that thread up."""

    def __init__(self, source: Source, slow: bool = False) -> None:
        self.source = source
        self.windows: list[Window] = []
        self.gate = threading.Event()
        if not slow:
            self.gate.set()
        self.ended = threading.Event()
        self.states: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for window in self.source.windows(0):
            self.windows.append(window)
            self.gate.wait()
        self.ended.set()

    def until(self, count: int, seconds: float = 15.0) -> list[Window]:
        """Wait for so many windows."""
        until(lambda: len(self.windows) >= count, seconds, f"window {count} (state {self.source.state})")
        return self.windows[:count]

    def until_state(self, *states: str, seconds: float = 15.0) -> None:
        until(lambda: self.source.state in states, seconds, f"{states} (it is {self.source.state})")

    def close(self) -> None:
        self.source.close()
        self.gate.set()
        assert self.ended.wait(10), "the source did not end"

    def __enter__(self) -> RunningSource:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def running(folder: Path, source: str) -> RunningSource:
    return RunningSource(open_source(folder, source))


def concatenated(windows: list[Window]) -> NDArray[Any]:
    """[sample, channel] of windows that do not overlap."""
    return np.concatenate([window.samples for window in windows])


def publish_until_first_window(
    publish: Callable[[], object], running_source: RunningSource, seconds: float = 15.0
) -> None:
    """Publish until the first window comes: the subscription may not be made yet."""

    def came() -> bool:
        publish()
        return bool(running_source.windows)

    until(came, seconds, "a first window")
