"""Which function does which effect of the update machine.

A release passes :mod:`wheeltapper_agent.update.obtaining` first and :mod:`wheeltapper_agent.update.running` after it;
this module builds the two and is the table between them and the updater.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.conditions import Unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.interruption import ExecutionWait
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Effect, Event
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.obtaining import Obtaining
from wheeltapper_agent.update.running import Running
from wheeltapper_agent.update.slots import Slots
from wheeltapper_agent.update.trials import Trials
from wheeltapper_agent.update.waiting import ConditionWait
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState, ShadowReport

__all__ = ["Effects"]

_LOG = logging.getLogger(__name__)


class Effects:
    """The effects, on the device's own folders and pipelines.

    Attributes:
        config: the section ``[update]``.
        obtaining: what happens before a release touches the pipelines.
        running: what the pipelines run, and how that changes.
        wait: how long effects wait; its ``interrupted`` is set by the updater.
        report: takes reports that an effect makes while it goes on. The updater sets it.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        slots: Slots,
        blobs: BlobStore,
        metadata: MetadataClient,
        config: UpdateConfig,
        profile: Profile,
        clock: Clock,
        floors: FloorStore,
        metered: Callable[[], bool | None] | None = None,
    ) -> None:
        self.config = config
        self.report: Callable[[ExecutionReport | ShadowReport], None] = lambda _body: None
        self.wait = ExecutionWait(clock)
        conditions = ConditionWait(
            config,
            slots.folder,
            clock,
            self.wait,
            lambda: floors.current.newest_time_seconds,
            self._report_waiting,
            metered,
        )
        trials = Trials(pipelines, config, clock, self.wait, self._report_waiting)
        self.running = Running(pipelines, slots, profile, floors, trials, conditions)
        self.obtaining = Obtaining(
            pipelines, slots, blobs, metadata, config, profile, floors, self.wait, conditions, self.running
        )

    def do(self, effect: Effect, execution: Execution, now_seconds: float) -> EffectResult:
        """Do ``effect`` for ``execution``, and say which event it led to.

        Args:
            effect: of the state that was entered.
            execution: as journalled.
            now_seconds: Unix time to judge the metadata's expiry by.

        Raises:
            Interrupted: the effect stopped early.
            AgentError, ProtocolError: the effect failed.
        """
        match effect:
            case Effect.ACCEPT:
                return self.obtaining.accept(execution)
            case Effect.AWAIT_CONDITIONS:
                return self.obtaining.await_conditions(execution)
            case Effect.FETCH:
                return self.obtaining.fetch(execution, now_seconds)
            case Effect.VERIFY_AND_STAGE:
                return self.obtaining.verify_and_stage(execution)
            case Effect.BEGIN_SELF_TEST:  # STAGED is only a state to be seen and resumed in
                return EffectResult(Event.TEST_STARTED)
            case Effect.SELF_TEST:
                return self.obtaining.self_test(execution)
            case Effect.SHADOW:
                return self.running.shadow(execution, self.report)
            case Effect.ACTIVATE:
                return self.running.activate(execution)
            case Effect.OBSERVE:
                return self.running.observe(execution)
            case Effect.ROLL_BACK:
                return self.running.roll_back(execution)
            case Effect.FINISH:
                raise AgentError("update.internal", "FINISH leads to no event")

    def finish(self, keep_fetched: bool = False) -> None:
        """Clean up after an execution.

        Args:
            keep_fetched: keep the files that were fetched, since the next execution may need them.
        """
        self.running.clean_up()
        if not keep_fetched:
            self.obtaining.drop_fetched()

    def _report_waiting(self, execution: Execution, unmet: Unmet) -> None:
        """Report which condition ``execution`` waits for."""
        _LOG.info("execution %s: waits: %s [%s]", execution.id, unmet.detail, unmet.code)
        state = ExecutionState(execution.state)
        self.report(
            ExecutionReport(execution=execution.id, state=state, code=unmet.code, detail=brief(unmet.detail, 1000))
        )
