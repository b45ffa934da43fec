"""The demo's processes: a fleet service and agents, with all of their files in one folder.

Invariants:
    * Every process that is started here dies with this one, and :meth:`Stage.close` ends it, whatever happened before.
    * Nothing listens beyond the loopback interface; every port is a free one.

What this module does not do: decide what happens (:mod:`story`), draw it (:mod:`view`), import the agent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.die_with_parent import die_with_parent
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["AgentStatus", "Stage", "toml_text", "wait_for"]

_T = TypeVar("_T")
_END_SECONDS = 30.0


@dataclass(frozen=True)
class AgentStatus:
    """How far an agent's spool has come.

    Args:
        device: the device's id.
        epoch: the id of the spool's life.
        seq: the newest record's number, which is the number of records of this epoch.
    """

    device: str
    epoch: str
    seq: int


def wait_for(
    what: str, probe: Callable[[], _T | None], seconds: float = 60.0, *, checks: Sequence[Callable[[], None]] = ()
) -> _T:
    """Call ``probe`` every 0.1 s until it returns something that is neither None nor False; return that.

    Args:
        what: what is waited for, for the error message.
        probe: looks whether it has happened.
        seconds: how long to wait.
        checks: called before every probe; each raises if waiting has become pointless.

    Raises:
        FleetError: ``demo.timeout``.
    """
    deadline = time.monotonic() + seconds
    while True:
        for check in checks:
            check()
        found = probe()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise FleetError("demo.timeout", f"waited {seconds:.0f} s for {what}, which did not happen", 500)
        time.sleep(0.1)


def _command(module: str, *arguments: str) -> list[str]:
    """The command that runs a Python module and kills it when the demo's process dies."""
    return die_with_parent(sys.executable, "-P", "-m", module, *arguments)


def toml_text(values: Mapping[str, Any]) -> str:
    """Write a small TOML document, of tables, lists of tables, numbers and texts."""
    scalars = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict | list)]
    blocks = ["\n".join(scalars)]
    for key, value in values.items():
        if isinstance(value, dict):
            blocks.append(f"[{key}]\n{toml_text(value)}")
        elif isinstance(value, list):
            for table in value:
                inline = {name: inner for name, inner in table.items() if isinstance(inner, dict)}
                plain = {name: inner for name, inner in table.items() if not isinstance(inner, dict)}
                lines = [toml_text(plain).strip()]
                for name, inner in inline.items():
                    pairs = ", ".join(f"{k} = {json.dumps(v)}" for k, v in inner.items())
                    lines.append(f"{name} = {{ {pairs} }}")
                blocks.append(f"[[{key}]]\n" + "\n".join(lines))
    return "\n\n".join(block for block in blocks if block) + "\n"


