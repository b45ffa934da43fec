"""One training by several processes: each executes the recipe, and they fit its nets together (:mod:`crew`).

Invariants:
    * What comes out is what rank 0 made; all ranks have the same weights.
    * One that fails ends all; the first one's own reason is said, not that the others missed it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.crew import Meeting
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.executors import Executor
from wheeltapper_fleet.training.runs.folder import RunFolder, Task

__all__ = ["train_together"]

_LOOK_SECONDS: Final = 1.0
Say = Callable[[str, float | None], None]


def train_together(
    folder: RunFolder, task: Task, workers: int, executor: Executor, progress: Say
) -> tuple[RunFolder, Outcome]:
    """Train a task by several processes.

    Args:
        folder: the run's.
        task: what is to be done.
        workers: how many processes; the executor starts them all at once.
        executor: runs them.
        progress: is called with a few words and how far rank 0 is, where that process is one of this computer.

    Returns:
        The folder of rank 0, and its outcome.

    Raises:
        TrainingError: the reason of the process that failed; ``run.died``, ``ray.worker``, ``crew.lost``.
    """
    with Meeting(workers, executor.host) as meeting:
        made = []
        for rank in range(workers):
            each = RunFolder(folder.path / "workers" / f"{rank:02d}")
            shutil.rmtree(each.path, ignore_errors=True)
            each.begin(msgspec.structs.replace(task, executor="local", seat=meeting.seat(rank)))
            made.append(each)
        progress(f"{workers} workers train together", None)
        with _told(made[0], workers, progress):
            executor.run(made, float("inf"), lambda: None)
    outcomes = [each.outcome() for each in made]
    failed = [each for each in outcomes if each is None or each.state is not State.SUCCEEDED]
    if failed:
        failed.sort(key=lambda each: each is None or each.error_code == "crew.lost")
        first = failed[0]
        code, why = ("crew.lost", "a worker ended without a word") if first is None else (
            first.error_code or "run.died", first.error_detail or "",
        )  # fmt: skip
        raise TrainingError(code, why)
    assert outcomes[0] is not None  # it succeeded
    return made[0], outcomes[0]


@contextmanager
def _told(first: RunFolder, workers: int, progress: Say) -> Iterator[None]:
    """Say what rank 0 says, until the end."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            found = first.progress()
            if found.text:
                progress(f"{workers} workers: {found.text}", found.done)

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
