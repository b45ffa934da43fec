"""Tables of devices: who is enrolled, the tokens to enrol with, and the commands to devices.

    * ``devices``: one row per device: where it is in its life (``state``), its site, its present certificate, the one
      that it asked for to replace it and has not shown yet, and the last status message it sent. A device that is
      pending has no certificate and no time of enrolment.
      ``instances`` holds its newest changes of instance as ``[instance, at, address]``, oldest first.
    * ``device_tags``, ``device_attributes``, ``device_pipelines``: what queries select devices by: the tags that people
      gave it (also in ``devices.tags``, for reading), what it reported of itself, what each pipeline runs.
      ``number`` is the number that a value spells, ``sort_key`` orders numbers within it
      (:mod:`wheeltapper_fleet.ground.query`).
    * ``device_releases``: every release that a pipeline of a device ever said that it runs, since when it first did.
    * ``device_settings``: which settings the fleet wants of a device, by field with time and version, and the version
      that the device reported.
    * ``device_connections``: when a device came and went, the newest changes of each.
    * ``command_bundles``: diagnostics bundles that came as answers.
    * ``device_log``: what was done to a device, by whom and why. It stays when the device is forgotten.
    * ``device_notices``: what is wrong with a device itself, by a stable code, with a count.
    * ``enrolment_tokens``: one-time tokens, by the SHA-256 of their secret.
    * ``issued_certificates``: the certificates of devices that are not over, also those that are void.
    * ``commands``: what a device was asked to do, and its answer. ``body`` is the command as sent, without its id.

Times are Unix seconds. JSON columns hold what msgspec encoded.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects import postgresql

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = [
    "SEEN",
    "command_bundles",
    "commands",
    "device_attributes",
    "device_connections",
    "device_log",
    "device_notices",
    "device_pipelines",
    "device_releases",
    "device_settings",
    "device_tags",
    "devices",
    "enrolment_tokens",
    "issued_certificates",
]

devices = Table(
    "devices",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("tags", StoredJson, nullable=False),
    Column("state", String(16), nullable=False, default="active", server_default="active"),
    Column("site", String(120)),
    Column("enrolled_at", Float),
    Column("certificate_sha256", String(64)),
    Column("certificate_expires_at", Float),
    Column("next_certificate_sha256", String(64)),
    Column("next_certificate_expires_at", Float),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen_at", Float),
    Column("status", StoredJson),
    Column("counter", BigInteger, nullable=False, default=0),
    Column("instances", StoredJson),
    Index("ix_devices_state_online_id", "state", "online", "id"),
    Index("ix_devices_online_id", "online", "id"),
    Index("ix_devices_site_id", "site", "id"),
    Index("ix_devices_certificate_ends", "state", "certificate_expires_at"),
)

SEEN: Final[ColumnElement[float]] = func.coalesce(devices.c.last_seen_at, literal_column("0.0", Float))
"""When a device was last seen; 0 for one that never was. As an index holds it: write it the same way everywhere."""
Index("ix_devices_seen_id", SEEN, devices.c.id)

_BYTES_ORDER: Final = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""A text that is compared by its bytes, whatever the language of the database."""

device_tags = Table(
    "device_tags",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("value", String(200), nullable=False),
    Column("number", Float),
    Column("sort_key", _BYTES_ORDER, nullable=False),
    Index("ix_device_tags_name_value_device", "name", "value", "device"),
    Index("ix_device_tags_name_number_device", "name", "number", "device"),
    Index("ix_device_tags_name_sort_key_device", "name", "sort_key", "device"),
)

device_attributes = Table(
    "device_attributes",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("value", String(200), nullable=False),
    Column("number", Float),
    Column("sort_key", _BYTES_ORDER, nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_device_attributes_name_value_device", "name", "value", "device"),
    Index("ix_device_attributes_name_number_device", "name", "number", "device"),
    Index("ix_device_attributes_name_sort_key_device", "name", "sort_key", "device"),
)

device_pipelines = Table(
    "device_pipelines",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("pipeline", String(63), primary_key=True),
    Column("model", String(63)),
    Column("release", Integer),
    Index("ix_device_pipelines_pipeline_model_release_device", "pipeline", "model", "release", "device"),
)

device_releases = Table(
    "device_releases",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("release", Integer, primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("pipeline", String(63), primary_key=True),
    Column("first_at", Float, nullable=False),
    Index("ix_device_releases_device", "device", "pipeline"),
    sqlite_with_rowid=False,
)

device_log = Table(
    "device_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("event", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    Column("why", Text, nullable=False),
    Index("ix_device_log_device_id", "device", "id"),
)

device_settings = Table(
    "device_settings",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("desired", StoredJson, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("reported_version", BigInteger),
    Column("reported_at", Float),
)

device_connections = Table(
    "device_connections",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("at", Float, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Index("ix_device_connections_device_id", "device", "id"),
)

device_notices = Table(
    "device_notices",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("code", String(80), primary_key=True),
    Column("detail", Text, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("count", Integer, nullable=False),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("device", String(63), nullable=False, index=True),
    Column("tags", StoredJson, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)

issued_certificates = Table(
    "issued_certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("device", String(63), nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("expires_at", Float, nullable=False),
)

_OPEN: Final = text("answered_at IS NULL")

commands = Table(
    "commands",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("device", String(63), nullable=False, index=True),
    Column("body", StoredJson, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("answered_at", Float),
    Column("answer", StoredJson),
    Column("who", String(128), nullable=False, default="", server_default=""),
    Index("ix_commands_created_at_id", "created_at", "id"),
    Index("ix_commands_open", "expires_at", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
)

command_bundles = Table(
    "command_bundles",
    metadata,
    Column("command", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
