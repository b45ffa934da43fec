"""How the service sends: the table ``[notify]`` of its configuration. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Network", "NotifySettings", "read_settings"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_SECURITY: Final = ("starttls", "tls", "none")


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Settings of webhooks and mail.

    Args:
        smtp_host, smtp_port: the mail server; without a host no mail is sent.
        smtp_security: ``starttls`` (or nothing is sent), ``tls`` from the start, or ``none`` without a login.
        smtp_user, smtp_password_file: the login; the file must be readable by its owner only.
        mail_from: the sender's address.
        ca_file: PEM file with the CAs that servers are verified with, instead of the system's.
        allow_private: networks (CIDR) outside of the public internet that webhooks may go to.
    """

    smtp_host: str = ""
    smtp_port: int = 587
    smtp_security: str = "starttls"
    smtp_user: str = ""
    smtp_password_file: str = ""
    mail_from: str = ""
    ca_file: str = ""
    allow_private: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.smtp_port <= 65535:
            raise _invalid("notify.smtp_port must be 1 to 65535")
        if self.smtp_security not in _SECURITY:
            raise _invalid(f"notify.smtp_security must be one of {', '.join(_SECURITY)}")
        if bool(self.smtp_user) != bool(self.smtp_password_file):
            raise _invalid("set both notify.smtp_user and notify.smtp_password_file, or neither")
        if self.smtp_user and self.smtp_security == "none":
            raise _invalid("notify.smtp_security none would send the password in clear text: use starttls or tls")
        if self.smtp_host and "@" not in self.mail_from:
            raise _invalid("notify.mail_from must be the sender's address")
        self.networks()

    def networks(self) -> tuple[Network, ...]:
        """The networks of :attr:`allow_private`.

        Raises:
            FleetError: ``config.invalid``.
        """
        try:
            return tuple(ipaddress.ip_network(text) for text in self.allow_private)
        except ValueError as error:
            raise _invalid(f"notify.allow_private: {error}") from error


def read_settings(table: object) -> NotifySettings:
    """The settings in the table ``[notify]``.

    Raises:
        FleetError: ``config.unknown_key``, ``config.invalid``.
    """
    if isinstance(table, NotifySettings):
        return table
    if not isinstance(table, Mapping):
        raise _invalid("notify must be a table: [notify], then smtp_host = …")
    known = {field.name: type(field.default) for field in dataclasses.fields(NotifySettings)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            names = ", ".join(sorted(known))
            raise FleetError("config.unknown_key", f"unknown setting 'notify.{key}'; known are: {names}", 400)
        if known[key] is tuple:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise _invalid(f"notify.{key} must be a list of texts")
            values[key] = tuple(value)
        elif type(value) is known[key]:
            values[key] = value
        else:
            raise _invalid(f"notify.{key} must be a {'text' if known[key] is str else 'whole number'}")
    return NotifySettings(**values)


def _invalid(text: str) -> FleetError:
    return FleetError("config.invalid", text, 400)
