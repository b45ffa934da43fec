"""Brokers on their own, as an operator runs them: real processes, from the files of ``wheeltapper broker config``.

Three "machines" are three addresses of the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from tests.agent.servers import free_port
from tests.fleet.broker.rig import until
from wheeltapper_fleet.broker.configure import configure_mosquitto, configure_nats
from wheeltapper_fleet.broker.nats_cluster import NatsPorts
from wheeltapper_fleet.broker.server import nats_server_binary
from wheeltapper_fleet.ground.die_with_parent import die_with_parent
from wheeltapper_fleet.trust.ca import FleetCA

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class External(Protocol):
    """A broker that runs."""

    settings: Path
    """The ``[broker]`` table for the service."""
    port: int

    def stop(self) -> None: ...


def running(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 0.2):
        return True
    return False


class NatsCluster:
    """Three nodes of nats-server."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self._folder = folder
        ports = NatsPorts(mqtt=free_port(), client=free_port(), cluster=free_port())
        self.port, self.client_port = ports.mqtt, ports.client
        ca = FleetCA(data_dir / "ca", time.time)
        self.settings = configure_nats(folder, data_dir, ca, HOSTS, listen="host", ports=ports)
        self.nodes = {host: self.start(host) for host in HOSTS}
        until(lambda: all(self._log(host).count("Server is ready") for host in HOSTS), 30)
        until(lambda: any("JetStream cluster new metadata leader" in self._log(host) for host in HOSTS), 30)

    def start(self, host: str) -> subprocess.Popen[bytes]:
        command = die_with_parent(str(nats_server_binary()), "-c", str(self._folder / host / "nats.json"))
        with (self._folder / f"{host}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, host: str) -> None:
        self.nodes[host].kill()
        self.nodes[host].wait()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.kill()
            node.wait()

    def _log(self, host: str) -> str:
        return (self._folder / f"{host}.log").read_text(encoding="utf-8", errors="replace")


class MosquittoAlone:
    """One Mosquitto."""

    def __init__(self, folder: Path, data_dir: Path, *processes: str) -> None:
        self._folder = folder
        self.port = free_port()
        self.settings = configure_mosquitto(
            folder,
            FleetCA(data_dir / "ca", time.time),
            HOSTS[0],
            listen=HOSTS[0],
            port=self.port,
            user="root" if os.geteuid() == 0 else "mosquitto",
            processes=processes or ("ingest",),
        )
        command = die_with_parent("/usr/sbin/mosquitto", "-c", str(folder / "mosquitto.conf"))
        with (folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: answers(HOSTS[0], self.port), 10)

    def log(self) -> str:
        return (self._folder / "mosquitto.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
