"""The two trials of a new release on live windows: the shadow run before it is active, and probation after.

Invariants:
    * A first release has nothing to run beside and passes the shadow run.
    * The statistical rules of probation are asked once, at its end.
    * The time that a trial may take follows from the pace of the source (:mod:`wheeltapper_agent.update.trial_time`).
    * What a source does (it gives windows seldom, none at all, or incomplete ones) says nothing of a release: the trial
      waits and says what for. It ends all the same, at the latest by the execution's deadline or after
      ``probation_wait_seconds``.
    * A release that scored fewer windows than the rules ask for is never healthy.

What this module does not do: the statistics (:mod:`wheeltapper_agent.update.comparison`,
:mod:`wheeltapper_agent.update.probation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.pipeline.pipeline import Health, Pipeline
from wheeltapper_agent.update.conditions import Unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.interruption import POLL_SECONDS, ExecutionWait
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event
from wheeltapper_agent.update.probation import LEAST_CALLS, WindowStatistics, judge, shift_in_spreads
from wheeltapper_agent.update.score_history import ScoreHistory
from wheeltapper_agent.update.shadow import Shadow
from wheeltapper_agent.update.trial_time import deadline_left_seconds, probation_seconds, shadow_seconds, waits_for
from wheeltapper_protocols.wire.messages import ShadowReport

__all__ = ["Trials"]

_ENDED: Final = "ended"
_CALLS_SECONDS: Final = 5.0
"""How long probation waits for more calls of the model, where its windows came in one or two batches only."""


@dataclass(frozen=True, slots=True)
class _ShadowRun:
    """One pipeline's shadow run: how many windows it shall score, and the share in which both must decide the same."""

    pipeline: Pipeline
    shadow: Shadow
    windows: int
    min_agreement: float


