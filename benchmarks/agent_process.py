"""CPU time of an idle agent with a fleet and without, and the time from its start to the first score.

Idle means one window a second. The agent is a real process: enrolled, connected by MQTT over TLS, with a trained
release and windows of 4,096 samples from the simulated machine, whose cost is included.

    python benchmarks/agent_process.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig import Row, RunningAgent, agent_beside, cpu_seconds, main, newest_seq, row, trained_bundle

from wheeltapper_agent.source.simulator import SimulatorConfig

_SETTLED_SECONDS = 15.0
"""The agent releases memory once, 10 s after its start; the measurement begins after that."""
_IDLE_SECONDS, _IDLE_TIMES = 20.0, 3
_STARTS = 5


def _source(interval_seconds: float) -> dict[str, object]:
    return {"kind": "simulator", "window_samples": 4096, "interval_seconds": interval_seconds, "time_scale": 1.0}


def rows() -> list[Row]:
    """The figures."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as name:
        bundle = trained_bundle(Path(name, "bundle"), SimulatorConfig(window_samples=4096))
        with agent_beside(bundle, _source(1.0)) as agent:
            time.sleep(_SETTLED_SECONDS)
            idle = _cpu_percent(agent)
            agent.stage.end("fleet")
            offline = _cpu_percent(agent)
            agent.stage.start_fleet()
            agent.stage.end(agent.device)
            pipelines = [{"name": "main", "source": _source(0.02)}]
            agent.stage.reconfigure(agent.device, {"device": {"state_dir": "state"}, "pipelines": pipelines})
            config = agent.stage.agent_config(agent.device)
            starts = sorted(_start_seconds(config, agent.state) for _ in range(_STARTS))
    return [
        row("CPU when idle at one window a second (% of a core)", idle, at_most=0.5),
        row("the same while the fleet is away, records waiting (% of a core)", offline, at_most=1.0),
        row("start to first scored window, warm disk, median of 5 (s)", starts[_STARTS // 2], at_most=1.5),
    ]


def _cpu_percent(agent: RunningAgent) -> float:
    """CPU time of the agent's process in percent of a core, over 20 s; median of three."""
    found = []
    for _ in range(_IDLE_TIMES):
        cpu, began = cpu_seconds(agent.pid), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        found.append((cpu_seconds(agent.pid) - cpu) / (time.monotonic() - began) * 100)
    return statistics.median(found)


def _start_seconds(config: Path, state: Path) -> float:
    """Seconds from exec to the first telemetry record with a score in the spool."""
    before = newest_seq(state)
    began = time.monotonic()
    command = [sys.executable, "-m", "wheeltapper_agent", "run", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() - began < 30:
            if newest_seq(state) > before:
                return time.monotonic() - began
            time.sleep(0.01)
        raise SystemExit("the agent did not score within 30 s")
    finally:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    main(rows, "The agent as a process")
