"""The machine that a simulated device listens to: the scores of its windows, and its alerts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.draws import draw, normal
from wheeltapper_fleet.sim.faults import Alarm, Degrade, Fault
from wheeltapper_fleet.sim.spool import Spool
from wheeltapper_protocols.wire.messages import Alert, Reason, Severity, TelemetryRecord

__all__ = ["Machine"]

_ALARM_SCORE: Final = 1.4
_CRITICAL: Final = 2.0


class Machine:
    """One machine with a pipeline or several.

    Args:
        device: the name of its device.
        pipelines: their names.
        seed: of the simulation.
        faults: those of the device.
        started: Unix time of the simulation's start.
    """

    def __init__(
        self, device: str, pipelines: Sequence[str], seed: int, faults: Sequence[Fault], started: float
    ) -> None:
        self._device, self._pipelines, self._seed = device, pipelines, seed
        self._alarm = next((each for each in faults if isinstance(each, Alarm)), None)
        self._started = started
        self._usual = 0.2 + 0.2 * draw(seed, device, "usual score")
        self._latency_ms = 2.0 + 4.0 * draw(seed, device, "latency")
        self._raised = dict.fromkeys(pipelines, False)
        self._taken = 0
        self.windows = 0
        """Windows of each pipeline since the process began."""

    def restart(self, behaviour: Behaviour, now: float) -> None:
        """The process begins anew, and with it the count of its windows; none were taken while there was no process."""
        self.windows = 0
        self._taken = int((now - self._started) * behaviour.records_per_second)

    def produce(
        self,
        spool: Spool,
        behaviour: Behaviour,
        at: float,
        shift_seconds: float,
        running: Mapping[str, tuple[str, int]],
        degrade: Degrade | None,
    ) -> None:
        """Write the records of the ``batch_seconds`` that end at Unix time ``at``.

        Args:
            spool: where they go.
            behaviour: how many they are.
            at: Unix time.
            shift_seconds: by how much the device's clock is ahead.
            running: by pipeline, model and release.
            degrade: what the release makes worse.
        """
        since = (at - self._started) * behaviour.records_per_second
        count = int(since) - self._taken
        if count <= 0:
            return
        self._taken += count
        for pipeline in self._pipelines:
            model = running.get(pipeline)
            spool.add_telemetry(
                lambda first, pipeline=pipeline, model=model: [  # type: ignore[misc]  # bound now, not at the call
                    self._record(first + index, pipeline, model, index, at + shift_seconds, behaviour, degrade)
                    for index in range(count)
                ],
                at,
            )
            if model is not None:
                self._alert(spool, pipeline, model, at, shift_seconds)
        self.windows += count

    def _record(
        self,
        seq: int,
        pipeline: str,
        model: tuple[str, int] | None,
        index: int,
        at: float,
        behaviour: Behaviour,
        degrade: Degrade | None,
    ) -> TelemetryRecord:
        window = self.windows + index
        t_s = max(0.0, at - behaviour.batch_seconds + index / behaviour.records_per_second)
        if model is None:
            return TelemetryRecord(seq=seq, pipeline=pipeline, window=window, t_s=t_s)
        score = self._usual + 0.08 * normal(self._seed, self._device, pipeline, "score", seq)
        latency_ms = self._latency_ms * (0.9 + 0.2 * draw(self._seed, self._device, pipeline, "latency", seq))
        if degrade is not None:
            score, latency_ms = score + degrade.score_shift, latency_ms * degrade.latency_factor
        if self._raised[pipeline]:
            score += _ALARM_SCORE
        score = max(0.0, score)
        severity = Severity.CRITICAL if score >= _CRITICAL else Severity.WARNING if score >= 1 else Severity.NORMAL
        return TelemetryRecord(
            seq=seq,
            pipeline=pipeline,
            window=window,
            t_s=t_s,
            model=model[0],
            release=model[1],
            score=round(score, 4),
            severity=severity,
            latency_ms=round(latency_ms, 3),
        )

    def _alert(self, spool: Spool, pipeline: str, model: tuple[str, int], at: float, shift_seconds: float) -> None:
        """Raise or clear the alert of a pipeline, where the fault ``alarm`` begins or is over."""
        if self._alarm is None:
            return
        begun = at - self._started - self._alarm.after_seconds
        failing = begun >= 0 and (self._alarm.seconds is None or begun < self._alarm.seconds)
        if failing == self._raised[pipeline]:
            return
        self._raised[pipeline] = failing
        score = self._usual + (_ALARM_SCORE if failing else 0.0)
        when, window = max(0.0, at + shift_seconds), self.windows
        spool.add(
            lambda epoch, seq, oldest, after: Alert(
                epoch=epoch,
                seq=seq,
                oldest=oldest,
                after=after,
                pipeline=pipeline,
                window=window,
                t_s=when,
                at=when,
                model=model[0],
                release=model[1],
                score=round(score, 4),
                severity=Severity.WARNING if failing else Severity.NORMAL,
                raised=failing,
                reasons=[Reason(feature="horizontal.rms", value=2.1, usual=0.7, share=0.8)] if failing else [],
            ),
            at,
        )