class Trials:
    """The trials of one device's pipelines. Keeps the last scores of every pipeline, to measure against.

    Args:
        pipelines: by name; each gets an observer that keeps its last scores.
        config: windows, time-outs and limits of the trials.
        clock: time.
        wait: how to wait.
        report_waiting: called with the execution and what it waits for, whenever that changes.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        config: UpdateConfig,
        clock: Clock,
        wait: ExecutionWait,
        report_waiting: Callable[[Execution, Unmet], None] = lambda _execution, _unmet: None,
    ) -> None:
        self._pipelines = pipelines
        self._config = config
        self._rules = config.rules()
        self._clock = clock
        self._wait = wait
        self._report_waiting = report_waiting
        self._histories = {name: ScoreHistory() for name in pipelines}
        for name, history in self._histories.items():
            pipelines[name].add_observer(history)

    def baseline(self, names: Mapping[str, object]) -> dict[str, WindowStatistics]:
        """By pipeline of ``names``: statistics of the last windows of the release that runs, where it scored any."""
        found = {name: self._histories[name].statistics() for name in names if name in self._histories}
        return {name: statistics for name, statistics in found.items() if statistics.windows}

    # --- shadow -------------------------------------------------------------------------------------------------------

    def shadow(
        self, execution: Execution, bundles: Mapping[str, Bundle], report: Callable[[ShadowReport], None]
    ) -> EffectResult:
        """Let new releases score the live windows beside the active ones.

        Args:
            execution: the one that brings them.
            bundles: the new releases, by pipeline.
            report: takes the comparison of each pipeline.

        Returns:
            SHADOWED; or REFUSED with ``shadow.disagrees`` or ``shadow.too_few``, where an agreement is asked for.

        Raises:
            Interrupted: the execution shall end.
        """
        runs = self._shadow_runs(bundles)
        if not runs:
            return EffectResult(Event.SHADOWED)
        try:
            for run in runs:
                run.shadow.start()
                run.pipeline.add_observer(run.shadow)
            self._until_shadowed(execution, runs)
        finally:
            for run in runs:
                run.pipeline.remove_observer(run.shadow)
                run.shadow.stop()
        refused: EffectResult | None = None
        metrics: dict[str, float] = {}
        for run in runs:
            name = run.pipeline.name
            code, detail = _shadow_verdict(run.shadow.report(execution.id, name), run.windows, run.min_agreement)
            found = run.shadow.report(execution.id, name, code)
            report(found)
            metrics = metrics or {"shadow_windows": float(found.windows), "shadow_skipped": float(found.skipped)}
            if code in ("shadow.disagrees", "shadow.too_few") and refused is None:
                refused = EffectResult(Event.REFUSED, code, f"{name}: {detail}")
        return refused or EffectResult(Event.SHADOWED, metrics=metrics)

    def _shadow_runs(self, bundles: Mapping[str, Bundle]) -> list[_ShadowRun]:
        """The shadow runs that configuration and manifests ask for; none beside a pipeline that runs no release."""
        runs = []
        for name, bundle in bundles.items():
            pipeline, manifest_asks = self._pipelines[name], bundle.manifest.shadow
            windows = max(self._config.shadow_windows, manifest_asks.windows if manifest_asks else 0)
            min_agreement = self._config.shadow_min_agreement
            if manifest_asks:
                min_agreement = max(min_agreement, manifest_asks.min_agreement)
            if windows and pipeline.status().release is not None:
                shadow = Shadow(pipeline.baseline.preview(bundle), windows, self._config.shadow_max_load, self._clock)
                runs.append(_ShadowRun(pipeline, shadow, windows, min_agreement))
        return runs

    def _until_shadowed(self, execution: Execution, runs: Sequence[_ShadowRun]) -> None:
        """Wait until every run has its windows, its source ended, or the time is over.

        Where an agreement is asked for, too few windows would refuse the release: then a source that gives none is
        waited for until the deadline.
        """
        began, said = self._clock.monotonic(), set[str]()
        while True:
            missing = [run for run in runs if not (run.shadow.done.is_set() or run.pipeline.source_state == _ENDED)]
            if not missing:
                return
            run, passed = missing[0], self._clock.monotonic() - began
            timeout, interval = self._config.shadow_timeout_seconds, run.pipeline.window_seconds
            allowed = shadow_seconds(timeout, run.windows, interval, deadline_left_seconds(execution))
            short = run.shadow.offered < run.windows
            if passed >= allowed and not (run.min_agreement and short):
                return
            if short:
                self._say(execution, said, run.pipeline, passed, timeout, run.shadow.offered, run.windows)
            self._wait.for_seconds(execution, POLL_SECONDS)

    def _say(
        self,
        execution: Execution,
        said: set[str],
        pipeline: Pipeline,
        passed: float,
        timeout: float,
        have: int,
        wanted: int,
    ) -> None:
        """Report what ``execution`` waits for, each reason once in a trial; ``said`` remembers them."""
        trouble, interval = pipeline.trouble, pipeline.window_seconds
        state = trouble.code if trouble is not None else pipeline.source_state
        kind, why = waits_for(passed, timeout, wanted - have, interval, state)
        reason = f"{pipeline.name} {kind}"
        if kind and reason not in said:
            said.add(reason)
            detail = f"{pipeline.name} has {have} of {wanted} windows: {why}"
            self._report_waiting(execution, Unmet("update.waiting_windows", detail))

    # --- probation ----------------------------------------------------------------------------------------------------

    def observe(self, execution: Execution) -> EffectResult:
        """Wait until every pipeline scored enough windows with its new release, or one of them failed; then judge.

        Returns:
            HEALTHY; or BROKE with the code of an error of the pipeline, ``probation.timeout``, or the code of the rule
            that a release broke.

        Raises:
            Interrupted: the agent stops.
        """
        began, said = self._clock.monotonic(), set[str]()
        needed = min(self._rules.new_windows, self._config.probation_windows)
        enough_at: float | None = None
        pipelines = [self._pipelines[name] for name in execution.targets]
        while True:
            finished = [pipeline.finished for pipeline in pipelines]  # read first: no window comes after that
            health = [pipeline.health() for pipeline in pipelines]
            if broke := _broken(pipelines, health, finished, needed):
                return broke
            waiting = [
                (pipeline, state.windows)
                for pipeline, state, ended in zip(pipelines, health, finished, strict=True)
                if state.windows < self._config.probation_windows and not ended
            ]
            now = self._clock.monotonic()
            if not waiting:
                enough_at = now if enough_at is None else enough_at
                few_calls = any(state.calls < min(LEAST_CALLS, state.windows) for state in health)
                if not few_calls or all(finished) or now - enough_at >= _CALLS_SECONDS:
                    return self._judged(execution, float(min(state.windows for state in health)))
            else:
                pipeline, have = waiting[0]
                wanted, passed = self._config.probation_windows, now - began
                timeout = self._config.probation_timeout_seconds
                allowed = probation_seconds(
                    timeout,
                    self._config.probation_wait_seconds,
                    wanted,
                    pipeline.window_seconds,
                    deadline_left_seconds(execution),
                )
                if passed > allowed:
                    text = f"{pipeline.name} scored {have} of {wanted} windows in {allowed:g} s"
                    return EffectResult(Event.BROKE, "probation.timeout", text)
                self._say(execution, said, pipeline, passed, timeout, have, wanted)
            self._wait.for_seconds(execution, POLL_SECONDS)

    def _judged(self, execution: Execution, windows: float) -> EffectResult:
        """Ask the statistical rules; ``windows`` is the least number of windows that a pipeline scored."""
        metrics = {"windows": windows}
        for name, target in execution.targets.items():
            new, old = self._histories[name].statistics(target.model, target.release), execution.baseline.get(name)
            budget = self._pipelines[name].budget_p95_ms
            if len(execution.targets) == 1 and new.windows:
                metrics |= _metrics(old, new, self._rules.least_spread)
            if budget is not None and (unhealthy := judge(self._rules, old, new, budget)) is not None:
                return EffectResult(Event.BROKE, unhealthy.code, f"{name}: {unhealthy.detail}", metrics)
        return EffectResult(Event.HEALTHY, metrics=metrics)


def _broken(
    pipelines: Sequence[Pipeline], health: Sequence[Health], finished: Sequence[bool], needed: int
) -> EffectResult | None:
    """What ends probation at once: an error of the model, no model at all, a source that ended too soon."""
    for pipeline, state, ended in zip(pipelines, health, finished, strict=True):
        if state.error:
            return EffectResult(Event.BROKE, state.error, "the new model could not score a live window")
        if pipeline.bundle is None:
            text = f"{pipeline.name} runs no model: the release does not fit its source"
            return EffectResult(Event.BROKE, pipeline.no_model_code or "probation.not_active", text)
        if ended and state.windows < needed:
            text = f"the source of {pipeline.name} ended after {state.windows} windows; {needed} are needed"
            return EffectResult(Event.BROKE, "probation.timeout", text)
    return None


def _metrics(old: WindowStatistics | None, new: WindowStatistics, least_spread: float) -> dict[str, float]:
    found = {"score_median": new.score_median, "alerts": float(new.alerts), "latency_p95_ms": new.latency_p95_ms}
    if old is not None and old.windows:
        found["score_shift"] = shift_in_spreads(old, new, least_spread)
    return found


def _shadow_verdict(found: ShadowReport, windows: int, min_agreement: float) -> tuple[str, str]:
    """The code and the reason of a shadow run; both empty where it passed.

    Args:
        found: the comparison.
        windows: how many it should have scored.
        min_agreement: share of windows (0 to 1) in which both releases must decide the same; 0: it is only reported.
    """
    agreement = (found.agreement or 0.0) * found.windows / max(1, found.windows + found.failed)
    if found.windows + found.failed < windows:
        if min_agreement:
            return "shadow.too_few", f"{found.windows} of {windows} windows were scored beside the active release"
        return "shadow.timeout", ""
    if agreement < min_agreement:
        return (
            "shadow.disagrees",
            f"both decide the same in {agreement:.0%} of the windows; {min_agreement:.0%} are needed",
        )
    return "", ""
