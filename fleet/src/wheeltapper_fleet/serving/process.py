"""The process: one service per data folder, its listening sockets, and the file that says where it listens."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.device_api.tls_server import listening_socket
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["SERVE_FILE", "announce_ready", "bind", "in_url", "locked", "reachable", "serve_file"]

_LOG: Final = logging.getLogger(__name__)
SERVE_FILE: Final = "serve.json"
_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # only compared with, never bound


@contextmanager
def locked(config: FleetConfig) -> Iterator[None]:
    """Hold the data folder's lock: a service that is one process holds it alone, processes with a role share it, and
    each of them holds that of its name. The kernel releases them when the process ends, however it ends.

    Raises:
        FleetError: ``serve.running``.
    """
    data_dir, alone = config.data_dir, config.role == "all"
    with ExitStack() as stack:
        wanted = {"serve.lock": fcntl.LOCK_EX if alone else fcntl.LOCK_SH}
        if not alone:
            wanted[f"serve-{config.process}.lock"] = fcntl.LOCK_EX
        for name, kind in wanted.items():
            file = stack.enter_context((data_dir / name).open("a"))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                advice = "stop it, or choose another data folder"
                if name != "serve.lock":
                    advice = f"there is one called {config.process}: give this one another --name"
                message = f"a fleet service is running on {data_dir} already; {advice}"
                raise FleetError("serve.running", message, 409) from error
        yield


def serve_file(config: FleetConfig) -> Path:
    """The file that says where this process listens."""
    return config.data_dir / (SERVE_FILE if config.role == "all" else f"serve-{config.process}.json")


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
    """Write :func:`serve_file` and the log line that say where the service listens."""
    if not config.serves_http:
        served = {"pid": os.getpid(), "role": config.role, "name": config.process}
        files.write_atomic(serve_file(config), (json.dumps(served, indent=1) + "\n").encode())
        _LOG.info("ready: %s %s", config.role, config.process)
        return
    scheme = "https" if config.admin_tls_certificate is not None else "http"
    served = {
        "pid": os.getpid(),
        "admin_url": f"{scheme}://{in_url(reachable(config.admin_host))}:{ports['admin']}",
        "device_url": f"https://{in_url(config.public_hosts[0])}:{ports['device']}",
        "admin_port": ports["admin"],
        "device_port": ports["device"],
        "mqtt_port": ports["mqtt"],
    }
    files.write_atomic(serve_file(config), (json.dumps(served, indent=1) + "\n").encode())
    _LOG.info("ready: admin and page %s, devices %s, mqtt port %d", *list(served.values())[1:3], ports["mqtt"])


def reachable(host: str) -> str:
    """An address at which this process reaches a server that listens on ``host``."""
    return "127.0.0.1" if host in _ANY_ADDRESS else host


def in_url(host: str) -> str:
    """``host`` as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
