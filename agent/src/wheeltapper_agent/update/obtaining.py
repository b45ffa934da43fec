"""The first half of a release's way: from the accepted assignment to a bundle on the disk that passed its self-test.

The methods of :class:`Obtaining` stand in the order in which a release passes them: accept, await the conditions,
fetch, verify and stage, self-test. What follows is in :mod:`wheeltapper_agent.update.running`.

Invariants:
    * Each effect may be done twice; twice is as once.
    * Nothing here touches what the pipelines run.
    * A manifest is followed only after the director's assignment and the team's targets metadata agreed on it.
    * No release below its model's rollback floor is begun.
    * No release is staged for a pipeline whose windows it was not made for.

What this module does not do: judge the conditions (:mod:`~wheeltapper_agent.update.waiting`), transfer bytes
(:mod:`~wheeltapper_agent.update.blobs`), change links (:mod:`~wheeltapper_agent.update.slots`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import check_input
from wheeltapper_agent.model.sandbox import try_candidate
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.interruption import ExecutionWait, Interrupted
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.running import Running
from wheeltapper_agent.update.slots import Slots, slot_name
from wheeltapper_agent.update.waiting import ConditionWait
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.wire.assignment import PipelineTarget

__all__ = ["Obtaining"]

_LOG = logging.getLogger(__name__)
_RETRY_CAP_SECONDS: Final = 30.0


class Obtaining:
    """Gets the releases of an execution onto the disk and proves that this board can run them.

    Args:
        pipelines: by name; their windows must fit the release.
        slots: where verified bundles lie.
        blobs: fetches files by their hash.
        metadata: the verified view of the TUF repository.
        config: attempts and time-outs.
        profile: of the board, for the self-test.
        floors: which releases may run.
        wait: how to wait inside a long effect.
        conditions: waits for window, power, network and room.
        running: knows what runs already, and takes the bundles that passed their self-test.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        slots: Slots,
        blobs: BlobStore,
        metadata: MetadataClient,
        config: UpdateConfig,
        profile: Profile,
        floors: FloorStore,
        wait: ExecutionWait,
        conditions: ConditionWait,
        running: Running,
    ) -> None:
        self._pipelines = pipelines
        self._slots = slots
        self._blobs = blobs
        self._metadata = metadata
        self.config = config
        self._profile = profile
        self._floors = floors
        self._wait = wait
        self._conditions = conditions
        self._running = running

    # --- ASSIGNED and WAITING -----------------------------------------------------------------------------------------

    def accept(self, execution: Execution) -> EffectResult:
        """Refuse what this device cannot or must not run; skip everything if the pipelines run these bytes already."""
        for name in execution.targets:
            if name not in self._pipelines:
                return EffectResult(Event.REFUSED, "update.unknown_pipeline", f"this device has no pipeline {name}")
        for target in execution.targets.values():
            if not self._floors.permits(target.model, target.release):
                floor = self._floors.current.rollback_floors[target.model]
                text = f"{target.model} {target.release} is below the rollback floor {floor}; assign {floor} or later"
                return EffectResult(Event.REFUSED, "update.below_floor", text)
        if all(self._running.runs(name, target) for name, target in execution.targets.items()):
            return EffectResult(Event.ALREADY_ACTIVE)
        return EffectResult(Event.ACCEPTED)

    def await_conditions(self, execution: Execution) -> EffectResult:
        """Wait for a maintenance window, mains power, an unmetered network and room on the disk.

        Raises:
            Interrupted: the execution shall end.
        """
        self._conditions.until_met(execution, make_room=self.drop_fetched)
        return EffectResult(Event.CONDITIONS_MET)

    # --- FETCHING -----------------------------------------------------------------------------------------------------

    def fetch(self, execution: Execution, now_seconds: float) -> EffectResult:
        """Fetch metadata, manifests and files, until everything is here or ``fetch_attempts`` in a row brought nothing.

        An attempt that broke off nearer to the end than every attempt before it counts as progress, and the counting
        begins anew.

        Args:
            execution: whose releases are fetched.
            now_seconds: Unix time to judge the metadata's expiry by.

        Raises:
            Interrupted: the execution shall end.
        """
        idle, nearest_bytes = 0, self._blobs.gained_bytes
        while True:
            self._wait.raise_if_interrupted(execution)
            try:
                self._fetch_once(execution, now_seconds)
                return EffectResult(Event.FETCHED)
            except WireError as error:
                return EffectResult(Event.REFUSED, error.code, error.message)
            except AgentError as error:
                gained_bytes = self._blobs.gained_bytes
                broke_off = error.code in ("fetch.length", "fetch.unreachable")
                idle = 1 if broke_off and gained_bytes > nearest_bytes else idle + 1
                nearest_bytes = max(nearest_bytes, gained_bytes)
                _LOG.info("execution %s: attempt %d to fetch failed: %s", execution.id, idle, error)
                if idle >= self.config.fetch_attempts:
                    # A disagreement is retried too: metadata may come through a cache that is behind.
                    event = Event.REFUSED if error.code.startswith("update.") else Event.FETCH_FAILED
                    return EffectResult(event, error.code, error.message)
            delay = min(self.config.fetch_retry_seconds * 2 ** (idle - 1), _RETRY_CAP_SECONDS)
            self._wait.for_seconds(execution, delay)

    def _fetch_once(self, execution: Execution, now_seconds: float) -> None:
        def sleep(seconds: float) -> None:
            self._wait.for_seconds(execution, seconds)

        self._conditions.until_met(execution)
        verified = self._metadata.refresh(now_seconds, sleep)
        lengths: dict[str, int] = {}
        for target in execution.targets.values():
            verified.check_target(target)
            manifest = decode_manifest(self._blobs.fetch(target.sha256, target.length, sleep).read_bytes())
            lengths |= {file.sha256: file.length for file in manifest.files}
        # Now it is known which files this release needs; what a superseded execution left beside them can go.
        self.drop_fetched({target.sha256 for target in execution.targets.values()} | set(lengths))
        for sha256, length in lengths.items():
            need_bytes = sum(self._blobs.missing_bytes(*each) for each in lengths.items())
            if need_bytes:
                self._conditions.until_met(execution, need_bytes)
            self._blobs.fetch(sha256, length, sleep)

    # --- VERIFYING and STAGED -----------------------------------------------------------------------------------------

    def verify_and_stage(self, execution: Execution) -> EffectResult:
        """Check manifest, files and input once more, and put each bundle into its slot by one rename.

        Raises:
            AgentError: ``update.wrong_release``, ``update.input_mismatch``, ``storage.*``.
            WireError: the manifest is malformed.
        """
        for name, target in execution.targets.items():
            raw, manifest = self._manifest(target)
            check_input(manifest, self._pipelines[name].spec)
            files: dict[str, Path] = {file.name: self._blobs.fetch(file.sha256, file.length) for file in manifest.files}
            self._slots.stage(slot_name(target), raw, files)
        return EffectResult(Event.VERIFIED)

    def _manifest(self, target: PipelineTarget) -> tuple[bytes, Manifest]:
        """The manifest of ``target``, as bytes and decoded; the blob store checks its length and hash again."""
        raw = self._blobs.fetch(target.sha256, target.length).read_bytes()
        manifest = decode_manifest(raw)
        if (manifest.model, manifest.release) != (target.model, target.release):
            text = f"{target.path} holds the manifest of {manifest.model} {manifest.release}"
            raise AgentError("update.wrong_release", text)
        return raw, manifest

    # --- SELF_TEST ----------------------------------------------------------------------------------------------------

    def self_test(self, execution: Execution) -> EffectResult:
        """Load each bundle and score its golden windows, first in a child process, which may crash or hang.

        A bundle that passed is kept loaded for the shadow run and the activation.

        Raises:
            Interrupted: the execution shall end.
            AgentError: a bundle failed; the code says at what.
        """
        metrics: dict[str, float] = {}
        for target in execution.targets.values():
            slot = slot_name(target)
            if not self._running.is_tested(slot):
                path, seconds = self._slots.path(slot), self.config.self_test_timeout_seconds
                digest = slot.rpartition("-")[2]
                tried = try_candidate(path, self._profile, digest, seconds, lambda: self._wait.interrupted(execution))
                if tried is None:
                    raise Interrupted
                self._running.keep_tested(slot, tried[0])
                metrics |= tried[1]
        return EffectResult(Event.TEST_PASSED, metrics=metrics)

    # --- the end ------------------------------------------------------------------------------------------------------

    def drop_fetched(self, needed: set[str] | None = None) -> None:
        """Remove the fetched files that are in no slot.

        Args:
            needed: hashes of files to keep, whole or in part; None: keep none.
        """
        try:
            self._blobs.collect_garbage(self._slots.file_hashes() | (needed or set()), keep_partial=needed is not None)
        except OSError as error:
            _LOG.warning("slot.storage: fetched files that nothing needs cannot be removed: %s", error)
