"""Enrolment: a one-time token and a certificate signing request (CSR) become a device with a certificate.

Invariants:
    * A device that a token was made for is pending until it comes; from then on it is active.
    * Only the SHA-256 of a token's secret is kept. A token is good for one device id, once, until it expires.
    * Using up the token and making the device active are one transaction. Of two requests that race, one wins; a
      request that is refused, for whatever reason, leaves the token unused.
    * The fleet never has the device's private key: the CSR carries the public one.

What this module does not do: renew a certificate (:mod:`renewal`); limit the rate of requests
(:mod:`wheeltapper_fleet.device_api`).

Example::

    token = enrolment.create_token("press-1", tags={"site": "north"})  # a person, once
    answer = enrolment.enrol(token, csr_pem)  # the device, once
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.expected import (
    ExpectedDevice,
    admit_device,
    expect_devices,
    expected_states,
    wrong_rows,
)
from wheeltapper_fleet.devices.rules import may_enrol
from wheeltapper_fleet.devices.scope import check_kept
from wheeltapper_fleet.devices.tables import enrolment_tokens
from wheeltapper_fleet.devices.tags import changed_tags, check_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import DeviceCertificate, FleetCA
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["DEFAULT_TTL_SECONDS", "Endpoints", "Enrolled", "Enrolment"]

DEFAULT_TTL_SECONDS: Final = 86_400.0
_WRONG_SHOWN: Final = 10
_TOKEN: Final = re.compile(r"wt1\.([a-z0-9][a-z0-9-]{0,62})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})\Z")


@dataclass(frozen=True)
class Endpoints:
    """Under which addresses a device reaches the fleet.

    Args:
        mqtt_host, mqtt_port: of the broker, or of one node of it.
        https_url: of the devices' API.
        brokers: ``host:port`` of every node, where there are several.
    """

    mqtt_host: str
    mqtt_port: int
    https_url: str
    brokers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Enrolled:
    """The answer to an enrolment: the certificate (PEM), the fleet's CA (PEM), the TUF root, and the addresses."""

    device: str
    certificate: str
    ca: str
    root: str
    mqtt_host: str
    mqtt_port: int
    https_url: str
    brokers: tuple[str, ...] = ()


