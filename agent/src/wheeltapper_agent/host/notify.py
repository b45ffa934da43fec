"""Notifications to systemd (``sd_notify(3)``): ready, status, watchdog, stopping.

Each is a datagram ``KEY=value`` to the socket that ``NOTIFY_SOCKET`` names; without that variable every call does
nothing. Sending never blocks: where the receiver's queue is full, the message is dropped, and a later one replaces it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["Notifier"]

_LOG = logging.getLogger(__name__)
_MAX_STATUS_CHARACTERS: Final = 400


class Notifier:
    """Sends notifications to the service manager.

    Args:
        address: path of the datagram socket; ``@name`` is in the abstract namespace; None: nobody listens.
        watchdog_seconds: the service manager restarts the process when it hears nothing for so long; None: it does not
            watch.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Notifier:
        """Make one from ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (``sd_watchdog_enabled(3)``)."""
        seconds = None
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            text = environment.get("WATCHDOG_USEC", "")
            seconds = int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None
        return cls(environment.get("NOTIFY_SOCKET") or None, seconds)

    @property
    def listening(self) -> bool:
        """Whether there is a service manager to notify."""
        return self._address is not None

    def ready(self) -> None:
        """Report that the agent has started."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Report that the agent is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(f"STATUS={' '.join(text.split())[:_MAX_STATUS_CHARACTERS]}")

    def watchdog(self) -> None:
        """Restart the watchdog's timeout: the agent is alive."""
        self._send("WATCHDOG=1")

    def _send(self, line: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                out.sendto(line.encode(), self._address)
        except OSError as error:
            _LOG.debug("notify: %s was not sent: %s", line.partition("=")[0], error)
