"""Which broker the service speaks through: the table ``[broker]`` of its configuration. Pure.

========= ============================================================================================================
kind      the broker
========= ============================================================================================================
embedded  nats-server, which the service starts, watches and ends
nats      a nats-server or a cluster of them; who may connect is asked of the service (auth callout)
mosquitto Mosquitto 2, or a broker that speaks MQTT as it does; who may connect is in its ACL and its CRL
========= ============================================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["KINDS", "BrokerSettings", "read_settings", "split_address"]

KINDS: Final = ("embedded", "nats", "mosquitto")
_MQTT_PORT: Final = 8883
_LISTS: Final = ("addresses", "own_addresses", "client_urls", "reload_command")
_MOST_ADDRESSES: Final = 16


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """Settings of the broker.

    Args:
        kind: one of :data:`KINDS`.
        addresses: ``host:port`` of the listeners for MQTT over TLS, one a node. Devices are told them at enrolment.
        own_addresses: the same, as this service reaches them; empty: ``addresses``.
        client_urls: of NATS, e.g. ``tls://nats-1:4222``: where the auth callout connects.
        crl_file: of Mosquitto: the certificate revocation list, which the service writes.
        reload_command: of Mosquitto: makes it read the CRL again, e.g. ``["systemctl", "reload", "mosquitto"]``.
        pid_file: of Mosquitto, instead of a command: the process in it gets SIGHUP.
    """

    kind: str = "embedded"
    addresses: tuple[str, ...] = ()
    own_addresses: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    crl_file: str = ""
    reload_command: tuple[str, ...] = ()
    pid_file: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _invalid(f"broker.kind must be one of {', '.join(KINDS)}")
        if self.kind == "embedded":
            if any(getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "kind"):
                raise _invalid("an embedded broker has no other settings: set broker.kind to nats or mosquitto")
            return
        if not 1 <= len(self.addresses) <= _MOST_ADDRESSES:
            raise _invalid(f"broker.addresses must name 1 to {_MOST_ADDRESSES} listeners as host:port")
        for address in (*self.addresses, *self.own_addresses):
            split_address(address)
        if self.kind == "nats":
            if not self.client_urls:
                raise _invalid("broker.client_urls must name the client ports of NATS, e.g. tls://nats-1:4222")
            if self.crl_file or self.reload_command or self.pid_file:
                raise _invalid("broker.crl_file, reload_command and pid_file are those of mosquitto")
        else:
            if self.client_urls:
                raise _invalid("broker.client_urls are those of nats")
            if not self.crl_file or bool(self.reload_command) == bool(self.pid_file):
                raise _invalid(
                    "mosquitto needs broker.crl_file, and one of broker.reload_command and broker.pid_file: without"
                    " them a revoked device would stay connected"
                )

    @property
    def own(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener, as this service reaches it."""
        return tuple(split_address(address) for address in self.own_addresses or self.addresses)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[IPv6]:port`` or ``host`` (port 8883).

    Raises:
        FleetError: ``config.invalid``.
    """
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = address, str(_MQTT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or len(host) > 255 or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise _invalid(f"broker address {address!r} must be host:port")
    return host, int(port)


def read_settings(table: object) -> BrokerSettings:
    """The settings in the table ``[broker]``.

    Raises:
        FleetError: ``config.unknown_key``, ``config.invalid``.
    """
    if isinstance(table, BrokerSettings):
        return table
    if not isinstance(table, Mapping):
        raise _invalid('broker must be a table: [broker], then kind = "…"')
    known = {field.name for field in dataclasses.fields(BrokerSettings)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise FleetError(
                "config.unknown_key", f"unknown setting 'broker.{key}'; known are: {', '.join(sorted(known))}", 400
            )
        if key in _LISTS:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
                raise _invalid(f"broker.{key} must be a list of texts")
            values[key] = tuple(value)
        elif isinstance(value, str) and value:
            values[key] = value
        else:
            raise _invalid(f"broker.{key} must be a text")
    return BrokerSettings(**values)


def _invalid(text: str) -> FleetError:
    return FleetError("config.invalid", text, 400)
