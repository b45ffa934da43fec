"""Executes tasks on a Ray cluster: that of ``RAY_ADDRESS``, or one of this computer. Needs the extra ``ray``.

A task goes to a worker as a value and its folder comes back as one, so workers share no disk with this computer. They
need the same packages, and reach the store of datasets by the same URL; recordings that a recipe names as files must be
at the same place on each.

Invariant: what a worker trains is a process of its own there, as on one computer.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.execution import Execution
from wheeltapper_fleet.training.runs.folder import RunFolder, Task

__all__ = ["RayExecutor"]

_LOOK_SECONDS: Final = 0.5
_LAST: Final = "outcome.json"


class RayExecutor:
    """See :class:`~wheeltapper_fleet.training.runs.executors.Executor`.

    Args:
        module: the module that does a task.

    Raises:
        TrainingError: ``ray.missing``, ``ray.unreachable``.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        try:
            import ray
        except ModuleNotFoundError as error:
            raise TrainingError("ray.missing", "install wheeltapper-fleet[ray] to execute trials on Ray") from error
        self._ray: Any = ray
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, ignore_reinit_error=True)
        except Exception as error:
            raise TrainingError(
                "ray.unreachable", f"no Ray cluster at {address or 'this computer'}: {error}"
            ) from error

    @property
    def host(self) -> str:
        """The address of this computer within the cluster."""
        return str(self._ray.util.get_node_ip_address())

    def run(self, folders: Sequence[RunFolder], deadline: float, tell: Callable[[], None]) -> None:
        """Execute the tasks, as many at once as the cluster has processors."""
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=0)(_executed)
        pending = {remote.remote(msgspec.json.encode(each.task()), self._module): each for each in folders}
        try:
            while pending and time.monotonic() < deadline:
                for done in ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS)[0]:
                    _take(ray, done, pending.pop(done))
                    tell()
        finally:
            for left in pending:
                ray.cancel(left, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


def _take(ray: Any, done: Any, folder: RunFolder) -> None:
    """Write what a worker made into the task's folder, its outcome last."""
    try:
        made: dict[str, bytes] = ray.get(done)
    except Exception as error:  # noqa: BLE001  # a worker that was lost ends its trial, not the search
        text = f"{type(error).__name__}: {error}"[:2000]
        folder.write_outcome(Outcome(state=State.FAILED, error_code="ray.worker", error_detail=text))
        return
    for name in sorted(made, key=lambda each: each == _LAST):
        path = folder.path / name
        files.make_folder(path.parent)
        files.write_atomic(path, made[name])


def _executed(task: bytes, module: str) -> dict[str, bytes]:
    """On a worker: do a task; the files of its folder by their names."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-run-") as place:
        folder = RunFolder(Path(place, "run"))
        folder.begin(msgspec.json.decode(task, type=Task))
        with Execution(folder, module) as execution:
            while not execution.wait(_LOOK_SECONDS):
                pass
            execution.outcome()
        return {
            path.relative_to(folder.path).as_posix(): path.read_bytes()
            for path in folder.path.rglob("*")
            if path.is_file() and path.name != "task.json"
        }
