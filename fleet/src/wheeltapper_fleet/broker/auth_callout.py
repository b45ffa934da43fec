"""Answers nats-server's auth callout: the broker asks here whether each new MQTT connection is allowed.

The broker publishes its request on ``$SYS.REQ.USER.AUTH``. The answer is a JWT with the connection's permissions, or an
error code (NATS documentation, "Auth Callout").

Invariants:
    * Only a certificate that the broker's TLS has verified counts.
    * Whatever goes wrong here, the connection is refused.

What this module does not do: the rules (:mod:`permissions`), MQTT.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats
import nkeys
from cryptography import x509
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from wheeltapper_fleet.broker.config import FLEET_ACCOUNT
from wheeltapper_fleet.broker.permissions import permissions_of
from wheeltapper_fleet.devices.certificates import accepts_certificate
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.names import FLEET_COMMON_NAME
from wheeltapper_fleet.trust.certificates import certificate_sha256, common_name

__all__ = ["AuthCallout", "AuthKeys", "new_seed", "public_key"]

_LOG: Final = logging.getLogger(__name__)
_LET_IN: Final = "wheeltapper.let_in"
"""In the system account, which only the service and the brokers can use."""
_PREFIX_ACCOUNT: Final = 0
_PREFIX_USER: Final = 20 << 3


def new_seed(kind: str) -> bytes:
    """A new nkey seed; ``kind`` is ``user`` or ``account``."""
    prefix = {"user": _PREFIX_USER, "account": _PREFIX_ACCOUNT}[kind]
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


def public_key(seed: bytes) -> str:
    """The public key of an nkey seed, as text."""
    return bytes(nkeys.from_seed(seed).public_key).decode()


@dataclass(frozen=True)
class AuthKeys:
    """The nkey seeds with which the auth callout connects, and signs its answers."""

    user: bytes
    issuer: bytes

    def __repr__(self) -> str:
        return f"AuthKeys(user={public_key(self.user)})"

    @classmethod
    def new(cls) -> AuthKeys:
        """New keys, for a broker that is configured anew at each start."""
        return cls(new_seed("user"), new_seed("account"))


class AuthCallout:
    """Answers the broker's requests on a thread of its own, and reconnects by itself after the broker restarted.

    Several processes may answer the same broker, each request one of them (a queue group); they tell each other which
    connections they let in.

    Args:
        engine: the fleet's database.
        fleet_certificate_sha256: fingerprint of the service's own client certificate.
        fleet_fingerprint: gives those of the other processes of the service, by their common names.
        keys: those that the broker's configuration names; None: new ones.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        fleet_certificate_sha256: str,
        fleet_fingerprint: Callable[[str], str | None] = lambda name: None,
        keys: AuthKeys | None = None,
    ) -> None:
        self._engine = engine
        self._fleet_fingerprint = fleet_certificate_sha256
        self._fingerprint_of = fleet_fingerprint
        self._keys = keys or AuthKeys.new()
        self.user = public_key(self._keys.user)
        self.issuer = public_key(self._keys.issuer)
        self._addresses: dict[str, str] = {}
        self._connections: dict[str, tuple[str, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._done: asyncio.Event | None = None
        self._client: Any = None
        self.refusals = 0

    def start(self, *urls: str, ca: Path | None = None, timeout_seconds: float = 15.0) -> None:
        """Connect to the broker and start to answer.

        Args:
            urls: the NATS client ports of its nodes, e.g. ``nats://127.0.0.1:4222``.
            ca: PEM file that verifies the nodes, where they speak TLS.
            timeout_seconds: how long to wait for the connection.

        Raises:
            FleetError: ``broker.auth_failed``.
        """
        run = functools.partial(asyncio.run, self._run(urls, ca))
        self._thread = threading.Thread(target=run, name="broker-auth", daemon=True)
        self._thread.start()
        if not self._ready.wait(timeout_seconds):
            self.stop()
            raise FleetError(
                "broker.auth_failed",
                f"the auth callout could not reach the broker at {', '.join(urls)}; see the broker's log",
                500,
            )

    def stop(self) -> None:
        """Stop answering. From then on the broker accepts no new connection."""
        if self._thread is None:
            return
        if self._loop is not None and self._done is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self._thread = None

    def trust_fleet_certificate(self, sha256: str) -> None:
        """From now on the service itself connects with the certificate of this fingerprint, and with no other."""
        self._fleet_fingerprint = sha256

    def address(self, device: str) -> str:
        """Where the newest connection of ``device`` comes from; empty if it has made none since the start."""
        return self._addresses.get(device, "")

    def disconnect(self, device: str) -> None:
        """End a device's connection, if it has one. Called when the device is revoked."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._kick(device), self._loop).result(5)

    async def _kick(self, device: str) -> None:
        server, connection = self._connections.get(device, ("", 0))
        if server and self._client is not None:
            await self._client.request(
                f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": connection}).encode(), timeout=2
            )

    async def _run(self, urls: Sequence[str], ca: Path | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()

        async def log_error(error: Exception) -> None:
            _LOG.debug("auth callout: %s", error)

        self._client = await nats.connect(
            list(urls),
            tls=None if ca is None else ssl.create_default_context(cafile=str(ca)),
            nkeys_seed_str=self._keys.user.decode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=5,
            allow_reconnect=True,
            error_cb=log_error,
        )
        await self._client.subscribe(_LET_IN, cb=self._heard)
        await self._client.subscribe("$SYS.REQ.USER.AUTH", queue="wheeltapper", cb=self._answer)
        await self._client.flush()
        self._ready.set()
        await self._done.wait()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), 5)

    async def _answer(self, message: Any) -> None:
        claims: dict[str, Any] = {}
        try:
            claims = _claims(message.data)
            user = await asyncio.to_thread(self._authorize, claims)
            answer: dict[str, Any] = {"jwt": user}
            await self._client.publish(_LET_IN, json.dumps(_connection(claims["nats"])).encode())
        except FleetError as error:
            self.refusals += 1
            _LOG.info("a connection was refused: %s", error)
            answer = {"error": error.code}
        except Exception:  # noqa: BLE001  # fail closed, and keep answering the others
            self.refusals += 1
            _LOG.exception("a connection was refused: its authorization failed unexpectedly")
            answer = {"error": "broker.auth_error"}
        request = claims.get("nats", {})
        body = {"type": "authorization_response", "version": 2, **answer}
        audience = request.get("server_id", {}).get("id", "")
        token = self._sign(subject=request.get("user_nkey", ""), audience=audience, body=body)
        await message.respond(token.encode())

    def _authorize(self, claims: dict[str, Any]) -> str:
        """Check one connection and give the user JWT with its permissions."""
        request = claims["nats"]
        client = request["client_info"]
        chains = request.get("client_tls", {}).get("verified_chains") or []
        if client.get("type") != "mqtt" or not chains:
            raise FleetError("device.unknown", "only MQTT clients with a verified certificate may connect", 403)
        certificate = x509.load_pem_x509_certificate(chains[0][0].encode())
        name = common_name(certificate)
        if name is None:
            raise FleetError("device.unknown", "the certificate must have exactly one common name", 403)
        fingerprint = certificate_sha256(certificate)
        client_id = client.get("mqtt_id") or request.get("connect_opts", {}).get("mqtt_id") or client.get("name", "")
        current = functools.partial(self._own_fingerprint, fingerprint)
        allowed = permissions_of(name, fingerprint, client_id, current, self._fleet_certificate)
        self._note(**_connection(request))
        body = {
            "type": "user",
            "version": 2,
            "pub": {"allow": list(allowed.publish)},
            "sub": {"allow": list(allowed.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": ["MQTT"],
        }
        return self._sign(subject=request["user_nkey"], audience=FLEET_ACCOUNT, body=body, name=name)

    def _fleet_certificate(self, name: str) -> str | None:
        return self._fleet_fingerprint if name == FLEET_COMMON_NAME else self._fingerprint_of(name)

    async def _heard(self, message: Any) -> None:
        """Another process let somebody in."""
        try:
            self._note(**json.loads(message.data))
        except (ValueError, TypeError) as error:
            _LOG.debug("auth callout: what another process said of a connection cannot be read: %s", error)

    def _note(self, device: str, address: str, server: str, connection: int) -> None:
        """Keep where the newest connection of a device is: 200 bytes a device."""
        self._addresses[device] = address
        self._connections[device] = server, connection

    def _own_fingerprint(self, shown: str, device: str) -> str | None:
        """``shown`` if that certificate is the device's own, else None."""
        try:
            return shown if accepts_certificate(self._engine, device, shown) else None
        except SQLAlchemyError as error:
            raise FleetError("broker.auth_error", "the database does not answer", 500) from error

    def _sign(self, *, subject: str, audience: str, body: dict[str, Any], name: str = "") -> str:
        """A JWT signed with the issuer's nkey."""
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": subject, "aud": audience, "iat": now, "name": name, "nats": body}
        claims["jti"] = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).hexdigest()
        head = _base64url(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        signed = f"{head}.{_base64url(json.dumps(claims).encode())}"
        return f"{signed}.{_base64url(nkeys.from_seed(self._keys.issuer).sign(signed.encode()))}"


def _connection(request: dict[str, Any]) -> dict[str, Any]:
    """Who connects, from where, and which connection of which server it is."""
    client = request["client_info"]
    name = common_name(x509.load_pem_x509_certificate(request["client_tls"]["verified_chains"][0][0].encode()))
    return {
        "device": name or "",
        "address": str(client.get("host") or "")[:80],
        "server": request["server_id"]["id"],
        "connection": int(client.get("id", 0)),
    }


def _claims(token: bytes) -> dict[str, Any]:
    """The claims of the broker's request.

    Its signature is not checked: it arrives over loopback or TLS, on a subject that only the broker may publish to.
    """
    middle = token.split(b".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + b"=" * (-len(middle) % 4)))
    return claims


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
