"""The stage of the demo: a fleet service and agents as processes of their own, in one folder.

Invariants:
    * Every process started here is known by its Popen, dies with this one (``PR_SET_PDEATHSIG``), and is ended by
      :meth:`Stage.close`, whatever happened in between.
    * Nothing listens outside the loopback interface; every port is picked free.

What this module does not do: decide what happens on the stage (:mod:`story`), draw it (:mod:`view`), import the agent.
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
    """What an agent says of its spool after its end."""

    device: str
    epoch: str
    seq: int
    """Newest record written: the number of records sent in this epoch."""


def wait_for(
    what: str, probe: Callable[[], _T | None], seconds: float = 60.0, *, checks: Sequence[Callable[[], None]] = ()
) -> _T:
    """Call ``probe`` until it gives something that is not None or False.

    Raises:
        FleetError: ``demo.timeout`` after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        for check in checks:
            check()
        found = probe()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise FleetError("demo.timeout", f"waited {seconds:.0f} s in vain for: {what}", 500)
        time.sleep(0.1)


def _command(module: str, *arguments: str) -> list[str]:
    """The command that runs a Python module and kills it when the demo's process dies."""
    return die_with_parent(sys.executable, "-m", module, *arguments)


def toml_text(values: Mapping[str, Any]) -> str:
    """A small TOML document: tables, lists of tables, numbers, texts."""
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
    """One fleet service and its agents below ``folder``."""

    folder: Path
    model: str = "bearing-anomaly"
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _client: FleetClient | None = None

    @property
    def data_dir(self) -> Path:
        return self.folder / "fleet"

    @property
    def keys_dir(self) -> Path:
        return self.folder / "offline-keys"

    @property
    def team_key(self) -> Path:
        return self.keys_dir / f"team-{self.model}.pem"

    def serve_info(self) -> dict[str, Any]:
        """What ``serve`` wrote when it was ready: ports and pid."""
        loaded: dict[str, Any] = json.loads((self.data_dir / "serve.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def client(self) -> FleetClient:
        """The admin API of the running fleet service."""
        if self._client is None:
            token = (self.data_dir / "api-token").read_text(encoding="utf-8").strip()
            self._client = FleetClient(self.url, token)
        return self._client

    @property
    def url(self) -> str:
        return str(self.serve_info()["admin_url"])

    # Processes

    def run(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            FleetError: ``demo.command`` with the command's last words.
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
            words = (done.stderr or done.stdout).strip()[-800:]
            raise FleetError("demo.command", f"{module} {arguments[0]} ended with {done.returncode}: {words}", 500)
        return done.stdout

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process that goes on; its words go to ``logs/<name>.log``."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(_command(module, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes[name] = process
        return process

    def check_alive(self) -> None:
        """Raise if a process ended that nobody ended.

        Raises:
            FleetError: ``demo.process_died`` with the last lines of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                words = (self.folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-800:]
                raise FleetError("demo.process_died", f"{name} ended with {process.returncode}: {words}", 500)

    def kill(self, name: str) -> None:
        """``kill -9`` a process of the stage."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(timeout=10)

    def terminate(self, name: str) -> None:
        """Ask a process to end, without waiting."""
        if name in self._processes:
            self._processes[name].terminate()

    def end(self, name: str) -> None:
        """End a process with SIGTERM, and with SIGKILL when it does not listen."""
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
        """End everything: agents first, so that they can still say goodbye."""
        names = sorted(self._processes, key=lambda name: name == "fleet")
        for name in names:
            if name != "fleet":
                self.terminate(name)
        for name in names:
            self.end(name)

    # Fleet

    def start_fleet(self) -> None:
        """Make the keys where there are none, start the fleet service, wait until it answers."""
        if not self.keys_dir.exists():
            self.run(
                "wheeltapper_fleet", "keys", "init", "--keys-dir", str(self.keys_dir), "--data-dir", str(self.data_dir),
                "--model", self.model,
            )  # fmt: skip
        ports = {"admin": 0, "device": 0, "mqtt": 0}
        serve_file = self.data_dir / "serve.json"
        if serve_file.exists():
            info = self.serve_info()
            ports = {name: int(info[f"{name}_port"]) for name in ports}
            serve_file.unlink()
        arguments = ["serve", "--data-dir", str(self.data_dir)]
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
        return self.folder / "devices" / device

    def agent_config(self, device: str) -> Path:
        return self.agent_folder(device) / "agent.toml"

    def enrol(self, device: str, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Write the agent's configuration and let it enrol with a one-time token."""
        self.agent_folder(device).mkdir(parents=True, exist_ok=True)
        self.reconfigure(device, config)
        info = self.serve_info()
        token = self.client.create_token(device, ttl_seconds=600, tags=dict(tags or {}))["token"]
        self.run(
            "wheeltapper_agent", "enroll", "--server", f"https://127.0.0.1:{info['device_port']}",
            "--config", str(self.agent_config(device)), env={"WHEELTAPPER_TOKEN": token},
        )  # fmt: skip

    def reconfigure(self, device: str, config: Mapping[str, Any]) -> None:
        """Write another configuration; it holds from the agent's next start."""
        self.agent_config(device).write_text(toml_text(config), encoding="utf-8")

    def is_enrolled(self, device: str) -> bool:
        """Whether the agent has a configuration, and so may have sent something."""
        return self.agent_config(device).exists()

    def start_agent(self, device: str) -> subprocess.Popen[bytes]:
        return self.start(device, "wheeltapper_agent", "run", "--config", str(self.agent_config(device)))

    def agent_status(self, device: str) -> AgentStatus:
        """What the agent's spool says, running or not."""
        status = json.loads(
            self.run("wheeltapper_agent", "status", "--config", str(self.agent_config(device)), "--json")
        )
        return AgentStatus(device=device, epoch=status["epoch"], seq=status["seq"])
