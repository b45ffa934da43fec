"""Where tasks of a run are executed: as processes of this computer, or on a Ray cluster.

Invariants:
    * The same tasks give the same outcomes whichever executor runs them, on processors of one kind.
    * What is not done at the deadline is ended; its folder then has no outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.execution import Execution
from wheeltapper_fleet.training.runs.folder import RunFolder

__all__ = ["Executor", "LocalExecutor", "make_executor"]

_LOOK_SECONDS = 0.1


class Executor(Protocol):
    """Executes tasks."""

    @property
    def host(self) -> str:
        """The address of this computer, where the processes of tasks reach it."""

    def run(self, folders: Sequence[RunFolder], deadline: float, tell: Callable[[], None]) -> None:
        """Execute the tasks of folders; each then has an outcome, unless the deadline came first.

        Args:
            folders: of the tasks.
            deadline: seconds of the monotonic clock.
            tell: is called when one of them ended.
        """

    def close(self) -> None:
        """Give back what it holds."""


class LocalExecutor:
    """Each task is a process here, ``workers`` of them at once."""

    host: Final = "127.0.0.1"

    def __init__(self, workers: int, module: str) -> None:
        self._workers, self._module = workers, module

    def run(self, folders: Sequence[RunFolder], deadline: float, tell: Callable[[], None]) -> None:
        """See :class:`Executor`."""
        waiting, under_way = [*folders], list[Execution]()
        try:
            while (waiting or under_way) and time.monotonic() < deadline:
                while waiting and len(under_way) < self._workers:
                    under_way.append(Execution(waiting.pop(0), self._module))
                under_way[0].wait(_LOOK_SECONDS)
                for execution in [each for each in under_way if each.wait(0)]:
                    execution.outcome()
                    under_way.remove(execution)
                    tell()
        finally:
            for execution in under_way:
                execution.kill()

    def close(self) -> None:
        """Nothing is held."""


def make_executor(name: str, workers: int, module: str) -> Executor:
    """The executor that is called so.

    Args:
        name: ``local`` or ``ray``.
        workers: so many tasks at once.
        module: the module that does a task (:class:`Execution`).

    Raises:
        TrainingError: ``run.executor``, ``ray.missing``, ``ray.unreachable``.
    """
    if name == "local":
        return LocalExecutor(workers, module)
    if name == "ray":
        from wheeltapper_fleet.training.runs.ray_executor import RayExecutor

        return RayExecutor(module)
    raise TrainingError("run.executor", f"there is no executor {name[:40]!r}; choose local or ray")