@dataclass
class Stage:
    """One fleet service and its agents.

    Args:
        folder: everything they write is below this folder.
        model: the model that the demo trains and releases.
        serve_options: more options of ``wheeltapper serve``.
    """

    folder: Path
    model: str = "bearing-anomaly"
    serve_options: Sequence[str] = ()
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _client: FleetClient | None = None

    @property
    def data_dir(self) -> Path:
        """The fleet service's data folder."""
        return self.folder / "fleet"

    @property
    def keys_dir(self) -> Path:
        """The folder of the offline keys."""
        return self.folder / "offline-keys"

    @property
    def team_key(self) -> Path:
        """The key of the model's team."""
        return self.keys_dir / f"team-{self.model}.pem"

    def serve_info(self) -> dict[str, Any]:
        """The content of ``serve.json``, which ``serve`` writes when it is ready: ports and process id."""
        loaded: dict[str, Any] = json.loads((self.data_dir / "serve.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def client(self) -> FleetClient:
        """A client of the running fleet service."""
        if self._client is None:
            token = (self.data_dir / "api-token").read_text(encoding="utf-8").strip()
            self._client = FleetClient(self.url, token)
        return self._client

    @property
    def url(self) -> str:
        """The admin API's URL, which is also the page's."""
        return str(self.serve_info()["admin_url"])

    # Processes

    def run(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a Python module's command line to its end and return its standard output.

        Raises:
            FleetError: ``demo.command``, with the end of the command's output.
        """
        done = subprocess.run(
            _command(module, *arguments),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, **(env or {})},
        )
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip()[-800:]
            raise FleetError(
                "demo.command", f"{module} {arguments[0]} ended with exit code {done.returncode}: {output}", 500
            )
        return done.stdout

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process in the background; its output goes to ``logs/<name>.log``."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(_command(module, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes[name] = process
        return process

    def check_alive(self) -> None:
        """Check that every process is still running.

        Raises:
            FleetError: ``demo.process_died``, with the end of the process's log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self.folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-800:]
                raise FleetError("demo.process_died", f"{name} ended with exit code {process.returncode}: {log}", 500)

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(timeout=10)

    def terminate(self, name: str) -> None:
        """Send SIGTERM to a process, without waiting for its end."""
        if name in self._processes:
            self._processes[name].terminate()

    def end(self, name: str) -> None:
        """End a process with SIGTERM, or with SIGKILL if it has not ended after 30 s."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def close(self) -> None:
        """End every process: the agents first, so that they can still deliver their last records."""
        names = sorted(self._processes, key=lambda name: name == "fleet")
        for name in names:
            if name != "fleet":
                self.terminate(name)
        for name in names:
            self.end(name)

    # Fleet

    def make_keys(self) -> None:
        """Create the keys if there are none."""
        if not self.keys_dir.exists():
            self.run(
                "wheeltapper_fleet", "keys", "init", "--keys-dir", str(self.keys_dir), "--data-dir", str(self.data_dir),
                "--model", self.model,
            )  # fmt: skip

    def start_fleet(self) -> None:
        """Create the keys if there are none, start the fleet service, and wait until it answers.

        A service that ran before is started again on the same ports.
        """
        self.make_keys()
        ports = {"admin": 0, "device": 0, "mqtt": 0}
        serve_file = self.data_dir / "serve.json"
        if serve_file.exists():
            info = self.serve_info()
            ports = {name: int(info[f"{name}_port"]) for name in ports}
            serve_file.unlink()
        arguments = ["serve", "--data-dir", str(self.data_dir), *self.serve_options]
        for name, port in ports.items():
            arguments += [f"--{name}-port", str(port)]
        self.start("fleet", "wheeltapper_fleet", *arguments)

        def ready() -> bool:
            if not serve_file.exists():
                return False
            try:
                return httpx.get(f"{self.url}/healthz", timeout=2.0).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for("the fleet service to answer", ready, 30.0, checks=[self.check_alive])

    # Agents

    def agent_folder(self, device: str) -> Path:
        """The folder of an agent's configuration and state."""
        return self.folder / "devices" / device

    def agent_config(self, device: str) -> Path:
        """An agent's configuration file."""
        return self.agent_folder(device) / "agent.toml"

    def enrol(self, device: str, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Write an agent's configuration and enrol it with a one-time token."""
        self.agent_folder(device).mkdir(parents=True, exist_ok=True)
        self.reconfigure(device, config)
        info = self.serve_info()
        token = self.client.create_token(device, ttl_seconds=600, tags=dict(tags or {}))["token"]
        self.run(
            "wheeltapper_agent", "enroll", "--server", f"https://127.0.0.1:{info['device_port']}",
            "--config", str(self.agent_config(device)), env={"WHEELTAPPER_TOKEN": token},
        )  # fmt: skip

    def reconfigure(self, device: str, config: Mapping[str, Any]) -> None:
        """Write an agent's configuration; it takes effect at the agent's next start."""
        self.agent_config(device).write_text(toml_text(config), encoding="utf-8")

    def is_enrolled(self, device: str) -> bool:
        """Whether the agent has a configuration, and so may have sent records."""
        return self.agent_config(device).exists()

    def start_agent(self, device: str) -> subprocess.Popen[bytes]:
        """Start an agent in the background."""
        return self.start(device, "wheeltapper_agent", "run", "--config", str(self.agent_config(device)))

    def agent_status(self, device: str) -> AgentStatus:
        """How far an agent's spool has come, whether the agent is running or not."""
        status = json.loads(
            self.run("wheeltapper_agent", "status", "--config", str(self.agent_config(device)), "--json")
        )
        return AgentStatus(device=device, epoch=status["epoch"], seq=status["seq"])
