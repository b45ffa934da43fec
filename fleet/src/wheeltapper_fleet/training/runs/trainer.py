"""A trainer: takes queued runs of a service, one at a time, executes each in a process of its own, brings the bundle.

Invariants:
    * The service hears of a run at least every few seconds; what it takes back is killed.
    * A bundle that was made is brought however long the service is away, unless the run was taken back meanwhile.
    * A trainer that is told to stop gives its run back. One that dies says nothing: the service queues the run again
      after a minute.
    * The token is not in the environment of the process that trains.

What this module does not do: sign or publish. A bundle in the service's store is a candidate, which no device takes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.child import MODULE
from wheeltapper_fleet.training.runs.execution import Execution
from wheeltapper_fleet.training.runs.folder import RunFolder, Task
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, decode_manifest

__all__ = ["Trainer"]

_LOG: Final = logging.getLogger(__name__)
_HEARTBEAT_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_KEPT_FOLDERS: Final = 20
"""Folders of runs that failed, with their logs; the oldest go first."""
_LOST: Final = ("run.lost", "run.not_found")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Executes runs of one service.

    Args:
        client: of the service.
        name: of this trainer.
        folder: where folders of runs are.
        recipes: the names of the recipes that are installed here.
        store: where datasets are; empty: where the service says.
        executor: ``local`` or ``ray``: where trials of searches run.
        stopping: is set when the trainer is to end.
        say: is told what happens, for people.
    """

    client: FleetClient
    name: str
    folder: Path
    recipes: tuple[str, ...]
    store: str
    executor: str
    stopping: threading.Event
    say: Callable[[str], None]

    def work(self, every_seconds: float, once: bool) -> str | None:
        """Take runs until it is told to stop; with ``once`` one run at most.

        Args:
            every_seconds: between two questions for work.
            once: end after one run, or at once where none is queued.

        Returns:
            The state in which the last run ended; None: there was none.
        """
        last: str | None = None
        while not self.stopping.is_set():
            claim = self._claim(once)
            if claim is not None:
                last = self._taken(claim["run"], str(claim["datasets_url"]))
            if once:
                return last
            if claim is None:
                self.stopping.wait(every_seconds)
        return last

    def _claim(self, once: bool) -> dict[str, Any] | None:
        """The next run; None: there is none, or the service does not answer, which is tried again.

        Raises:
            FleetError: the service refuses, or with ``once`` it does not answer.
        """
        try:
            claim = self.client.claim_run(self.name, self.recipes)
        except FleetError as error:
            if once or not _passing(error):
                raise
            self.say(f"the service does not answer: {error.message}")
            self.stopping.wait(_AGAIN_SECONDS[-2])
            return None
        return None if claim["run"] is None else claim

    def _taken(self, run: dict[str, Any], datasets_url: str) -> str:
        """Execute a run; where this computer cannot, give it back before this trainer ends.

        Raises:
            TrainingError: ``run.io``: the folder cannot be written.
        """
        try:
            return self._execute(run, datasets_url)
        except OSError as error:
            why = f"{run['id']} is given back, because {self.folder} cannot be written: {error.strerror or error}"
            folder = RunFolder(self.folder / run["id"])
            claimed = _Claimed(self.client, run["id"], int(run["attempt"]), folder, self.say)
            with contextlib.suppress(FleetError):  # the service hears by silence that this trainer is gone
                claimed.finish(Outcome(state=State.QUEUED), self.stopping)
            raise TrainingError("run.io", f"{why}; make room, and start the trainer again", 500) from error

    def _execute(self, run: dict[str, Any], datasets_url: str) -> str:
        """Execute a claimed run and say how it ended; returns the state."""
        folder = RunFolder(self.folder / run["id"])
        claimed = _Claimed(self.client, run["id"], int(run["attempt"]), folder, self.say)
        self.say(f"{run['id']}: {run['recipe']} for {run['model']} on {run['dataset']}")
        with claimed.heartbeats():
            if not folder.succeeded():  # else a trainer died here after it had made the bundle
                folder.begin(self._task(run, datasets_url))
                if run["against"] is not None:
                    try:
                        fetched = claimed.fetch_champion(str(run["model"]), int(run["against"]), self.stopping)
                    except FleetError as error:
                        return self._failed(claimed, run["id"], error)
                    if not fetched:
                        return self._taken_back(run["id"], folder)
                with Execution(folder, MODULE) as execution:
                    while not execution.wait(0.2) and not claimed.lost.is_set() and not self.stopping.is_set():
                        pass
                    ended = execution.wait(0)
                if claimed.lost.is_set():
                    return self._taken_back(run["id"], folder)
                if not ended:
                    claimed.finish(Outcome(state=State.QUEUED), self.stopping)
                    self.say(f"{run['id']}: given back, because this trainer stops")
                    return State.QUEUED
                outcome = execution.outcome()
            else:
                found = folder.outcome()
                assert found is not None
                outcome = found
            try:
                delivered = claimed.deliver(outcome, self.stopping)
            except FleetError as error:  # the service does not take it: that is how the run ended
                outcome = Outcome(state=State.FAILED, error_code=error.code, error_detail=error.message[:2000])
                delivered = claimed.finish(outcome, self.stopping)
            if not delivered:
                return self._taken_back(run["id"], folder)
        why = f": {outcome.error_detail} [{outcome.error_code}]" if outcome.error_code else ""
        self.say(f"{run['id']}: {outcome.state}{why}")
        self._tidy(folder, outcome)
        return outcome.state

    def _task(self, run: dict[str, Any], datasets_url: str) -> Task:
        return Task(
            run=run["id"],
            recipe=run["recipe_toml"],
            seed=run["seed"],
            dataset=run["dataset"],
            store=self.store or datasets_url,
            cause=f"{run['cause_kind']} {run['cause_id']}",
            executor=self.executor if "search" in tomllib.loads(run["recipe_toml"]) else "local",
            against=run["against"] is not None,
        )

    def _failed(self, claimed: _Claimed, run: str, error: FleetError) -> str:
        """End a run that cannot be executed."""
        claimed.finish(
            Outcome(state=State.FAILED, error_code=error.code, error_detail=error.message[:2000]), self.stopping
        )
        self.say(f"{run}: {State.FAILED}: {error.message} [{error.code}]")
        return State.FAILED

    def _taken_back(self, run: str, folder: RunFolder) -> str:
        self.say(f"{run}: it was cancelled, or another trainer has it")
        shutil.rmtree(folder.path, ignore_errors=True)
        return State.CANCELLED

    def _tidy(self, folder: RunFolder, outcome: Outcome) -> None:
        """What the service has is removed; of runs that failed, the newest stay for their logs."""
        if outcome.state is State.SUCCEEDED:
            shutil.rmtree(folder.path, ignore_errors=True)
        kept = sorted(self.folder.glob("r-*"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT_FOLDERS]:
            shutil.rmtree(path, ignore_errors=True)


class _Claimed:
    """A run that this trainer has: tells the service how it goes, and hears when it has it no longer."""

    def __init__(
        self, client: FleetClient, run: str, attempt: int, folder: RunFolder, say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._run = run
        self._attempt = attempt
        self._folder = folder
        self._say = say
        self._over = threading.Event()
        self.lost = threading.Event()

    def heartbeats(self) -> _Beating:
        """Heartbeats while the ``with`` statement lasts."""
        return _Beating(self._beat, self._over)

    def _beat(self) -> None:
        away = False
        while not self._over.wait(_HEARTBEAT_SECONDS):
            progress = self._folder.progress()
            try:
                self._client.report_progress(self._run, self._attempt, progress.done, progress.text)
                away = False
            except FleetError as error:
                if error.code in _LOST:
                    self.lost.set()
                    return
                if not away:
                    self._say(f"{self._run}: the service does not answer, training goes on: {error.message}")
                away = True

    def deliver(self, outcome: Outcome, stopping: threading.Event) -> bool:
        """Upload what was made and say how it ended; False: the run was taken back.

        Raises:
            FleetError: the service refuses it.
        """
        files = [] if outcome.state is not State.SUCCEEDED else _bundle_files(self._folder)
        for path in [*files, *self._folder.plot_files().values()]:
            sent = self._again(lambda path=path: self._put(path), stopping)  # type: ignore[misc]  # mypy: the default is of the loop
            if not sent:
                return False
        return self.finish(outcome, stopping)

    def fetch_champion(self, model: str, release: int, stopping: threading.Event) -> bool:
        """Fetch the release that the bundle must not be worse than; False: the run was taken back.

        Raises:
            FleetError: the service does not have it, or it is damaged.
        """
        shutil.rmtree(self._folder.champion, ignore_errors=True)
        return self._again(lambda: self._client.fetch_release_bundle(model, release, self._folder.champion), stopping)

    def finish(self, outcome: Outcome, stopping: threading.Event) -> bool:
        """Say how it ended; False: the run was taken back."""
        said = {name: value for name, value in msgspec.to_builtins(outcome).items() if value is not None}
        return self._again(lambda: self._client.finish_run(self._run, self._attempt, said), stopping)

    def _put(self, path: Path) -> None:
        from wheeltapper_fleet.training.runs.digests import file_digest

        with path.open("rb") as content:
            self._client.put_run_file(self._run, self._attempt, file_digest(path), content)

    def _again(self, call: Callable[[], object], stopping: threading.Event) -> bool:
        """Call until the service answers; False: the run was taken back."""
        for attempt in range(1_000_000):
            try:
                call()
            except FleetError as error:
                if error.code in _LOST:
                    return False
                if not _passing(error) or (stopping.is_set() and attempt >= 3):
                    raise
                self._say(f"{self._run}: {error.message}; it is tried again")
                stopping.wait(_AGAIN_SECONDS[min(attempt, len(_AGAIN_SECONDS) - 1)])
            else:
                return True
        return False


class _Beating:
    """A thread that lasts as long as a ``with`` statement."""

    def __init__(self, run: Callable[[], None], over: threading.Event) -> None:
        self._thread = threading.Thread(target=run, name="heartbeat", daemon=True)
        self._over = over

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _passing(error: FleetError) -> bool:
    """Whether it may go away by itself."""
    return error.status >= 500 or error.status == 429


def _bundle_files(folder: RunFolder) -> list[Path]:
    """The files of a bundle, the manifest last."""
    manifest = decode_manifest((folder.bundle / MANIFEST_FILE).read_bytes())
    return [*(folder.bundle / file.name for file in manifest.files), folder.bundle / MANIFEST_FILE]
