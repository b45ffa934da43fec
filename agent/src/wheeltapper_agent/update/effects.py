"""What the states of an execution do: wait, fetch, verify, stage, self-test, activate, observe, roll back.

Invariants: each effect may be done twice; nothing before ACTIVATE touches what the pipelines run; a manifest is
followed only after the director's assignment and the team's targets metadata agreed on it; no release below its model's
floor is begun or gone back to; a release that is distrusted (it is being given up) is not loaded at a start; none
scores windows that it was not made for; what a pipeline runs is what it has loaded, whatever a link says.

What this module does not do: conditions (:mod:`waiting`), shadow and probation (:mod:`trials`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import Bundle, check_input, load_bundle
from wheeltapper_agent.model.sandbox import try_candidate
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.conditions import Unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import Interrupted, Outcome, Patience
from wheeltapper_agent.update.floors import Marks, MarkStore
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Effect, Event
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.probation import Figures
from wheeltapper_agent.update.slots import Slots, slot_name
from wheeltapper_agent.update.trials import Trials
from wheeltapper_agent.update.waiting import Waiting
from wheeltapper_protocols.errors import ProtocolError, WireError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, Manifest, decode_manifest
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState, ShadowReport

__all__ = ["Effects", "Interrupted", "Outcome"]

_LOG = logging.getLogger(__name__)
_RETRY_CAP_SECONDS: Final = 30.0


class Effects:
    """The effects, on the device's own folders and pipelines."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        slots: Slots,
        blobs: BlobStore,
        metadata: MetadataClient,
        config: UpdateConfig,
        profile: Profile,
        clock: Clock,
        marks: MarkStore,
    ) -> None:
        self._pipelines = pipelines
        self._slots = slots
        self._blobs = blobs
        self._metadata = metadata
        self.config = config
        self._profile = profile
        self._marks = marks
        self._tested: dict[str, Bundle] = {}
        self._distrusted: set[str] = set()
        self._patience = Patience(clock)
        self._trials = Trials(pipelines, config, clock, self._patience)
        self._waiting = Waiting(config, slots.folder, clock, self._patience, lambda: marks.marks.newest_time_seconds)
        self.report: Callable[[ExecutionReport | ShadowReport], None] = lambda _body: None

    @property
    def interrupted(self) -> Callable[[Execution], bool]:
        """Says whether a long effect shall stop early."""
        return self._patience.interrupted

    @interrupted.setter
    def interrupted(self, asked: Callable[[Execution], bool]) -> None:
        self._patience.interrupted = asked

    def do(self, effect: Effect, execution: Execution, now_seconds: float) -> Outcome:
        """Do ``effect`` for ``execution``.

        Raises:
            Interrupted: it stopped early.
            AgentError, ProtocolError: it failed.
        """
        match effect:
            case Effect.ACCEPT:
                return self._accept(execution)
            case Effect.AWAIT_CONDITIONS:
                self._waiting.until_met(execution, self._say, make_room=self._drop_blobs)
                return Outcome(Event.CONDITIONS_MET)
            case Effect.FETCH:
                return self._fetch(execution, now_seconds)
            case Effect.VERIFY_AND_STAGE:
                return self._verify_and_stage(execution)
            case Effect.BEGIN_SELF_TEST:
                return Outcome(Event.TEST_STARTED)
            case Effect.SELF_TEST:
                return self._self_test(execution)
            case Effect.SHADOW:
                return self._shadow(execution)
            case Effect.ACTIVATE:
                return self._activate(execution)
            case Effect.OBSERVE:
                return self._observe(execution)
            case Effect.ROLL_BACK:
                return self._roll_back(execution)
            case Effect.FINISH:
                raise AgentError("update.internal", "FINISH leads to no event")

    def active(self, pipelines: Mapping[str, PipelineTarget]) -> dict[str, str | None]:
        """The slots of what ``pipelines`` run now."""
        return {name: self._running(name) for name in pipelines}

    def _running(self, name: str) -> str | None:
        bundle = self._pipelines[name].bundle
        if bundle is None:
            return None
        return f"{bundle.manifest.model}-{bundle.manifest.release}-{bundle.sha256[:8]}"

    def _runs(self, name: str, target: PipelineTarget) -> bool:
        """Whether the pipeline ``name`` runs these very bytes, and would after a restart."""
        bundle = self._pipelines[name].bundle
        return self._slots.active(name) == slot_name(target) and bundle is not None and bundle.sha256 == target.sha256

    def baseline(self, pipelines: Mapping[str, PipelineTarget]) -> dict[str, Figures]:
        """What the releases that ``pipelines`` run now came to."""
        return self._trials.baseline(pipelines)

    def distrust(self, execution: Execution) -> None:
        """Load none of the releases that ``execution`` brings, until the next one."""
        self._distrusted = {slot_name(target) for target in execution.targets.values()} - set(execution.before.values())

    def distrust_unfinished(self, execution: Execution) -> None:
        """Likewise, if ``execution`` failed with its release left active, since the disk refused the way back."""
        if self._unfinished(execution):
            self.distrust(execution)

    def finish_rolling_back(self, execution: Execution) -> None:
        """Try the way back that the disk refused once more, if one is left.

        Raises:
            AgentError: ``storage.*``, it refused again.
        """
        if self._unfinished(execution):
            self._roll_back(execution)
            self._distrusted.clear()

    def _unfinished(self, execution: Execution) -> bool:
        return execution.state == ExecutionState.FAILED.value and any(
            self._slots.active(name) == slot_name(target) != execution.before[name]
            for name, target in execution.targets.items()
            if name in execution.before
        )

    def load_active(self, name: str) -> None:
        """Make the pipeline ``name`` run its active slot; where that is damaged, the previous one; where it was made
        for other windows than the source gives by now, none."""
        self._load_first(name, (self._slots.active(name), self._slots.previous(name)))

    def _load_first(self, name: str, slots: tuple[str | None, ...]) -> None:
        no_model_code = ""
        for slot in slots:
            if slot is None or slot in self._distrusted:
                continue
            if slot != self._slots.active(name) and self._below_floor(slot):
                _LOG.error("pipeline %s: %s is below the floor [update.below_floor]", name, slot)
                continue
            try:
                self._pipelines[name].swap(self._load(name, slot))
            except (AgentError, ProtocolError) as error:
                _LOG.error("pipeline %s: %s cannot be run: %s", name, slot, error)
                no_model_code = no_model_code or error.code
                if error.code == "update.input_mismatch":  # the configuration changed; an older release is no answer
                    break
            else:
                _LOG.info("pipeline %s: runs %s", name, slot)
                return
        if no_model_code:
            self._pipelines[name].swap(None, no_model_code)

    def raise_floors(self, execution: Execution) -> None:
        """Take over the floors of the releases that ``execution`` committed. Done twice, it is as done once."""
        for target in execution.targets.values():
            try:
                manifest = decode_manifest((self._slots.path(slot_name(target)) / MANIFEST_FILE).read_bytes())
            except (OSError, WireError) as error:
                _LOG.error("floor of %s: its manifest cannot be read: %s", slot_name(target), error)
                continue
            if manifest.rollback_floor is not None:
                self._marks.rise(Marks(floors={manifest.model: manifest.rollback_floor}))

    def _below_floor(self, slot: str) -> bool:
        model, release, _ = slot.rsplit("-", 2)
        return int(release) < self._marks.marks.floors.get(model, 1)

    def finish(self, keep_fetched: bool = False) -> None:
        """Forget what no slot needs; ``keep_fetched``: but for what was fetched, which the next execution may need."""
        self._tested.clear()
        self._distrusted.clear()
        try:
            self._slots.collect_garbage(set())
        except OSError as error:
            _LOG.warning("slot.storage: cleaning up: %s", error)
        if not keep_fetched:
            self._drop_blobs()

    def _drop_blobs(self, needed: set[str] | None = None) -> None:
        """Remove what was fetched and is neither in a slot nor ``needed``."""
        try:
            self._blobs.collect_garbage(self._slots.hashes() | (needed or set()), partly=needed is not None)
        except OSError as error:
            _LOG.warning("slot.storage: cleaning up: %s", error)

    def _load(self, name: str, slot: str) -> Bundle:
        bundle = load_bundle(self._slots.path(slot), self._profile, slot.rpartition("-")[2]).without_golden()
        try:
            spec = self._pipelines[name].spec
        except AgentError as error:  # its source is not there yet: the pipeline looks when its first window comes
            _LOG.info("pipeline %s: %s waits for the source: %s", name, slot, error)
        else:
            check_input(bundle.manifest, spec)
        bundle.warm_up()
        return bundle

    def _accept(self, execution: Execution) -> Outcome:
        for name in execution.targets:
            if name not in self._pipelines:
                return Outcome(Event.REFUSED, "update.unknown_pipeline", f"this device has no pipeline {name}")
        for target in execution.targets.values():
            if self._below_floor(slot_name(target)):
                floor = self._marks.marks.floors[target.model]
                text = f"{target.model} {target.release} is below the rollback floor {floor}; assign {floor} or later"
                return Outcome(Event.REFUSED, "update.below_floor", text)
        if all(self._runs(name, target) for name, target in execution.targets.items()):
            return Outcome(Event.ALREADY_ACTIVE)
        return Outcome(Event.ACCEPTED)

    def _say(self, execution: Execution, missing: Unmet) -> None:
        """Report why ``execution`` waits."""
        _LOG.info("execution %s: waits: %s [%s]", execution.id, missing.detail, missing.code)
        state = ExecutionState(execution.state)
        detail = missing.detail[:1000]
        self.report(ExecutionReport(execution=execution.id, state=state, code=missing.code, detail=detail))

    def _fetch(self, execution: Execution, now_seconds: float) -> Outcome:
        """Fetch, again and again, until so many attempts in a row came no nearer than one before them."""
        idle, nearest_bytes = 0, self._blobs.gained_bytes
        while True:
            self._patience.check(execution)
            try:
                self._fetch_once(execution, now_seconds)
                return Outcome(Event.FETCHED)
            except WireError as error:
                return Outcome(Event.REFUSED, error.code, error.message)
            except AgentError as error:
                gained_bytes = self._blobs.gained_bytes
                broke_off = error.code in ("fetch.length", "fetch.unreachable")
                idle = 1 if broke_off and gained_bytes > nearest_bytes else idle + 1
                nearest_bytes = max(nearest_bytes, gained_bytes)
                _LOG.info("execution %s: attempt %d to fetch: %s", execution.id, idle, error)
                if idle >= self.config.fetch_attempts:
                    # Also a disagreement is asked again first: metadata may come through a cache that is behind.
                    event = Event.REFUSED if error.code.startswith("update.") else Event.FETCH_FAILED
                    return Outcome(event, error.code, error.message)
            delay = min(self.config.fetch_retry_seconds * 2 ** (idle - 1), _RETRY_CAP_SECONDS)
            self._patience.wait(execution, delay)

    def _fetch_once(self, execution: Execution, now_seconds: float) -> None:
        def pause(seconds: float) -> None:
            self._patience.wait(execution, seconds)

        self._waiting.until_met(execution, self._say)
        verified = self._metadata.refresh(now_seconds, pause)
        lengths: dict[str, int] = {}
        for target in execution.targets.values():
            verified.check_target(target)
            manifest = decode_manifest(self._blobs.fetch(target.sha256, target.length, pause).read_bytes())
            lengths |= {file.sha256: file.length for file in manifest.files}
        # What an execution that was superseded left is of use for this one, or of none.
        self._drop_blobs({target.sha256 for target in execution.targets.values()} | set(lengths))
        for sha256, length in lengths.items():
            need_bytes = sum(self._blobs.missing_bytes(*each) for each in lengths.items())
            if need_bytes:
                self._waiting.until_met(execution, self._say, need_bytes)
            self._blobs.fetch(sha256, length, pause)

    def _manifest(self, target: PipelineTarget) -> tuple[bytes, Manifest]:
        """The manifest of ``target``; the store checks length and hash again."""
        raw = self._blobs.fetch(target.sha256, target.length).read_bytes()
        manifest = decode_manifest(raw)
        if (manifest.model, manifest.release) != (target.model, target.release):
            text = f"{target.path} holds the manifest of {manifest.model} {manifest.release}"
            raise AgentError("update.wrong_release", text)
        return raw, manifest

    def _verify_and_stage(self, execution: Execution) -> Outcome:
        for name, target in execution.targets.items():
            raw, manifest = self._manifest(target)
            check_input(manifest, self._pipelines[name].spec)
            files: dict[str, Path] = {file.name: self._blobs.fetch(file.sha256, file.length) for file in manifest.files}
            self._slots.stage(slot_name(target), raw, files)
        return Outcome(Event.VERIFIED)

    def _self_test(self, execution: Execution) -> Outcome:
        metrics: dict[str, float] = {}
        for target in execution.targets.values():
            slot = slot_name(target)
            if slot not in self._tested:
                path, seconds = self._slots.path(slot), self.config.self_test_timeout_seconds
                digest = slot.rpartition("-")[2]
                tried = try_candidate(path, self._profile, digest, seconds, lambda: self.interrupted(execution))
                if tried is None:
                    raise Interrupted
                self._tested[slot] = tried[0]
                metrics |= tried[1]
        return Outcome(Event.TEST_PASSED, metrics=metrics)

    def _activate(self, execution: Execution) -> Outcome:
        bundles = {name: self._bundle(name, target) for name, target in execution.targets.items()}
        for name, target in execution.targets.items():
            ran = self._slots.active(name) == execution.before.get(name)
            self._slots.activate(name, slot_name(target), keep_previous=not ran)
            self._pipelines[name].swap(bundles[name])
        return Outcome(Event.ACTIVATED)

    def _bundle(self, name: str, target: PipelineTarget) -> Bundle:
        slot = slot_name(target)
        return self._tested.get(slot) or self._load(name, slot)

    def _shadow(self, execution: Execution) -> Outcome:
        bundles = {name: self._bundle(name, target) for name, target in execution.targets.items()}
        outcome = self._trials.shadow(execution, bundles, self.report)
        if outcome.event is Event.SHADOWED:  # the window may have closed since WAITING
            self._waiting.until_met(execution, self._say, fetching=False)
        return outcome

    def _observe(self, execution: Execution) -> Outcome:
        for name, target in execution.targets.items():
            if not self._runs(name, target):
                # A life before went back and could not journal it, or it could not be loaded any more.
                text = f"{name} does not run {slot_name(target)} but {self._running(name) or 'nothing'}"
                return Outcome(Event.BROKE, "probation.not_active", text)
        return self._trials.observe(execution)

    def _roll_back(self, execution: Execution) -> Outcome:
        failed: AgentError | None = None
        below: list[str] = []
        self.distrust(execution)
        for name, slot in execution.before.items():
            if name not in self._pipelines:
                continue
            back = slot
            if slot is not None and self._below_floor(slot):
                _LOG.error("pipeline %s: not back to %s, it is below the floor [update.below_floor]", name, slot)
                below.append(f"{name} does not go back to {slot}, which is below the floor")
                back = None
            try:
                self._slots.restore(name, back)
            except AgentError as error:
                failed = error
            self._pipelines[name].swap(None)
            self._load_first(name, (back, self._slots.previous(name)))
        if failed is not None:
            # What runs is the model of before, but a restart would take the other one.
            raise failed
        if below:
            text = f"{'; '.join(below)}; it went back for {execution.code or 'no code'}: {execution.detail}"
            return Outcome(Event.GIVE_UP, "update.below_floor", text)
        return Outcome(Event.RESTORED, execution.code, execution.detail)
