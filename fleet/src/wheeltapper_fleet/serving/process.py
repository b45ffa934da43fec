"""The process: one service per data folder, its listening sockets, and the file that says where it listens."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.device_api.tls_server import listening_socket
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["SERVE_FILE", "announce_ready", "bind", "in_url", "locked", "reachable"]

_LOG: Final = logging.getLogger(__name__)
SERVE_FILE: Final = "serve.json"
_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # only compared with, never bound


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock. The kernel releases it when the process ends, however it ends.

    Raises:
        FleetError: ``serve.running``.
    """
    with (data_dir / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FleetError(
                "serve.running",
                f"a fleet service is running on {data_dir} already; stop it, or choose another data folder",
                409,
            ) from error
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        FleetError: ``serve.port``.
    """
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise FleetError(
            "serve.port", f"cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0", 409
        ) from error


def announce_ready(config: FleetConfig, ports: Mapping[str, int]) -> None:
    """Write ``serve.json`` and the log line that say where the service listens."""
    scheme = "https" if config.admin_tls_certificate is not None else "http"
    served = {
        "pid": os.getpid(),
        "admin_url": f"{scheme}://{in_url(reachable(config.admin_host))}:{ports['admin']}",
        "device_url": f"https://{in_url(config.public_hosts[0])}:{ports['device']}",
        "admin_port": ports["admin"],
        "device_port": ports["device"],
        "mqtt_port": ports["mqtt"],
    }
    files.write_atomic(config.data_dir / SERVE_FILE, (json.dumps(served, indent=1) + "\n").encode())
    _LOG.info("ready: admin and page %s, devices %s, mqtt port %d", *list(served.values())[1:3], ports["mqtt"])


def reachable(host: str) -> str:
    """An address at which this process reaches a server that listens on ``host``."""
    return "127.0.0.1" if host in _ANY_ADDRESS else host


def in_url(host: str) -> str:
    """``host`` as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
