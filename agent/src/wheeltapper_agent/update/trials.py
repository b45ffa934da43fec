"""What a new release must show on live windows: the shadow run before it is active, probation after.

Invariants: a first release has nothing to run beside and passes the shadow; the statistical rules of probation are
asked once, at its end; a trial ends by its time-out whatever the source does; a release that scored fewer windows than
the rules ask for is never healthy.

What this module does not do: the statistics (:mod:`core.comparison`, :mod:`core.probation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import POLL_SECONDS, Outcome, Patience
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event
from wheeltapper_agent.update.probation import LEAST_CALLS, Figures, judge, shift_in_spreads
from wheeltapper_agent.update.score_history import Recent
from wheeltapper_agent.update.shadow import Shadow
from wheeltapper_protocols.wire.messages import ShadowReport

__all__ = ["Trials"]

_ENDED: Final = "ended"
_CALLS_SECONDS: Final = 5.0
"""How long probation waits for a few calls more where its windows came in one or two; a source may be seldom."""


class Trials:
    """The trials of one device's pipelines."""

    def __init__(
        self, pipelines: Mapping[str, Pipeline], config: UpdateConfig, clock: Clock, patience: Patience
    ) -> None:
        self._pipelines = pipelines
        self._config = config
        self._rules = config.rules()
        self._clock = clock
        self._patience = patience
        self._recent = {name: Recent() for name in pipelines}
        for name, recent in self._recent.items():
            pipelines[name].add_observer(recent)

    def baseline(self, names: Mapping[str, object]) -> dict[str, Figures]:
        """What the releases that the pipelines ``names`` run now came to, where they scored anything."""
        found = {name: self._recent[name].figures() for name in names if name in self._recent}
        return {name: figures for name, figures in found.items() if figures.windows}

    # --- shadow -------------------------------------------------------------------------------------------------------

    def shadow(
        self, execution: Execution, bundles: Mapping[str, Bundle], report: Callable[[ShadowReport], None]
    ) -> Outcome:
        """Run ``bundles``, by pipeline, beside what is active; report each comparison.

        Raises:
            Interrupted: somebody asked to stop.
        """
        shadows: dict[str, tuple[Shadow, int, float]] = {}
        for name, bundle in bundles.items():
            asked = bundle.manifest.shadow
            wanted = max(self._config.shadow_windows, asked.windows if asked else 0)
            least = max(self._config.shadow_min_agreement, asked.min_agreement if asked else 0.0)
            if wanted and self._pipelines[name].status().release is not None:
                shadow = Shadow(bundle, wanted, self._config.shadow_max_load, self._clock)
                shadows[name] = (shadow, wanted, least)
        if not shadows:
            return Outcome(Event.SHADOWED)
        try:
            for name, (shadow, _, _) in shadows.items():
                shadow.start()
                self._pipelines[name].add_observer(shadow)
            self._until_shadowed(execution, shadows)
        finally:
            for name, (shadow, _, _) in shadows.items():
                self._pipelines[name].remove_observer(shadow)
                shadow.stop()
        refused: Outcome | None = None
        metrics: dict[str, float] = {}
        for name, (shadow, wanted, least) in shadows.items():
            code, detail = _verdict(shadow.report(execution.id, name), wanted, least)
            found = shadow.report(execution.id, name, code)
            report(found)
            metrics = metrics or {"shadow_windows": float(found.windows), "shadow_skipped": float(found.skipped)}
            if code in ("shadow.disagrees", "shadow.too_few") and refused is None:
                refused = Outcome(Event.REFUSED, code, f"{name}: {detail}")
        return refused or Outcome(Event.SHADOWED, metrics=metrics)

    def _until_shadowed(self, execution: Execution, shadows: Mapping[str, tuple[Shadow, int, float]]) -> None:
        deadline = self._clock.monotonic() + self._config.shadow_timeout_seconds
        while self._clock.monotonic() < deadline:
            if all(
                shadow.done.is_set() or self._pipelines[name].source_state == _ENDED
                for name, (shadow, _, _) in shadows.items()
            ):
                return
            self._patience.wait(execution, POLL_SECONDS)

    # --- probation ----------------------------------------------------------------------------------------------------

    def observe(self, execution: Execution) -> Outcome:
        """Wait until every pipeline scored enough windows with the new model, or one of them failed; then judge.

        Raises:
            Interrupted: somebody asked to stop.
        """
        deadline = self._clock.monotonic() + self._config.probation_timeout_seconds
        least = min(self._rules.new_windows, self._config.probation_windows)
        enough_at: float | None = None
        pipelines = [self._pipelines[name] for name in execution.targets]
        while True:
            over = [pipeline.finished for pipeline in pipelines]  # first: no window comes after that
            health = [pipeline.health() for pipeline in pipelines]
            errors = [state.error for state in health if state.error]
            if errors:
                return Outcome(Event.BROKE, errors[0], "the new model could not score a live window")
            waiting = []
            for pipeline, state, ended in zip(pipelines, health, over, strict=True):
                if ended and state.windows < least:
                    text = f"the source of {pipeline.name} ended after {state.windows} of at least {least} windows"
                    return Outcome(Event.BROKE, "probation.timeout", text)
                if state.windows < self._config.probation_windows and not ended:
                    waiting.append(pipeline)
            now = self._clock.monotonic()
            if not waiting:
                enough_at = now if enough_at is None else enough_at
                few = any(state.calls < min(LEAST_CALLS, state.windows) for state in health)
                if not few or all(over) or now - enough_at >= _CALLS_SECONDS:
                    return self._judged(execution, float(min(state.windows for state in health)))
            elif now > deadline:
                text = f"{waiting[0].name} did not score {self._config.probation_windows} windows in time"
                return Outcome(Event.BROKE, "probation.timeout", text)
            self._patience.wait(execution, POLL_SECONDS)

    def _judged(self, execution: Execution, windows: float) -> Outcome:
        metrics = {"windows": windows}
        for name, target in execution.targets.items():
            new, old = self._recent[name].figures(target.model, target.release), execution.baseline.get(name)
            budget = self._pipelines[name].budget_p95_ms
            if len(execution.targets) == 1 and new.windows:
                metrics |= _metrics(old, new, self._rules.least_spread)
            if budget is not None and (sick := judge(self._rules, old, new, budget)) is not None:
                return Outcome(Event.BROKE, sick.code, f"{name}: {sick.detail}", metrics)
        return Outcome(Event.HEALTHY, metrics=metrics)


def _metrics(old: Figures | None, new: Figures, least_spread: float) -> dict[str, float]:
    found = {"score_median": new.score_median, "alerts": float(new.alerts), "latency_p95_ms": new.latency_p95_ms}
    if old is not None and old.windows:
        found["score_shift"] = shift_in_spreads(old, new, least_spread)
    return found


def _verdict(found: ShadowReport, wanted: int, least: float) -> tuple[str, str]:
    """The code and why, of a shadow run that should score ``wanted`` windows and agree in ``least`` of them."""
    agreement = (found.agreement or 0.0) * found.windows / max(1, found.windows + found.failed)
    if found.windows + found.failed < wanted:
        if least:
            return "shadow.too_few", f"{found.windows} of {wanted} windows were scored beside the active release"
        return "shadow.timeout", ""
    if agreement < least:
        return "shadow.disagrees", f"both decide the same in {agreement:.0%} of the windows; {least:.0%} are asked for"
    return "", ""
