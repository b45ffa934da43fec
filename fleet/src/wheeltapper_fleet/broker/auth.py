"""Who may connect to the broker, and what they may say and hear.

nats-server asks on ``$SYS.REQ.USER.AUTH`` for every MQTT connection; the answer is a JWT (NATS auth callout).

Invariants:
    * Only a certificate that the broker has verified counts. A device's must be its current one and the device not
      revoked; the client id must be the device id, so nobody takes over another's session.
    * A device may publish below its own ``up/`` and subscribe below its own ``down/``, nothing else.
    * Whatever goes wrong here, the answer is no.

What this module does not do: MQTT, certificates' validity (the broker's TLS does that).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import nats
import nkeys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from wheeltapper_fleet.broker.config import FLEET_ACCOUNT
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["FLEET_CLIENT", "FLEET_CLIENT_ID", "AuthService", "Grant", "decide", "new_seed", "public_key"]

_LOG: Final = logging.getLogger(__name__)
FLEET_CLIENT: Final = "fleet.ingest"
"""CN of the fleet's own certificate; the dot keeps it apart from every device id."""
FLEET_CLIENT_ID: Final = "fleet_ingest"
"""Its MQTT client id: nats-server takes no dot there, and no device id has an underscore."""
_PREFIX_ACCOUNT: Final = 0
_PREFIX_USER: Final = 20 << 3


