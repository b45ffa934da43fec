"""Revocation at a broker that asks nobody, such as Mosquitto: a list of void certificates, and the end of a connection.

Invariants:
    * The list (CRL) names every certificate that was issued and is void: of a device that is revoked or forgotten, or
      replaced by a newer one. It is written whole, and anew each day, long before it ends.
    * A device that is revoked while it is connected loses its connection: the service connects for a moment under the
      device's name, with a certificate that it makes for that and forgets, and the broker ends the other connection
      (OASIS MQTT 5.0, 3.1.4: the session is taken over). What the device shows afterwards is on the list.

What this module does not do: decide what is void (:mod:`wheeltapper_fleet.devices.issued`).
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from wheeltapper_fleet.broker.configure import CRL_SECONDS
from wheeltapper_fleet.broker.settings import BrokerSettings
from wheeltapper_fleet.devices.issued import serial_is_known, void_serials
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import FleetCA

__all__ = ["Revocation"]

_LOG: Final = logging.getLogger(__name__)
_ANEW_SECONDS: Final = 86_400.0
_RELOAD_SECONDS: Final = 30.0
_READ_SECONDS: Final = 0.5
"""Mosquitto looks for signals between two rounds of its loop."""
_CONNECT_SECONDS: Final = 5.0


class Revocation:
    """Keeps the list of a broker.

    Args:
        database: the fleet's.
        ca: signs the list.
        settings: where the list is, how the broker reads it again, and its listeners.
    """

    def __init__(self, database: Engine, ca: FleetCA, settings: BrokerSettings) -> None:
        self._database = database
        self._ca = ca
        self._settings = settings
        self._written: tuple[str, ...] | None = None
        self._written_at = 0.0
        self._lock = threading.Lock()

    def refresh(self, now: float) -> bool:
        """A duty: write the list if it is not that of now, and have the broker read it; False: there is no more to do.

        Reads all certificates that are not over, 0.1 s for 100,000 devices, without a lock that writers wait for.

        Raises:
            FleetError: ``broker.reload``.
            OSError: the list cannot be written.
        """
        with self._lock:
            serials = tuple(void_serials(self._database, now))
            if serials == self._written and 0 <= now - self._written_at < _ANEW_SECONDS:
                return False
            files.write_atomic(Path(self._settings.crl_file), self._ca.revocation_list(serials, CRL_SECONDS))
            self._reload()
            self._written, self._written_at = serials, now
        return False

    def disconnect(self, device: str) -> None:
        """Put the certificates of a device that was revoked on the list, and end its connection.

        Raises:
            FleetError: ``broker.reload``, ``broker.unreachable``, ``broker.serial_unknown``.
            OSError: the list cannot be written.
        """
        if not serial_is_known(self._database, device):
            raise FleetError(
                "broker.serial_unknown",
                f"an earlier version issued the certificate of {device} and did not keep its serial number, so no"
                " revocation list can name it: deny this user in the broker's ACL",
                409,
            )
        self.refresh(time.time())
        time.sleep(_READ_SECONDS)
        self._take_over(device)

    def _reload(self) -> None:
        try:
            if self._settings.reload_command:
                subprocess.run(
                    self._settings.reload_command,
                    check=True,
                    timeout=_RELOAD_SECONDS,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                )
            else:
                os.kill(int(Path(self._settings.pid_file).read_text(encoding="ascii")), signal.SIGHUP)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise FleetError(
                "broker.reload",
                f"the broker could not be told to read {self._settings.crl_file} again ({error}): revoked devices stay"
                " connected until it is",
                500,
            ) from error

    def _take_over(self, device: str) -> None:
        """Connect under the name of ``device`` and leave.

        Raises:
            FleetError: ``broker.unreachable``.
        """
        certificate, key = self._ca.stand_in(device)
        context = ssl.create_default_context(cafile=str(self._ca.certificate_path))
        with tempfile.TemporaryDirectory(prefix="wheeltapper-") as folder:
            pair = Path(folder) / "pair.pem"
            files.write_atomic(pair, key + certificate, files.PRIVATE)
            context.load_cert_chain(pair)
        for host, port in self._settings.own:
            client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv311)
            client.tls_set_context(context)
            connected = threading.Event()
            client.on_connect = lambda *_, connected=connected: connected.set()
            try:
                client.connect(host, port)
                client.loop_start()
                if connected.wait(_CONNECT_SECONDS):
                    return
            except OSError as error:
                _LOG.info("broker %s:%d: %s", host, port, error)
            finally:
                client.disconnect()
                client.loop_stop()
        raise FleetError("broker.unreachable", f"no broker took the connection that was to end that of {device}", 500)
