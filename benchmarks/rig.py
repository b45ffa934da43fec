"""Shared by the benchmarks of the agent: a trained release, a running fleet with one agent, the table of figures."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

import numpy as np
from rich.console import Console
from rich.table import Table

from wheeltapper_agent.captures.recording import make_recording
from wheeltapper_agent.records.spool import read_figures
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_protocols.signal.recording import Recording

__all__ = [
    "REPOSITORY",
    "Row",
    "RunningAgent",
    "agent_beside",
    "cpu_seconds",
    "main",
    "median_ratio",
    "newest_seq",
    "row",
    "run",
    "run_parts",
    "simulated",
    "trained_bundle",
    "wait_for_windows",
]

REPOSITORY: Final = Path(__file__).resolve().parents[1]
_CHANNELS, _UNITS = ("horizontal", "vertical"), ("g", "g")
_SCHEDULED: Final = 2
"""``CPUCLOCK_SCHED`` of Linux's ``include/linux/posix-timers.h``."""


class Row(TypedDict):
    """One figure. ``holds`` says whether it reaches its target; None where there is none."""

    name: str
    value: float
    target: float | None
    holds: bool | None


def row(name: str, value: float, at_most: float | None = None, at_least: float | None = None) -> Row:
    """A row for a figure and its target, an upper or a lower bound."""
    if at_most is not None:
        return Row(name=name, value=value, target=at_most, holds=value <= at_most)
    if at_least is not None:
        return Row(name=name, value=value, target=at_least, holds=value >= at_least)
    return Row(name=name, value=value, target=None, holds=None)


def run(rows: Callable[[], list[Row]], title: str) -> list[Row]:
    """Measure, print the table and return its rows."""
    found = rows()
    table = Table(title=title, title_justify="left")
    for heading, justify in (("what", "left"), ("value", "right"), ("to reach", "left"), ("holds", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # a Literal in rich
    for each in found:
        target, holds = (
            ("", "") if each["target"] is None else (f"{each['target']:g}", "yes" if each["holds"] else "NO")
        )
        table.add_row(each["name"], f"{each['value']:.4g}", target, holds)
    Console(width=120).print(table)
    return found


def main(rows: Callable[[], list[Row]], title: str) -> None:
    """The command line of one benchmark: print the table, or with ``--json`` the rows.

    A figure that misses its target is no error here; ``agent.py`` exits with 1 for it.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true")
    if parser.parse_args().json:
        print(json.dumps(rows(), indent=1))
    else:
        run(rows, title)


def simulated(config: SimulatorConfig, windows: int) -> Recording:
    """A recording of a healthy simulated machine, with one window every ten seconds."""
    machine = Machine(config)
    taken = [Window(machine.window(index, index * 10.0), index * 10.0) for index in range(windows)]
    return make_recording(taken, SourceSpec(config.sample_rate_hz, config.window_samples, _CHANNELS, _UNITS), {})


def trained_bundle(folder: Path, config: SimulatorConfig, windows: int = 240) -> Path:
    """The default recipe's bundle for a simulated machine."""
    train_anomaly([simulated(config, windows)], healthy_fraction=1.0, out=folder)
    return folder


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, in seconds, from its CPU clock (``clock_getcpuclockid(3)``).

    The 10 ms ticks of ``/proc/PID/stat`` are too coarse for an idle process.
    """
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


@dataclass(frozen=True)
class RunningAgent:
    """A running agent that is connected and scores with a release."""

    stage: Stage
    device: str
    pid: int

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.stage.agent_folder(self.device) / "state"

    def windows(self) -> int:
        """Number of windows since the agent began, as its spool says."""
        return newest_seq(self.state)


def newest_seq(state: Path) -> int:
    """The newest seq in the spool of a state folder."""
    figures = read_figures(state / "spool.sqlite")
    return 0 if figures is None else figures.seq


def wait_for_windows(agent: RunningAgent, count: int, seconds: float = 120.0) -> None:
    """Wait until the agent has taken ``count`` windows."""
    wait_for(f"{count} windows", lambda: agent.windows() >= count, seconds, checks=[agent.stage.check_alive])


@contextlib.contextmanager
def agent_beside(bundle: Path, source: dict[str, object], **pipeline: object) -> Iterator[RunningAgent]:
    """A fleet service with one connected agent that runs ``bundle`` on ``source``.

    ``pipeline`` has further keys of the pipeline's configuration.
    """
    device = "bench-1"
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as name:
        stage = Stage(Path(name))
        try:
            stage.start_fleet()
            pipelines = [{"name": "main", "source": source, **pipeline}]
            stage.enrol(device, {"device": {"state_dir": "state"}, "pipelines": pipelines})
            stage.run(
                "wheeltapper_fleet", "release", "publish", "--bundle", str(bundle), "--key", str(stage.team_key),
                "--data-dir", str(stage.data_dir),
            )  # fmt: skip
            spec = stage.folder / "campaign.json"
            spec.write_text(json.dumps({"model": stage.model, "release": 1, "waves": [{}]}), encoding="utf-8")
            process = stage.start_agent(device)
            stage.run(
                "wheeltapper_fleet", "campaign", "create", "--spec", str(spec), "--start",
                "--data-dir", str(stage.data_dir),
            )  # fmt: skip
            wait_for(
                "the release to be committed", lambda: _committed(stage, device), 120.0, checks=[stage.check_alive]
            )
            yield RunningAgent(stage, device, process.pid)
        finally:
            stage.close()


def _committed(stage: Stage, device: str) -> bool:
    try:
        status = json.loads((stage.agent_folder(device) / "state" / "status.json").read_bytes())
    except (OSError, ValueError):
        return False
    return bool(status.get("execution_state") == "COMMITTED")


def median_ratio(ours: Callable[[], float], baseline: Callable[[], float], rounds: int = 5) -> tuple[float, float]:
    """Median ratio of our time to the baseline's, measured alternately ``rounds`` times; and our median time."""
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    return float(np.median([a / b for a, b in pairs])), float(np.median([a for a, _ in pairs]))


if __name__ == "__main__":
    sys.exit("this file holds what the benchmarks share; run one of them")


def run_parts(name: str, parts: Sequence[str], title: str, arguments: Sequence[str]) -> int:
    """Run the modules ``<name>_<part>``, print their table and write it to ``build/bench/<name>.json``.

    Args:
        name: of the group, e.g. ``fleet``.
        parts: its parts; each is a module with a function ``rows()``.
        title: of the table.
        arguments: of the command line: ``--only PART ...`` runs only these.

    Returns:
        The exit status: 1 where a figure misses its target.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="NAME", help=", ".join(parts))
    wanted = parser.parse_args(arguments).only

    def rows() -> list[Row]:
        found: list[Row] = []
        for part in wanted:
            print(f"{part} ...", file=sys.stderr, flush=True)
            found += importlib.import_module(f"{name}_{part}").rows()
        return found

    found = run(rows, title)
    target = REPOSITORY / "build" / "bench" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {target.relative_to(REPOSITORY)}")
    return 0 if all(each["holds"] in (True, None) for each in found) else 1