@dataclass(frozen=True)
class Grant:
    """NATS subjects that one connection may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def decide(
    common_name: str, fingerprint: str, client_id: str, known: Callable[[str], str | None], fleet_fingerprint: str
) -> Grant:
    """What the holder of a verified certificate may do.

    Args:
        fingerprint: SHA-256 (hex) of the certificate's DER.
        known: gives the current certificate's fingerprint of a device that may connect, or None.

    Raises:
        FleetError: ``device.unknown``, ``device.client_id``.
    """
    if client_id != (FLEET_CLIENT_ID if common_name == FLEET_CLIENT else common_name):
        raise FleetError("device.client_id", "the MQTT client id must be the certificate's common name", 403)
    if common_name == FLEET_CLIENT:
        if fingerprint != fleet_fingerprint:
            raise FleetError("device.unknown", "this is not the fleet's own certificate", 403)
        return Grant(publish=("wt.v1.*.down.*",), subscribe=("wt.v1.*.up.*",))
    try:
        device = device_id(common_name)
    except WireError as error:
        raise FleetError("device.unknown", "the certificate does not name a device", 403) from error
    if known(device) != fingerprint:
        raise FleetError("device.unknown", "the device is unknown, revoked, or has a newer certificate", 403)
    return Grant(publish=(f"wt.v1.{device}.up.*",), subscribe=(f"wt.v1.{device}.down.*",))


def new_seed(kind: str) -> bytes:
    """A fresh nkey seed: ``kind`` is ``user`` or ``account``."""
    prefix = {"user": _PREFIX_USER, "account": _PREFIX_ACCOUNT}[kind]
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


def public_key(seed: bytes) -> str:
    """The public half of a seed, as text."""
    return bytes(nkeys.from_seed(seed).public_key).decode()


class AuthService:
    """Answers the broker's questions on a thread of its own; comes back after the broker does.

    Args:
        fleet_certificate_sha256: fingerprint of the certificate that :data:`FLEET_CLIENT` must show.
    """

    def __init__(self, engine: Engine, *, fleet_certificate_sha256: str) -> None:
        self._engine = engine
        self._fleet_fingerprint = fleet_certificate_sha256
        self._user_seed = new_seed("user")
        self._issuer_seed = new_seed("account")
        self.user = public_key(self._user_seed)
        self.issuer = public_key(self._issuer_seed)
        self._connections: dict[str, tuple[str, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._done: asyncio.Event | None = None
        self._client: Any = None
        self.refusals = 0

    def start(self, url: str, timeout_seconds: float = 15.0) -> None:
        """Connect to the broker at ``url`` and answer from now on.

        Raises:
            FleetError: ``broker.auth_failed``.
        """
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(url)), name="broker-auth", daemon=True)
        self._thread.start()
        if not self._ready.wait(timeout_seconds):
            self.stop()
            raise FleetError("broker.auth_failed", "the auth service could not reach the broker", 500)

    def stop(self) -> None:
        """Stop answering; nobody can connect any more."""
        if self._thread is None:
            return
        if self._loop is not None and self._done is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self._thread = None

    def disconnect(self, device: str) -> None:
        """End the device's connection, if it has one; used when it is revoked."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._kick(device), self._loop).result(5)

    async def _kick(self, device: str) -> None:
        server, connection = self._connections.get(device, ("", 0))
        if server and self._client is not None:
            await self._client.request(
                f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": connection}).encode(), timeout=2
            )

    async def _run(self, url: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()

        async def quiet(error: Exception) -> None:
            _LOG.debug("auth service: %s", error)

        self._client = await nats.connect(
            url,
            nkeys_seed_str=self._user_seed.decode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=5,
            error_cb=quiet,
        )
        await self._client.subscribe("$SYS.REQ.USER.AUTH", cb=self._answer)
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
        except FleetError as error:
            self.refusals += 1
            _LOG.info("a connection was refused: %s", error)
            answer = {"error": error.code}
        except Exception:  # noqa: BLE001  # fail closed, and keep answering the others
            self.refusals += 1
            _LOG.exception("a connection was refused: the request could not be judged")
            answer = {"error": "broker.auth_error"}
        question = claims.get("nats", {})
        body = {"type": "authorization_response", "version": 2, **answer}
        audience = question.get("server_id", {}).get("id", "")
        token = self._sign(subject=question.get("user_nkey", ""), audience=audience, body=body)
        await message.respond(token.encode())

    def _authorize(self, claims: dict[str, Any]) -> str:
        question = claims["nats"]
        client = question["client_info"]
        chains = question.get("client_tls", {}).get("verified_chains") or []
        if client.get("type") != "mqtt" or not chains:
            raise FleetError("device.unknown", "only MQTT with a verified certificate may connect", 403)
        certificate = x509.load_pem_x509_certificate(chains[0][0].encode())
        common_name = _common_name(certificate)
        fingerprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        client_id = client.get("mqtt_id") or question.get("connect_opts", {}).get("mqtt_id") or client.get("name", "")
        grant = decide(common_name, fingerprint, client_id, self._current_fingerprint, self._fleet_fingerprint)
        self._connections[common_name] = (question["server_id"]["id"], int(client.get("id", 0)))
        body = {
            "type": "user",
            "version": 2,
            "pub": {"allow": list(grant.publish)},
            "sub": {"allow": list(grant.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": ["MQTT"],
        }
        return self._sign(subject=question["user_nkey"], audience=FLEET_ACCOUNT, body=body, name=common_name)

    def _current_fingerprint(self, device: str) -> str | None:
        query = select(devices.c.certificate_sha256).where(devices.c.id == device, devices.c.revoked.is_(False))
        try:
            with reading(self._engine) as connection:
                return connection.execute(query).scalar_one_or_none()
        except SQLAlchemyError as error:
            raise FleetError("broker.auth_error", "the database does not answer", 500) from error

    def _sign(self, *, subject: str, audience: str, body: dict[str, Any], name: str = "") -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": subject, "aud": audience, "iat": now, "name": name, "nats": body}
        claims["jti"] = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).hexdigest()
        head = _base64url(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        signed = f"{head}.{_base64url(json.dumps(claims).encode())}"
        return f"{signed}.{_base64url(nkeys.from_seed(self._issuer_seed).sign(signed.encode()))}"


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise FleetError("device.unknown", "the certificate must have exactly one common name", 403)
    return str(names[0].value)


def _claims(token: bytes) -> dict[str, Any]:
    """The claims of the broker's question. It comes over loopback on a subject that only the broker may publish to."""
    middle = token.split(b".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + b"=" * (-len(middle) % 4)))
    return claims


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
