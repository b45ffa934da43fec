"""The simulated bearing whose wear begins with the first release."""

from __future__ import annotations

import math
from pathlib import Path

from wheeltapper_agent.source.simulator import SimulatorConfig, SimulatorSource


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.t_s = 0.0

    def now(self) -> float:
        return 1.7e9 + self.t_s

    def monotonic(self) -> float:
        return 50.0 + self.t_s


def worn(source: SimulatorSource, t_s: float) -> float:
    return source._machine.wear(t_s)


def test_wear_begins_with_the_first_release_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    clock, memory = Clock(), tmp_path / "simulator-main.json"
    config = SimulatorConfig(
        fault="outer", onset_seconds=100.0, failure_seconds=300.0, wear_from="model", time_scale=10.0
    )
    source = SimulatorSource(config, memory, clock)
    assert worn(source, 1e9) == 0.0
    clock.t_s = 60.0  # machine time 600
    source.model_ready()
    assert [worn(source, t_s) for t_s in (600.0, 700.0, 800.0, 900.0, 1e6)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    clock.t_s = 70.0
    source.model_ready()  # the next release does not heal it
    again = SimulatorSource(config, memory, clock)
    again.model_ready()
    assert worn(again, 800.0) == 0.5
    assert again._running_s() == 70.0


def test_without_it_wear_counts_from_the_start(tmp_path: Path) -> None:
    config = SimulatorConfig(fault="outer", onset_seconds=100.0, failure_seconds=300.0)
    source = SimulatorSource(config, tmp_path / "simulator-main.json", Clock())
    source.model_ready()
    assert [worn(source, t_s) for t_s in (100.0, 200.0, 300.0)] == [0.0, 0.5, 1.0]
    assert math.isclose(SimulatorSource(config, tmp_path / "simulator-main.json", Clock())._running_s(), 0.0)
