"""The devices' HTTPS listener: TLS by the fleet's CA, and who is on the other side.

Invariants:
    * TLS 1.2 or newer. A client certificate is optional (enrolment has none yet), but one that is shown must be signed
      by the fleet's CA, or the handshake fails.
    * :data:`SCOPE_CN` and :data:`SCOPE_SHA256` in the ASGI scope come from the verified certificate of this very
      connection; no header can set them. Sessions are not resumed, so every connection shows its certificate.

Not here: whether that device is known or revoked (``api/device.py`` asks the database, at every request).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from wheeltapper_fleet.trust.ca import TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256, common_name

__all__ = ["SCOPE_CN", "SCOPE_SHA256", "device_server", "listening_socket"]

SCOPE_CN: Final = "wheeltapper_cn"
SCOPE_SHA256: Final = "wheeltapper_certificate_sha256"
_MAX_HEAD_BYTES: Final = 16 * 1024
_BACKLOG: Final = 512


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket for ``server.run(sockets=[…])``; port 0 picks a free one, to be known before the server runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(_BACKLOG)
    bound.set_inheritable(False)
    return bound


def device_server(app: ASGIApp, host: str, port: int, tls: TlsFiles) -> uvicorn.Server:
    """A server for ``app``, not yet running; ``run()`` it in a thread or await ``serve()``."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_PeerProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        backlog=_BACKLOG,
        ssl_certfile=str(tls.certificate),
        ssl_keyfile=str(tls.key),
        ssl_ca_certs=str(tls.ca),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    config.ssl.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    config.ssl.num_tickets = 0
    return uvicorn.Server(config)


class _PeerProtocol(H11Protocol):
    """Puts the peer's name into the scope of every request of the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.app: Any = _WithPeer(self.app, *_peer(transport))


class _WithPeer:
    """An ASGI app that knows who asks."""

    def __init__(self, app: ASGIApp, name: str | None, sha256: str | None) -> None:
        self._app = app
        self._name = name
        self._sha256 = sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, SCOPE_CN: self._name, SCOPE_SHA256: self._sha256}, receive, send)


def _peer(transport: asyncio.Transport) -> tuple[str | None, str | None]:
    """The CN and the SHA-256 of the verified client certificate; (None, None) without one."""
    tls = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if not der:
        return None, None
    certificate = x509.load_der_x509_certificate(der)
    name = common_name(certificate)
    return (None, None) if name is None else (name, certificate_sha256(certificate))