class Enrolment:
    """Creates enrolment tokens, and enrols devices that bring one.

    Args:
        engine: the fleet's database.
        ca: signs the devices' certificates.
        root: the TUF root metadata that devices begin to trust with.
        endpoints: the addresses to tell each device.
        clock: Unix seconds.
    """

    def __init__(
        self, engine: Engine, ca: FleetCA, root: bytes, endpoints: Endpoints, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._ca = ca
        self._root = root
        self._endpoints = endpoints
        self._clock = clock

    def create_token(
        self,
        device: str,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        tags: Mapping[str, str] | None = None,
        who: str = "",
        scope: str = "",
    ) -> str:
        """A new token for ``device``, which is pending from then on. Its text is returned once and kept nowhere.

        Args:
            device: the id that the token is for.
            ttl_seconds: how long it is valid, 1 s to 366 days.
            tags: what the device will be tagged with; None: with what it was tagged before, if it was known.
            who: the person, for the log.
            scope: the devices that the person is limited to (:mod:`wheeltapper_fleet.devices.scope`); empty: all.

        Raises:
            FleetError: ``enrol.device_exists``, ``enrol.ttl``, ``tag.invalid``, ``tag.too_many``,
                ``api.out_of_scope``.
            WireError: ``id.invalid``.
        """
        device_id(device)
        changed_tags({}, tags or {}, device)
        check_tags(tags or {})
        with self._engine.begin() as connection:
            known = expected_states(connection, [device])
            check_kept(connection, list(known), scope, self._clock())
            if device in known and not may_enrol(known[device]):
                raise _exists(device)
            return self._expect(connection, {device: tags}, known, ttl_seconds, who, scope)[0]

    def create_tokens(
        self,
        expected: Sequence[ExpectedDevice],
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        who: str = "",
        scope: str = "",
    ) -> list[str]:
        """A new token for each of many devices, in their order; for all of them or, if one row is wrong, for none.

        Args:
            expected: the devices.
            ttl_seconds: how long the tokens are valid, 1 s to 366 days.
            who: the person, for the log.
            scope: the devices that the person is limited to; empty: all.

        Raises:
            FleetError: ``enrol.rows``: which rows are wrong, and why; ``enrol.ttl``, ``api.out_of_scope``.
        """
        with self._engine.begin() as connection:
            known = expected_states(connection, [each.device for each in expected])
            check_kept(connection, list(known), scope, self._clock())
            if wrong := wrong_rows(expected, known):
                more = f"; and {len(wrong) - _WRONG_SHOWN} more" if len(wrong) > _WRONG_SHOWN else ""
                message = f"no token was made: {'; '.join(wrong[:_WRONG_SHOWN])}{more}"
                raise FleetError("enrol.rows", message, 422)
            tags_of = {each.device: each.tags for each in expected}
            return self._expect(connection, tags_of, known, ttl_seconds, who, scope)

    def _expect(
        self,
        connection: Connection,
        tags_of: Mapping[str, Mapping[str, str] | None],
        known: Mapping[str, str],
        ttl_seconds: float,
        who: str,
        scope: str,
    ) -> list[str]:
        """Make the devices pending, and a token for each."""
        if not 1 <= ttl_seconds <= 366 * 86_400:
            raise FleetError("enrol.ttl", f"a token cannot be valid for {ttl_seconds} s; use 1 s to 366 days")
        now = self._clock()
        expect_devices(connection, tags_of, known, who=who, now=now)
        check_kept(connection, list(tags_of), scope, now)
        secret_of = {device: secrets.token_bytes(32) for device in tags_of}
        rows = [
            {
                "secret_sha256": hashlib.sha256(secret).hexdigest(),
                "device": device,
                "tags": dict(tags_of[device] or {}),
                "created_at": now,
                "expires_at": now + ttl_seconds,
                "used_at": None,
            }
            for device, secret in secret_of.items()
        ]
        if rows:
            connection.execute(insert(enrolment_tokens), rows)
        return [self._text(device, secret) for device, secret in secret_of.items()]

    def _text(self, device: str, secret: bytes) -> str:
        text = base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
        return f"wt1.{device}.{text}.{self._ca.ca_sha256}"

    def enrol(self, token: str, csr_pem: bytes) -> Enrolled:
        """Use up ``token`` and sign the CSR (PEM).

        Raises:
            FleetError: ``enrol.token_unknown``, ``enrol.token_used``, ``enrol.token_expired``, ``enrol.csr_invalid``,
                ``enrol.cn_mismatch``, ``enrol.device_exists``.
        """
        device, secret_sha256 = _parse(token)
        with reading(self._engine) as connection:
            query = select(enrolment_tokens).where(enrolment_tokens.c.secret_sha256 == secret_sha256)
            row = connection.execute(query).first()
        if row is None or row.device != device:
            raise _unknown()
        if row.used_at is not None:
            raise _used()
        if row.expires_at <= self._clock():
            raise FleetError("enrol.token_expired", "this token has expired; create a new one")
        certificate = self._ca.sign_device_csr(csr_pem, device)
        self._admit(device, secret_sha256, row.tags, certificate)
        return Enrolled(
            device=device,
            certificate=certificate.pem.decode("ascii"),
            ca=self._ca.pem.decode("ascii"),
            root=self._root.decode("utf-8"),
            mqtt_host=self._endpoints.mqtt_host,
            mqtt_port=self._endpoints.mqtt_port,
            https_url=self._endpoints.https_url,
            brokers=self._endpoints.brokers,
        )

    def _admit(self, device: str, secret_sha256: str, tags: Mapping[str, str], certificate: DeviceCertificate) -> None:
        now = self._clock()
        unused = (enrolment_tokens.c.secret_sha256 == secret_sha256, enrolment_tokens.c.used_at.is_(None))
        try:
            with self._engine.begin() as connection:
                # The update comes first: it takes the write lock, so the slower of two requests sees it used.
                if connection.execute(update(enrolment_tokens).where(*unused).values(used_at=now)).rowcount != 1:
                    raise _used()
                admit_device(connection, device, tags, certificate, now)
        except IntegrityError as error:
            raise _exists(device) from error


def _parse(token: str) -> tuple[str, str]:
    match = _TOKEN.match(token)
    if match is None:
        raise _unknown()
    try:
        secret = base64.urlsafe_b64decode(match.group(2) + "=")
    except binascii.Error as error:
        raise _unknown() from error
    return match.group(1), hashlib.sha256(secret).hexdigest()


def _unknown() -> FleetError:
    return FleetError(
        "enrol.token_unknown", "this token is not known here; ask for one with `wheeltapper device token …`"
    )


def _used() -> FleetError:
    return FleetError("enrol.token_used", "this token has been used; create a new one")


def _exists(device: str) -> FleetError:
    return FleetError(
        "enrol.device_exists", f"{device} is enrolled already; forget or retire it first if its key is lost"
    )
