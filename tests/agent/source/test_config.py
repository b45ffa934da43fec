"""Simulator, replay, configuration, profiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import load_profile
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source.replay import ReplayConfig, ReplaySource
from wheeltapper_agent.source.simulator import Machine, SimulatorConfig, SimulatorSource
from wheeltapper_protocols.signal.recording import Recording, write_recording

FAULTY = SimulatorConfig(window_samples=12800, fault="outer", onset_seconds=1000, failure_seconds=2000)


def _envelope_line(machine: Machine, t_s: float, hz: float) -> float:
    """The envelope's line at ``hz`` over the median of its neighbourhood."""
    signal = machine.window(0, t_s)[:, 0]
    spectrum = np.fft.rfft(signal)
    frequency = np.fft.rfftfreq(len(signal), 1 / 12800)
    band = np.where((frequency > 2300) & (frequency < 4300), 2 * spectrum, 0)
    analytic = np.fft.ifft(np.concatenate([band, np.zeros(len(signal) - len(band))]))
    envelope = np.abs(np.fft.rfft(np.abs(analytic) - np.abs(analytic).mean()))
    near = (frequency > hz - 3) & (frequency < hz + 3)
    around = (frequency > hz - 40) & (frequency < hz + 40)
    return float(envelope[near].max() / np.median(envelope[around]))


def test_the_outer_race_line_comes_with_the_fault() -> None:
    machine = Machine(FAULTY)
    hz = machine.bearing.bpfo_hz(machine.speed_hz(900))
    assert hz / machine.speed_hz(900) == pytest.approx(3.585, abs=0.01)  # the catalogue's value for the 6205
    assert _envelope_line(machine, 900, hz) < 5
    hz = machine.bearing.bpfo_hz(machine.speed_hz(1800))
    assert _envelope_line(machine, 1800, hz) > 10


def test_the_machine_is_seeded_and_wears() -> None:
    machine = Machine(FAULTY)
    assert np.array_equal(machine.window(3, 1500), Machine(FAULTY).window(3, 1500))
    assert machine.window(3, 0).dtype == np.float32
    strengths = [machine.impact_g(t_s) for t_s in (0, 1000, 1300, 1600, 2000, 3000)]
    assert strengths == sorted(strengths)
    assert strengths[:2] == [0, 0]


class Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def test_a_restart_does_not_heal_the_bearing(tmp_path: Path) -> None:
    config = SimulatorConfig(window_samples=64, interval_seconds=10, time_scale=10)
    clock = Clock()
    first = next(SimulatorSource(config, tmp_path / "m.json", clock).windows(0))
    assert first.t_s == 0
    clock.seconds += 100
    again: Iterator = SimulatorSource(config, tmp_path / "m.json", clock).windows(1)  # type: ignore[type-arg]  # of windows
    assert next(again).t_s >= 1000


def test_replay_plays_each_snapshot_once_and_resumes(tmp_path: Path) -> None:
    samples = np.arange(5 * 16 * 1, dtype=np.int16).reshape(5, 16, 1)
    recording = Recording(samples, np.array([0.5]), 100.0, np.arange(5.0), ("x",), ("g",), {})
    write_recording(recording, tmp_path / "r.npz")
    config = ReplayConfig(path=tmp_path / "r.npz", rate_hz=1000)
    source = ReplaySource(config, SystemClock())
    windows = list(source.windows(0))
    assert [window.t_s for window in windows] == [0, 1, 2, 3, 4]
    assert windows[1].samples[0, 0] == 8.0
    assert source.state == "ended"
    assert [window.t_s for window in ReplaySource(config, SystemClock()).windows(3)] == [3, 4]
    holding = ReplaySource(ReplayConfig(path=tmp_path / "r.npz", rate_hz=1000, hold_until_model=True), SystemClock())
    assert holding.state == "waiting"
    holding.model_ready()
    assert len(list(islice(holding.windows(0), 2))) == 2


GOOD = """
[device]
state_dir = "state"
[[pipelines]]
name = "main"
source = { kind = "simulator", seed = 3, time_scale = 10 }
"""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD.replace("seed", "sead"), "config.unknown_key"),
        (GOOD + "\n[cheese]\n", "config.unknown_key"),
        (GOOD.replace("state_dir", "state"), "config.unknown_key"),
        (GOOD.replace('state_dir = "state"', ""), "config.missing_key"),
        (GOOD.replace("simulator", "cheese"), "config.invalid"),
        (GOOD.replace("seed = 3", 'seed = "3"'), "config.invalid"),
        (GOOD.replace("main", "Main/.."), "config.invalid"),
        (GOOD + GOOD.split("[[")[1].join(["[[", ""]), "config.invalid"),
        (GOOD.replace('name = "main"', 'name = "main"\ngather_seconds = -1.0'), "config.invalid"),
        (GOOD.replace('name = "main"', 'name = "main"\ngather_seconds = 3600'), "config.invalid"),
        (GOOD.replace('name = "main"', 'name = "main"\ngather_seconds = nan'), "config.invalid"),
        (GOOD.replace("time_scale = 10", "time_scale = 0"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "interval_seconds = 0"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "interval_seconds = -1.0"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "window_samples = -4096"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "window_samples = 1000000000"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "sample_rate_hz = 0"), "config.invalid"),
        (GOOD.replace("time_scale = 10", "shaft_hz = 0"), "config.invalid"),
        (GOOD.replace("seed = 3", "seed = -1"), "config.invalid"),
        ("= 3", "config.malformed"),
    ],
)
def test_a_bad_configuration_has_a_code(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(AgentError) as refused:
        load_config(tmp_path / "a.toml")
    assert refused.value.code == code


def test_a_good_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    config = load_config(tmp_path / "a.toml")
    assert config.device.state_dir == tmp_path / "state"
    assert isinstance(config.pipelines[0].source, SimulatorConfig)
    assert config.pipelines[0].source.seed == 3
    with pytest.raises(AgentError):
        load_profile("../../etc")
