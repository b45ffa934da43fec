"""Shared by the benchmarks of the fleet: a running service, many enrolled devices, a simulator beside it."""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from rig import trained_bundle
from sqlalchemy import event

from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_fleet.broker.configure import configure_mosquitto
from wheeltapper_fleet.broker.server import free_port
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.devices.enrolment import Endpoints, Enrolment
from wheeltapper_fleet.ground.die_with_parent import die_with_parent
from wheeltapper_fleet.sim.identities import Identities
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["TERMINAL", "Fleet", "RunningSimulator", "fleet", "names"]

TERMINAL: Final = {"COMMITTED", "FAILED", "REJECTED", "ROLLED_BACK", "CANCELLED", "SUPERSEDED"}


def names(count: int) -> list[str]:
    """The names that the simulator gives to so many devices."""
    return [f"sim-{number:05d}" for number in range(1, count + 1)]


class RunningSimulator:
    """``wheeltapper simulate`` in a process of its own; its progress is what it said last."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            die_with_parent(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def end(self) -> dict[str, Any]:
        """Ask it to end; returns its figures."""
        self._process.terminate()
        out, _ = self._process.communicate(timeout=120)
        return dict(json.loads(out))


@dataclass(frozen=True)
class Fleet:
    """A running service with a published release. ``broker`` is a Mosquitto of its own; None: the embedded broker."""

    stage: Stage
    broker: subprocess.Popen[bytes] | None = None

    @property
    def identities(self) -> Path:
        """The simulator's folder."""
        return self.stage.folder / "sim"

    def processes(self) -> list[psutil.Process]:
        """The service and its broker."""
        service = psutil.Process(int(self.stage.serve_info()["pid"]))
        beside = [] if self.broker is None else [psutil.Process(self.broker.pid)]
        return [service, *service.children(recursive=True), *beside]

    def cpu_seconds(self) -> float:
        """CPU time of the service and its broker since their start."""
        return sum(sum(each.cpu_times()[:2]) for each in self.processes())

    def peak_rss_mb(self) -> dict[str, float]:
        """By process: the most memory that it had at a time (``VmHWM`` of proc(5)), in MB."""
        found: dict[str, float] = {}
        for each in self.processes():
            lines = Path(f"/proc/{each.pid}/status").read_text(encoding="ascii").splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM:"))
            found[each.name()] = found.get(each.name(), 0.0) + int(peak.split()[1]) / 1024
        return found

    def enrol(self, count: int) -> None:
        """Enrol the simulator's devices through the service's own code, in this process and without waiting for the
        disk: an operator's fleet grows over months."""
        info, data = self.stage.serve_info(), self.stage.data_dir
        engine = open_database(f"sqlite:///{data / 'fleet.db'}")

        @event.listens_for(engine, "connect")
        def _hurry(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")

        engine.dispose()
        ca = FleetCA(data / "ca", time.time)
        endpoints = Endpoints("127.0.0.1", info["mqtt_port"], f"https://127.0.0.1:{info['device_port']}")
        enrolment = Enrolment(engine, ca, Repository.open(data, time.time).trusted_root(), endpoints, time.time)
        identities = Identities(self.identities)
        key = identities.key()
        for name in names(count):
            if name in identities.certificates:
                continue
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
            token = enrolment.create_token(name, tags={"simulated": "yes", "line": name[-1]})
            answer = enrolment.enrol(token, csr.public_bytes(serialization.Encoding.PEM))
            if not identities.certificates:
                values = {"mqtt_host": answer.mqtt_host, "mqtt_port": answer.mqtt_port, "https_url": answer.https_url}
                identities.remember_fleet(ca.pem, {**values, "root": answer.root})
            identities.add(name, answer.certificate)
        engine.dispose()

    def simulator(self, count: int, *options: str) -> RunningSimulator:
        """Let ``count`` devices live until it is asked to end, an hour at most."""
        command = [sys.executable, "-P", "-m", "wheeltapper_fleet", "simulate", "--json", "--seconds", "3600"]
        command += ["--devices", str(count), "--data-dir", str(self.stage.data_dir)]
        return RunningSimulator([*command, "--state-dir", str(self.identities), *options])

    def wait_online(self, count: int, seconds: float = 300.0) -> float:
        """Wait until so many devices are online; returns the seconds that it took."""
        began = time.monotonic()
        while self.stage.client.summary()["devices_online"] < count:
            self.stage.check_alive()
            if time.monotonic() - began > seconds:
                raise SystemExit(f"only {self.stage.client.summary()['devices_online']} of {count} came online")
            time.sleep(0.5)
        return time.monotonic() - began

    def states(self, campaign: str) -> Counter[str]:
        """The executions of a campaign by state."""
        found: Counter[str] = Counter()
        for states in self.stage.client.campaign(campaign)["executions"].values():
            found.update(states)
        return found


@contextlib.contextmanager
def fleet(*, on_mosquitto: bool = False) -> Iterator[Fleet]:
    """A service with one published release, in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as folder, contextlib.ExitStack() as stack:
        stage = Stage(Path(folder))
        broker = stack.enter_context(_mosquitto(stage)) if on_mosquitto else None
        try:
            stage.start_fleet()
            bundle = trained_bundle(Path(folder) / "bundle", SimulatorConfig(sample_rate_hz=12_800.0), windows=120)
            for _ in range(4):
                stage.client.publish_bundle(bundle, stage.team_key)
            yield Fleet(stage, broker)
        finally:
            stage.close()


@contextlib.contextmanager
def _mosquitto(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """A Mosquitto by ``wheeltapper broker config``, which the service of ``stage`` is told to use."""
    stage.make_keys()
    folder, port = stage.folder / "broker", free_port()
    settings = configure_mosquitto(
        folder,
        FleetCA(stage.data_dir / "ca", time.time),
        "127.0.0.1",
        listen="127.0.0.1",
        port=port,
        user=getpass.getuser(),
        processes=("ingest",),
    )
    stage.serve_options = ["--config", str(settings)]
    command = die_with_parent("/usr/sbin/mosquitto", "-c", str(folder / "mosquitto.conf"))
    with (folder / "mosquitto.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()
