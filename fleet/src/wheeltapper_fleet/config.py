"""The fleet service's configuration: from a TOML file, the environment and command-line options, in that order.

Invariants:
    * An unknown key is an error, so that a misspelt setting never silently falls back to its default.
    * The admin API listens beyond loopback only with TLS (``config.admin_insecure``). Without TLS its bearer token
      would cross the network in clear text.

Example:
    >>> load_config(Path("fleet.toml"), {"mqtt_port": 0}).mqtt_port
    0

What this module does not do: open sockets or files of the service. A port of 0 stays 0 here; ``serve`` chooses a free
one and writes it to ``serve.json``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wheeltapper_fleet.access.oidc import OidcConfig, read_oidc_config
from wheeltapper_fleet.broker.settings import BrokerSettings, read_settings
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.history.settings import HistorySettings
from wheeltapper_fleet.history.settings import read_settings as read_history_settings
from wheeltapper_fleet.notify.settings import NotifySettings
from wheeltapper_fleet.notify.settings import read_settings as read_notify
from wheeltapper_fleet.telemetry.retention import Keep

__all__ = ["ROLES", "VARIABLES", "FleetConfig", "Settings", "is_loopback", "load_config", "read_settings_of"]

_PATHS = ("data_dir", "admin_tls_certificate", "admin_tls_key")
_PORTS = ("admin_port", "device_port", "mqtt_port")
_LISTS = ("public_hosts",)
ROLES = ("all", "api", "ingest", "engine")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_DAYS = (
    "keep_messages_days",
    "keep_rollups_days",
    "keep_hours_days",
    "keep_device_log_days",
    "keep_commands_days",
    "keep_audit_days",
    "keep_runs_days",
)
_MOST_DAYS = 36_500


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Settings of one fleet service. A port of 0 means any free port.

    Args:
        data_dir: folder of everything that the service keeps, except the offline keys.
        admin_host, admin_port: where the admin API and the page listen.
        admin_tls_certificate, admin_tls_key: PEM files with which the admin API uses TLS; both or neither.
        device_host, device_port: where the devices' HTTPS API listens.
        mqtt_host, mqtt_port: where the broker listens for devices.
        public_hosts: names and addresses at which devices and browsers reach this service. They go into the server's
            certificate; devices are told the first one at their enrolment.
        database_url: SQLAlchemy URL; empty means SQLite in ``data_dir``.
        role: ``all``, or the part of the service that this process is: ``api``, ``ingest``, ``engine``.
        name: of this process, where several share a data folder; empty: its role.
        broker: through which broker devices are reached; ``mqtt_host`` and ``mqtt_port`` are those of the embedded one.
        log_format: of the log on standard error: ``text``, or ``json`` for one object a line.
        oidc: how people sign in to the page with a login provider; None: with API tokens only.
        keep_messages_days, keep_rollups_days, keep_hours_days: for how long what devices delivered is kept record by
            record, summed up by 300 s, and summed up by the hour. Sums by day are kept for ever.
        keep_device_log_days, keep_commands_days, keep_audit_days: for how long is kept what was done to devices, what
            was asked of them, and the record of changes.
        keep_runs_days: for how long runs, their plots and bundles are kept that nothing stands on.
        notify: the mail server, and where webhooks may go.
        history: where raw history is kept beyond the database.
        datasets_url: where datasets are kept: a folder or ``s3://BUCKET/PREFIX``; empty: in ``data_dir``.
    """

    data_dir: Path = field(default_factory=lambda: Path("wheeltapper-data"))
    admin_host: str = "127.0.0.1"
    admin_port: int = 8080
    admin_tls_certificate: Path | None = None
    admin_tls_key: Path | None = None
    device_host: str = "127.0.0.1"
    device_port: int = 8443
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = 8883
    public_hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    database_url: str = ""
    role: str = "all"
    name: str = ""
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    oidc: OidcConfig | None = None
    log_format: str = "text"
    keep_messages_days: int = 90
    keep_rollups_days: int = 30
    keep_hours_days: int = 730
    keep_device_log_days: int = 1825
    keep_commands_days: int = 365
    keep_audit_days: int = 1825
    keep_runs_days: int = 365
    notify: NotifySettings = field(default_factory=NotifySettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    datasets_url: str = ""

    def __post_init__(self) -> None:
        for name in _PORTS:
            if not 0 <= getattr(self, name) <= 65535:
                raise FleetError("config.invalid", f"{name} must be 0 (any free port) to 65535", 400)
        for name in _DAYS:
            if not 1 <= getattr(self, name) <= _MOST_DAYS:
                raise FleetError("config.invalid", f"{name} must be 1 to {_MOST_DAYS} days", 400)
        if self.log_format not in ("text", "json"):
            raise FleetError("config.invalid", "log_format must be text or json", 400)
        if not self.public_hosts:
            raise FleetError("config.invalid", "public_hosts must name at least one host", 400)
        if (self.admin_tls_certificate is None) != (self.admin_tls_key is None):
            raise FleetError("config.invalid", "set both admin_tls_certificate and admin_tls_key, or neither", 400)
        if not is_loopback(self.admin_host) and self.admin_tls_certificate is None:
            raise FleetError(
                "config.admin_insecure",
                f"admin_host {self.admin_host!r} is not loopback: set admin_tls_certificate "
                "and admin_tls_key, or keep 127.0.0.1",
                400,
            )

        if self.role not in ROLES:
            raise FleetError("config.invalid", f"role must be one of {', '.join(ROLES)}", 400)
        if self.name and not _NAME.fullmatch(self.name):
            raise FleetError("config.invalid", "name must be 1 to 40 of a-z, 0-9 and -, not beginning with -", 400)
        if self.role != "all":
            self._check_shared()

    def _check_shared(self) -> None:
        """Refuse what several processes cannot share.

        Raises:
            FleetError: ``config.role_database``, ``config.role_broker``.
        """
        if not self.database_url.startswith("postgresql"):
            raise FleetError(
                "config.role_database",
                f"role {self.role} needs database_url to be a PostgreSQL: SQLite serves one process, with role all",
                400,
            )
        if self.broker.kind == "embedded":
            raise FleetError(
                "config.role_broker",
                f"role {self.role} needs a broker of its own ([broker] kind nats or mosquitto; write its configuration"
                " with `wheeltapper broker config nats --out DIR --node HOST`): the embedded one ends with its process",
                400,
            )

    @property
    def serves_http(self) -> bool:
        """Whether this process has the admin API, the page and the devices' API."""
        return self.role in ("all", "api")

    @property
    def process(self) -> str:
        """The name of this process, by which the broker and the other processes know it."""
        return self.name or ("ingest" if self.role == "all" else self.role)

    @property
    def keep(self) -> Keep:
        """How long telemetry is kept."""
        return Keep(
            messages_days=self.keep_messages_days,
            rollups_days=self.keep_rollups_days,
            hours_days=self.keep_hours_days,
        )

    @property
    def effective_database_url(self) -> str:
        """The database's URL: the configured one, else SQLite in ``data_dir``."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'fleet.db'}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback address or ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_TABLES = ("broker", "oidc", "notify", "history")
VARIABLES: dict[str, str] = {
    item.name: f"WHEELTAPPER_{item.name.upper()}"
    for item in dataclasses.fields(FleetConfig)
    if item.name not in _TABLES
}
"""The environment's variable of each setting that is no table of its own."""


@dataclass(frozen=True)
class Settings:
    """A configuration, and where each of its values is from: ``default``, a file, a variable, or ``option``."""

    config: FleetConfig
    origins: Mapping[str, str]


def load_config(
    source: Path | None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> FleetConfig:
    """The configuration of :func:`read_settings_of`, without where its values are from."""
    return read_settings_of(source, overrides, environ).config


def read_settings_of(
    source: Path | None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the configuration: an option goes before the environment, and that before the file.

    Args:
        source: a TOML file whose keys are named like the fields of :class:`FleetConfig`; None for all defaults.
        overrides: values of options; those that are None are ignored.
        environ: the environment, of which :data:`VARIABLES` are read; lists are written with commas. None: none.

    Raises:
        FleetError: ``config.unreadable``, ``config.unknown_key``, ``config.invalid``, ``config.admin_insecure``.
    """
    values: dict[str, Any] = {}
    if source is not None:
        try:
            values = tomllib.loads(source.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise FleetError("config.unreadable", f"cannot read {source}: {error}", 400) from error
    origins = dict.fromkeys(values, str(source))
    for name, variable in VARIABLES.items():
        text = (environ or {}).get(variable)
        if text:
            values[name], origins[name] = _from_text(name, variable, text), variable
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    values.update(given)
    origins.update(dict.fromkeys(given, "option"))
    known = {item.name for item in dataclasses.fields(FleetConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise FleetError(
            "config.unknown_key", f"unknown setting {unknown[0]!r}; known are: {', '.join(sorted(known))}", 400
        )
    typed: dict[str, Any] = {key: _typed(key, value) for key, value in values.items()}
    return Settings(FleetConfig(**typed), {name: origins.get(name, "default") for name in sorted(known)})


def _from_text(key: str, variable: str, text: str) -> object:
    """The value that a variable of the environment spells.

    Raises:
        FleetError: ``config.invalid``.
    """
    if key in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    if key in _PORTS or key in _DAYS:
        try:
            return int(text)
        except ValueError:
            raise FleetError("config.invalid", f"{variable} must be a whole number", 400) from None
    return text


def _typed(key: str, value: object) -> object:
    """Check ``value`` and convert it to the type of the field ``key``.

    Raises:
        FleetError: ``config.invalid``.
    """
    if key == "broker":
        return read_settings(value)
    if key == "notify":
        return read_notify(value)
    if key == "oidc":
        if isinstance(value, Mapping):
            return read_oidc_config(value)
        raise FleetError("config.invalid", "oidc must be a table", 400)
    if key == "history":
        return read_history_settings(value)
    if key in _PORTS or key in _DAYS:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise FleetError("config.invalid", f"{key} must be a whole number", 400)
    if key in _LISTS:
        if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
            return tuple(value)
        raise FleetError("config.invalid", f"{key} must be a list of texts", 400)
    if isinstance(value, Path) and key in _PATHS:
        return value
    if not isinstance(value, str) or not value:
        raise FleetError("config.invalid", f"{key} must be a text", 400)
    return Path(value) if key in _PATHS else value
