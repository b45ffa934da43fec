"""The kind ``simulator``: a rolling bearing on a shaft, with an accelerometer on two axes.

What is modelled: shaft harmonics (unbalance, misalignment) whose strength follows the load; slow changes of speed and
load; broadband noise; a structural resonance that is excited by an impact each time a rolling element passes a defect,
at BPFO, BPFI or twice BSF, computed from the bearing's geometry, with slip (jitter of the interval). The impacts become
stronger from onset to failure. Impacts on the inner race are modulated by the shaft, those on a ball by the cage.

Source: Randall and Antoni, "Rolling element bearing diagnostics—A tutorial", MSSP 25 (2011), equations 1 to 4.

Invariants:
    * Window ``i`` of machine time is the same for the same seed, whenever it is asked for; with ``wear_from = "model"``
      only before the first release.
    * Machine time runs on while the agent is down: a restart neither heals the bearing nor repeats a moment.
    * The wall clock is read once, at the start: a jump of it neither stops nor hurries the machine.
    * Windows that a late pipeline missed are counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.bounds import Bounds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.source.base import SourceContext, SourceKind, SourceSpec, Window
from wheeltapper_protocols.decision.bearing import Bearing

__all__ = ["KIND", "Bearing", "Machine", "SimulatorConfig", "SimulatorSource"]

_CATCH_UP_WINDOWS: Final = 20
"""Due windows that wait for a slow pipeline; older ones are dropped."""
_MAX_SIMULATED_SAMPLES: Final = 2**20
_LEAST_INTERVAL_SECONDS: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """A simulated bearing. Times are machine time, in seconds."""

    kind: Literal["simulator"] = "simulator"
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 1
    sample_rate_hz: Annotated[float, Bounds(0.001, 1e7, "Hz")] = 12800.0
    window_samples: Annotated[int, Bounds(1, _MAX_SIMULATED_SAMPLES, "samples")] = 4096
    interval_seconds: Annotated[float, Bounds(0.001, 1e9, "seconds")] = 60.0
    """Machine time from the start of a window to the start of the next."""
    time_scale: Annotated[float, Bounds(0.001, 1e6)] = 60.0
    """Seconds of machine time for each second of the wall clock."""
    started_at: Annotated[float | None, Bounds(0, 1e11, "seconds")] = None
    """Unix time of machine time 0; None: the first start, which is remembered in the state folder."""
    shaft_hz: Annotated[float, Bounds(0.001, 1e4, "Hz")] = 29.17
    fault: Literal["none", "outer", "inner", "ball"] = "none"
    onset_seconds: Annotated[float, Bounds(0, 1e11, "seconds")] = 0.0
    failure_seconds: Annotated[float, Bounds(0, 1e11, "seconds")] = 0.0
    wear_from: Literal["start", "model"] = "start"
    """From when onset and failure count: machine time 0, or the first release of the pipeline."""

    def __post_init__(self) -> None:
        if self.interval_seconds / self.time_scale < _LEAST_INTERVAL_SECONDS:
            raise AgentError(
                "config.invalid",
                f"interval_seconds / time_scale of a simulator is the time between two windows; "
                f"set at least {_LEAST_INTERVAL_SECONDS:g} seconds",
            )


class Machine:
    """The vibration of one machine as a function of machine time. It reads no clock.

    Args:
        config: of the simulator.
        bearing: its geometry; None: the default bearing.
    """

    resonance_hz: Final = 3300.0
    damping_per_s: Final = 900.0
    slip: Final = 0.012
    """Standard deviation of the interval between impacts, relative to the interval."""

    def __init__(self, config: SimulatorConfig, bearing: Bearing | None = None) -> None:
        self._config = config
        self.bearing = bearing or Bearing()
        self._phase = float(np.random.default_rng(config.seed).uniform(0, 2 * math.pi))
        self.wears_from_s = math.inf if config.wear_from == "model" else 0.0
        """Machine time from which onset and failure count."""

    def wear(self, t_s: float) -> float:
        """Return 0 until the onset, 1 from the failure on, and a linear rise between."""
        config = self._config
        t_s -= self.wears_from_s
        if config.fault == "none" or t_s <= config.onset_seconds:
            return 0.0
        return min(1.0, (t_s - config.onset_seconds) / max(config.failure_seconds - config.onset_seconds, 1e-9))

    def impact_g(self, t_s: float) -> float:
        """Return the strength of one impact at the sensor, in g."""
        return 4.0 * math.expm1(3.0 * self.wear(t_s)) / math.expm1(3.0)

    def speed_hz(self, t_s: float) -> float:
        """Return the shaft speed, within 2 % of nominal."""
        slow = math.sin(2 * math.pi * t_s / 5400 + self._phase) + 0.5 * math.sin(2 * math.pi * t_s / 1370)
        return self._config.shaft_hz * (1 + 0.012 * slow)

    def load(self, t_s: float) -> float:
        """Return the relative load: 1 on average, within 25 %."""
        return (
            1 + 0.18 * math.sin(2 * math.pi * t_s / 8100 + 2 * self._phase) + 0.06 * math.sin(2 * math.pi * t_s / 2040)
        )

    def strike_hz(self, shaft_hz: float) -> float:
        """Return how often the configured fault is struck, in Hz."""
        kinds = {"outer": self.bearing.bpfo_hz, "inner": self.bearing.bpfi_hz}
        kind = kinds.get(self._config.fault)
        return kind(shaft_hz) if kind else 2 * self.bearing.bsf_hz(shaft_hz)

    def window(self, index: int, t_s: float) -> NDArray[np.float32]:
        """Return the window that starts at ``t_s``: [sample, 2] float32 in g."""
        config = self._config
        random = np.random.default_rng([config.seed, index])
        time_s = np.arange(config.window_samples) / config.sample_rate_hz
        shaft_hz = self.speed_hz(t_s) * (1 + 0.001 * random.standard_normal())
        load = self.load(t_s) * (1 + 0.02 * random.standard_normal())
        angle = 2 * math.pi * shaft_hz * time_s + random.uniform(0, 2 * math.pi)
        harmonics = sum(g * np.sin(n * angle + n) for n, g in ((1, 0.25), (2, 0.09), (3, 0.04))) * load
        gear = 0.03 * load * np.sin(23 * angle + 1.3)
        ringing = self._ringing(random, time_s, t_s, shaft_hz, load)
        noise = random.standard_normal((2, config.window_samples)) * (0.10 + 0.02 * load)
        horizontal = harmonics + gear + ringing + noise[0]
        vertical = 0.7 * np.roll(harmonics, config.window_samples // 7) + 0.8 * gear + 0.6 * ringing + noise[1]
        return np.stack([horizontal, vertical], axis=1).astype(np.float32)

    def _ringing(
        self, random: np.random.Generator, time_s: NDArray[np.float64], t_s: float, shaft_hz: float, load: float
    ) -> NDArray[np.float64]:
        """Return the response of the structure to the impacts, [sample] in g."""
        result = np.zeros_like(time_s)
        strength_g = self.impact_g(t_s) * load
        if strength_g <= 0:
            return result
        interval_s = 1 / self.strike_hz(shaft_hz)
        count = int(time_s[-1] / interval_s) + 3
        steps = interval_s * (1 + self.slip * random.standard_normal(count))
        strikes_s = np.cumsum(steps) - interval_s * (1 + random.uniform(0, 1))
        turn_hz = {"inner": shaft_hz, "ball": self.bearing.ftf_hz(shaft_hz)}.get(self._config.fault, 0.0)
        ring_samples = int(6 / self.damping_per_s * self._config.sample_rate_hz)
        for strike_s in strikes_s:
            first = max(0, math.ceil(strike_s * self._config.sample_rate_hz))
            since_s = time_s[first : first + ring_samples] - strike_s
            modulation = 1 + 0.6 * math.cos(2 * math.pi * turn_hz * strike_s) if turn_hz else 1.0
            strength = strength_g * modulation * (1 + 0.1 * random.standard_normal())
            ring = np.exp(-self.damping_per_s * since_s) * np.sin(2 * math.pi * self.resonance_hz * since_s)
            result[first : first + ring_samples] += strength * ring
        return result


class SimulatorSource:
    """Windows of a :class:`Machine` at the pace of the monotonic clock; implements
    :class:`~wheeltapper_agent.source.base.Source`.

    Args:
        config: of the source.
        memory: file that remembers when machine time 0 was, if the configuration does not say.
        clock: the device's.
    """

    def __init__(self, config: SimulatorConfig, memory: Path, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._machine = Machine(config)
        remembered = _remembered(memory)
        started_at = config.started_at
        if started_at is None:
            started_at = remembered.get("started_at", clock.now())
        self._memory, self._started_at = memory, started_at
        if config.wear_from == "model":
            self._machine.wears_from_s = remembered.get("wears_from_s", math.inf)
        if "started_at" not in remembered and config.started_at is None:
            self._remember()
        self._offset_s = clock.now() - started_at - clock.monotonic()
        self.dropped = 0
        self._index = 0
        """Index of the window that was given last."""
        self._closed = StopEvent()
        self.state = "running"
        self.spec = SourceSpec(config.sample_rate_hz, config.window_samples, ("horizontal", "vertical"), ("g", "g"))

    room: Final = _CATCH_UP_WINDOWS

    @property
    def pending(self) -> int:
        """Windows that are due."""
        return max(0, self._now_index() - self._index)

    @property
    def interval_seconds(self) -> float:
        """Seconds of the wall clock from one window to the next."""
        return self._config.interval_seconds / self._config.time_scale

    def model_ready(self) -> None:
        """With ``wear_from = "model"`` the wear begins at the first call ever; a machine waits for nothing else."""
        if math.isinf(self._machine.wears_from_s):
            self._machine.wears_from_s = self._running_s() * self._config.time_scale
            self._remember()

    def _remember(self) -> None:
        """Write what a restart must not change."""
        known = {"started_at": self._started_at, "wears_from_s": self._machine.wears_from_s}
        write_atomic(
            self._memory, json.dumps({name: value for name, value in known.items() if math.isfinite(value)}).encode()
        )

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()

    def _running_s(self) -> float:
        """Return the wall seconds since machine time 0."""
        return self._clock.monotonic() + self._offset_s

    def _now_index(self) -> int:
        """Return the index of the window that is due now."""
        return max(0, math.floor(self._running_s() * self._config.time_scale / self._config.interval_seconds))

    def windows(self, first: int) -> Iterator[Window]:
        """Give windows from now on. ``first`` above 0 says that earlier ones were taken before a restart."""
        # If the clock was set back to before machine time 0, the machine must not be silent until then.
        seen_s = first * self._config.interval_seconds / self._config.time_scale
        if self._running_s() < 0:
            self._offset_s += seen_s - self._running_s()
        index = self._now_index() + (1 if first else 0)
        while not self._closed.is_set():
            # A limited number of late windows is made up for: a machine does not wait for its sensor.
            skipped = self._now_index() - _CATCH_UP_WINDOWS - index
            if skipped > 0:
                index += skipped
                self.dropped += skipped
            t_s = index * self._config.interval_seconds
            due_in = t_s / self._config.time_scale - self._running_s()
            if due_in > 0 and self._closed.wait(due_in):
                break
            self._index = index
            yield Window(self._machine.window(index, t_s), t_s)
            index += 1
        self.state = "ended"


def _remembered(memory: Path) -> dict[str, float]:
    """Return the numbers in the file ``memory``; none where it cannot be read."""
    try:
        found = json.loads(memory.read_bytes())
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _make(config: SimulatorConfig, context: SourceContext) -> SimulatorSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return SimulatorSource(config, context.state_dir / f"simulator-{context.pipeline}.json", context.clock)


KIND = SourceKind(SimulatorConfig, _make)
