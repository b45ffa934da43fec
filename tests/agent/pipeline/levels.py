"""A source of levels, a pipeline that runs to its end, and the alerts that a spool holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tests.agent.servers import until
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.wire.messages import Alert


def run(pipeline: Pipeline, bundle: Bundle) -> None:
    pipeline.swap(bundle)
    pipeline.start()
    until(lambda: not pipeline._thread.is_alive(), 20, "the end of the stream")


class LevelSource:
    """Windows of one value each: the model gives that value as their score."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.spec = SourceSpec(1000.0, 16, ("x",), ("g",))
        self.state, self.dropped = "running", 0
        self.levels = levels
        self.swap_at: dict[int, Callable[[], None]] = {}

    def windows(self, first: int) -> Iterator[Window]:
        for index, level in enumerate(self.levels):
            if index in self.swap_at:
                self.swap_at[index]()
            yield Window(np.full((16, 1), level, np.float32), float(index))
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


def alerts(spool: Spool) -> list[tuple[int, bool, str]]:
    held = [held.item for held in spool.peek(0, 10_000, ("alert",))]
    return [(item.window, item.raised, item.severity.value) for item in held if isinstance(item, Alert)]
