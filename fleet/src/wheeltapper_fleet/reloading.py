"""The certificates that the running service shows: renewed, and taken into use without a restart.

Invariants:
    * No part is started again. Connections over HTTPS stay; those to the broker are made anew (nats-server ends them).
    * What failed is tried again at the next turn: a certificate counts as in use only when every part has it.

What this module does not do: issue certificates (:mod:`wheeltapper_fleet.trust.ca`).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.device_api.tls_server import reload_certificate
from wheeltapper_fleet.trust.ca import FleetCA, TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256

__all__ = ["AdminCertificate", "IngestCertificate", "ServerCertificate", "on_loop"]

_TIMEOUT_SECONDS: Final = 10.0


class ServerCertificate:
    """The certificate of the devices' HTTPS server and of the broker.

    Args:
        ca: issues it.
        files: those that the parts have read.
        hosts: whom it names, beside the local ones.
        broker: the embedded one, which reads it again; None where brokers have certificates of their own.
        context: of the HTTPS server.
        on_loop: calls a function on the thread of the HTTPS server's event loop; see :func:`on_loop`.
    """

    def __init__(
        self,
        ca: FleetCA,
        files: TlsFiles,
        hosts: Sequence[str],
        broker: BrokerServer | None,
        context: ssl.SSLContext,
        on_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._ca, self._hosts, self._broker, self._context, self._on_loop = ca, hosts, broker, context, on_loop
        self._in_use = _digest(files.certificate, files.ca)

    def renew(self) -> bool:
        """Renew it if that is due, and take what changed into use; returns whether anything changed."""
        files = self._ca.server_files(self._hosts)
        found = _digest(files.certificate, files.ca)
        if found == self._in_use:
            return False
        self._on_loop(lambda: reload_certificate(self._context, files.certificate, files.key, files.ca))
        if self._broker is not None:
            self._broker.reload()
        self._in_use = found
        return True


class IngestCertificate:
    """The certificate with which the service itself connects to its broker.

    Args:
        ca: issues it.
        files: those that the connection was made with.
        auth: lets nobody in as the service but who shows it; None where a broker asks nobody.
        link: the connection.
        process: the name of this process.
    """

    def __init__(
        self, ca: FleetCA, files: TlsFiles, auth: AuthCallout | None, link: FleetLink, process: str = "ingest"
    ) -> None:
        self._ca, self._auth, self._link, self._process = ca, auth, link, process
        self._in_use = _digest(files.certificate, files.ca)

    def renew(self) -> bool:
        """Renew it if that is due, and connect with it; returns whether anything changed."""
        files = self._ca.ingest_files(self._process)
        found = _digest(files.certificate, files.ca)
        if found == self._in_use:
            return False
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        if self._auth is not None:
            self._auth.trust_fleet_certificate(certificate_sha256(certificate))
        self._link.renew(ca=files.ca, certificate=files.certificate, key=files.key)
        self._in_use = found
        return True


class AdminCertificate:
    """The operator's certificate of the admin API: read again when its files changed.

    Args:
        certificate, key: PEM files.
        context: gives the server's context; None as long as the server has not started.
        on_loop: see :class:`ServerCertificate`.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        context: Callable[[], ssl.SSLContext | None],
        on_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._files, self._context, self._on_loop = (certificate, key), context, on_loop
        self._in_use = _digest(*self._files)

    def renew(self) -> bool:
        """Take the files into use if they changed; returns whether they did."""
        found, context = _digest(*self._files), self._context()
        if found == self._in_use or context is None:
            return False
        self._on_loop(lambda: reload_certificate(context, *self._files))
        self._in_use = found
        return True


def on_loop(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], None]], None]:
    """A function that calls another one on the thread of ``loop``, waits for it, and raises what it raises."""

    def call(work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), loop).result(_TIMEOUT_SECONDS)

    return call


def _digest(*files: Path) -> bytes:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
