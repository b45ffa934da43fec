"""The devices' HTTPS server: TLS with the fleet's CA, and the client certificate of each connection.

Invariants:
    * TLS 1.2 or newer. A client certificate is optional, since a device has none before its enrolment. If one is shown,
      the fleet's CA must have signed it, or the handshake fails.
    * :data:`SCOPE_CN` and :data:`SCOPE_SHA256` in the ASGI scope come from the connection's verified certificate; no
      header can set them. TLS sessions are not resumed, so every connection shows its certificate.

What this module does not do: check whether the device is known or revoked (:mod:`app` does, at every request).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from wheeltapper_fleet.trust.ca import TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256, common_name

__all__ = ["SCOPE_CN", "SCOPE_SHA256", "device_server", "listening_socket", "reload_certificate"]

SCOPE_CN: Final = "wheeltapper_cn"
SCOPE_SHA256: Final = "wheeltapper_certificate_sha256"
_MAX_HEAD_BYTES: Final = 16 * 1024
_BACKLOG: Final = 512


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound, listening socket for ``server.run(sockets=[…])``.

    With port 0 a free port is chosen; ``getsockname()`` tells which, before the server runs. The protocol is named,
    since asyncio sends small parts at once (``TCP_NODELAY``) only on sockets that say they are TCP. Without it, an
    answer whose head and body are two parts waits 40 ms for a delayed acknowledgement (RFC 1122, section 4.2.3.2).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(_BACKLOG)
    bound.set_inheritable(False)
    return bound


def device_server(app: ASGIApp, host: str, port: int, tls: TlsFiles) -> uvicorn.Server:
    """A server for ``app`` that is not running yet: call ``run()`` in a thread, or await ``serve()``."""
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


def reload_certificate(context: ssl.SSLContext, certificate: Path, key: Path, ca: Path | None = None) -> None:
    """Let a running server's new connections use another certificate; those that stand are not touched.

    Call it on the thread of the server's event loop, which makes all handshakes: the context is never changed within
    one.

    Args:
        context: the server's.
        certificate, key: PEM files.
        ca: PEM file of a CA to trust beside those that are trusted already.

    Raises:
        OSError: the files cannot be used, or do not belong together; nothing changed.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)  # a failure would leave half of a pair
    context.load_cert_chain(certificate, key)
    if ca is not None:
        context.load_verify_locations(ca)


class _PeerProtocol(H11Protocol):
    """Adds the client certificate's name and fingerprint to the ASGI scope of every request of a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # the type that uvicorn uses
        super().connection_made(transport)
        self.app: Any = _WithPeer(self.app, *_peer(transport))


class _WithPeer:
    """An ASGI app that adds one connection's client certificate to the scope of its requests."""

    def __init__(self, app: ASGIApp, name: str | None, sha256: str | None) -> None:
        self._app = app
        self._name = name
        self._sha256 = sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, SCOPE_CN: self._name, SCOPE_SHA256: self._sha256}, receive, send)


def _peer(transport: asyncio.Transport) -> tuple[str | None, str | None]:
    """Common name and fingerprint of the connection's verified client certificate; (None, None) without one."""
    tls = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if not der:
        return None, None
    certificate = x509.load_der_x509_certificate(der)
    name = common_name(certificate)
    return (None, None) if name is None else (name, certificate_sha256(certificate))
