"""The second half of a release's way: from a tested bundle to the release that a pipeline runs, or back.

The methods of :class:`Running` stand in the order in which a release passes them: load at the start of the agent,
shadow, activate, observe; then commit (floors rise) or roll back; then clean up. What comes before is in
:mod:`wheeltapper_agent.update.obtaining`.

Invariants:
    * Each effect may be done twice; twice is as once.
    * Nothing before :meth:`Running.activate` touches what the pipelines run.
    * What a pipeline runs is what it has loaded, whatever a link says.
    * No release below its model's rollback floor is gone back to.
    * A release that is being given up is excluded: it is not loaded at a start.
    * No release scores windows that it was not made for.

What this module does not do: shadow run and probation themselves (:mod:`~wheeltapper_agent.update.trials`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import Bundle, check_input, load_bundle
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import Floors, FloorStore
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event
from wheeltapper_agent.update.probation import WindowStatistics
from wheeltapper_agent.update.slots import Slots, model_and_release, slot_name
from wheeltapper_agent.update.trials import Trials
from wheeltapper_agent.update.waiting import ConditionWait
from wheeltapper_protocols.errors import ProtocolError, WireError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, decode_manifest
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState, ShadowReport

__all__ = ["Running"]

_LOG = logging.getLogger(__name__)


class Running:
    """Loads, tries, activates and takes back the releases of the device's pipelines.

    Args:
        pipelines: by name.
        slots: verified bundles, and the links that say which one each pipeline shall run.
        profile: of the board.
        floors: which releases may run.
        trials: shadow run and probation.
        conditions: waits for a maintenance window and mains power.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        slots: Slots,
        profile: Profile,
        floors: FloorStore,
        trials: Trials,
        conditions: ConditionWait,
    ) -> None:
        self._pipelines = pipelines
        self._slots = slots
        self._profile = profile
        self._floors = floors
        self._trials = trials
        self._conditions = conditions
        self._tested: dict[str, Bundle] = {}
        """By slot: bundles that passed their self-test in this life of the agent, still loaded."""
        self._excluded: set[str] = set()
        """Slots that are not loaded, since their release is being given up."""

    # --- what runs now ------------------------------------------------------------------------------------------------

    def runs(self, name: str, target: PipelineTarget) -> bool:
        """Whether the pipeline ``name`` runs the very bytes of ``target``, and would after a restart."""
        bundle = self._pipelines[name].bundle
        return self._slots.active(name) == slot_name(target) and bundle is not None and bundle.sha256 == target.sha256

    def running_slots(self, pipelines: Mapping[str, PipelineTarget]) -> dict[str, str | None]:
        """By pipeline: the slot of the release that runs now; None where none runs."""
        return {name: self._running_slot(name) for name in pipelines}

    def _running_slot(self, name: str) -> str | None:
        bundle = self._pipelines[name].bundle
        if bundle is None:
            return None
        return f"{bundle.manifest.model}-{bundle.manifest.release}-{bundle.sha256[:8]}"

    def baseline(self, pipelines: Mapping[str, PipelineTarget]) -> dict[str, WindowStatistics]:
        """By pipeline: statistics of the last windows of the release that runs now, where it scored any."""
        return self._trials.baseline(pipelines)

    def is_tested(self, slot: str) -> bool:
        """Whether the bundle in ``slot`` passed its self-test and is kept loaded."""
        return slot in self._tested

    def keep_tested(self, slot: str, bundle: Bundle) -> None:
        """Keep ``bundle``, which passed its self-test, loaded for the effects that follow."""
        self._tested[slot] = bundle

    # --- loading ------------------------------------------------------------------------------------------------------

    def load_active(self, name: str) -> None:
        """Make the pipeline ``name`` run its active slot. The service calls this once at the start of the agent.

        Where the active slot is damaged, the previous one is loaded. Where the release was made for other windows than
        the source gives by now, none is.
        """
        self._load_first(name, (self._slots.active(name), self._slots.previous(name)))

    def load_again(self, name: str) -> None:
        """Load the release of the pipeline ``name`` again, whose model hangs. May be called from any thread.

        What was swapped in meanwhile stays.

        Raises:
            AgentError, ProtocolError: it cannot be loaded.
        """
        slot = self._running_slot(name)
        if slot is not None:
            self._pipelines[name].swap(self._load(name, slot), for_hanging=True)

    def _load_first(self, name: str, slots: tuple[str | None, ...]) -> None:
        """Make the pipeline ``name`` run the first of ``slots`` that may be loaded and can be."""
        no_model_code = ""
        for slot in slots:
            if slot is None or slot in self._excluded:
                continue
            if slot != self._slots.active(name) and not self._floors.permits(*model_and_release(slot)):
                _LOG.error("pipeline %s: %s is below the rollback floor [update.below_floor]", name, slot)
                continue
            try:
                self._pipelines[name].swap(self._load(name, slot))
            except Exception as error:  # noqa: BLE001  # a runtime may raise anything; the other pipelines run
                code = error.code if isinstance(error, AgentError | ProtocolError) else "runtime.load"
                _LOG.error("pipeline %s: %s cannot be run: %s [%s]", name, slot, error, code)
                no_model_code = no_model_code or code
                if code == "update.input_mismatch":  # the configuration changed; an older release is no answer
                    break
            else:
                _LOG.info("pipeline %s: runs %s", name, slot)
                return
        if no_model_code:
            self._pipelines[name].swap(None, no_model_code)

    def _load(self, name: str, slot: str) -> Bundle:
        bundle = load_bundle(self._slots.path(slot), self._profile, slot.rpartition("-")[2]).without_golden()
        try:
            spec = self._pipelines[name].spec
        except AgentError as error:  # its source is not there yet: the pipeline checks when the first window comes
            _LOG.info("pipeline %s: %s waits for the source: %s", name, slot, error)
        else:
            check_input(bundle.manifest, spec)
        bundle.warm_up()
        return bundle

    def _tested_or_load(self, name: str, target: PipelineTarget) -> Bundle:
        slot = slot_name(target)
        return self._tested.get(slot) or self._load(name, slot)

    # --- SHADOW, ACTIVATING, PROBATION --------------------------------------------------------------------------------

    def shadow(self, execution: Execution, report: Callable[[ShadowReport], None]) -> EffectResult:
        """Let the new releases score live windows beside the active ones, then wait for the conditions to activate.

        Args:
            execution: whose releases run in shadow.
            report: takes the comparison of each pipeline.

        Raises:
            Interrupted: the execution shall end.
        """
        bundles = {name: self._tested_or_load(name, target) for name, target in execution.targets.items()}
        result = self._trials.shadow(execution, bundles, report)
        if result.event is Event.SHADOWED:  # the maintenance window may have closed since WAITING
            self._conditions.until_met(execution, fetching=False)
        return result

    def activate(self, execution: Execution) -> EffectResult:
        """Switch the links and hand the new models to the pipelines, which take them between two windows.

        Raises:
            AgentError: ``slot.missing``, ``storage.*``.
        """
        bundles = {name: self._tested_or_load(name, target) for name, target in execution.targets.items()}
        for name, target in execution.targets.items():
            ran = self._slots.active(name) == execution.before.get(name)
            self._slots.activate(name, slot_name(target), keep_previous=not ran)
            self._pipelines[name].swap(bundles[name])
        return EffectResult(Event.ACTIVATED)

    def observe(self, execution: Execution) -> EffectResult:
        """Probation: judge the first live windows of the new releases.

        Raises:
            Interrupted: the agent stops.
        """
        for name, target in execution.targets.items():
            if not self.runs(name, target):
                # An earlier life went back and could not journal it, or the release could not be loaded any more.
                text = f"{name} does not run {slot_name(target)} but {self._running_slot(name) or 'nothing'}"
                return EffectResult(Event.BROKE, "probation.not_active", text)
        return self._trials.observe(execution)

    # --- COMMITTED ----------------------------------------------------------------------------------------------------

    def raise_floors(self, execution: Execution) -> None:
        """Raise the rollback floors to those that the releases committed by ``execution`` ask for."""
        for target in execution.targets.values():
            try:
                manifest = decode_manifest((self._slots.path(slot_name(target)) / MANIFEST_FILE).read_bytes())
            except (OSError, WireError) as error:
                _LOG.error("the floor of %s is not raised, its manifest cannot be read: %s", slot_name(target), error)
                continue
            if manifest.rollback_floor is not None:
                self._floors.raise_to(Floors(rollback_floors={manifest.model: manifest.rollback_floor}))

    # --- ROLLING_BACK -------------------------------------------------------------------------------------------------

    def roll_back(self, execution: Execution) -> EffectResult:
        """Make every pipeline run what it ran before the activation, or nothing where that is below the floor.

        Raises:
            AgentError: ``storage.*``: the release of before runs, but a link still names the new one.
        """
        failed: AgentError | None = None
        below: list[str] = []
        self.exclude(execution)
        for name, slot in execution.before.items():
            if name not in self._pipelines:
                continue
            back = slot
            if slot is not None and not self._floors.permits(*model_and_release(slot)):
                _LOG.error(
                    "pipeline %s: does not go back to %s, it is below the floor [update.below_floor]", name, slot
                )
                below.append(f"{name} does not go back to {slot}, which is below the floor")
                back = None
            try:
                self._slots.restore(name, back)
            except AgentError as error:
                failed = error
            if self._running_slot(name) != back:  # it does where only the link is behind
                self._pipelines[name].swap(None)
                self._load_first(name, (back, self._slots.previous(name)))
        if failed is not None:
            # The release of before runs in memory, but a restart would load the other one.
            raise failed
        if below:
            text = f"{'; '.join(below)}; it went back for {execution.code or 'no code'}: {execution.detail}"
            return EffectResult(Event.GIVE_UP, "update.below_floor", text)
        return EffectResult(Event.RESTORED, execution.code, execution.detail)

    def exclude(self, execution: Execution) -> None:
        """Load none of the releases that ``execution`` brings, until an execution ends."""
        self._excluded = {slot_name(target) for target in execution.targets.values()} - set(execution.before.values())

    def exclude_if_unfinished(self, execution: Execution) -> None:
        """Exclude the releases of ``execution`` if it failed and the disk refused the way back."""
        if self._is_unfinished(execution):
            self.exclude(execution)

    def finish_rolling_back(self, execution: Execution) -> None:
        """Try again to roll back, if the disk refused it when ``execution`` failed; otherwise do nothing.

        Raises:
            AgentError: ``storage.*``, the disk refused again.
        """
        if self._is_unfinished(execution):
            self.roll_back(execution)
            self._excluded.clear()

    def _is_unfinished(self, execution: Execution) -> bool:
        return execution.state == ExecutionState.FAILED.value and any(
            self._slots.active(name) == slot_name(target) != execution.before[name]
            for name, target in execution.targets.items()
            if name in execution.before
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Forget what only the execution needed, and remove the slots that no link names."""
        self._tested.clear()
        self._excluded.clear()
        try:
            self._slots.collect_garbage()
        except OSError as error:
            _LOG.warning("slot.storage: slots that nothing needs cannot be removed: %s", error)
