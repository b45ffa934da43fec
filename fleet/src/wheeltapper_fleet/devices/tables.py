"""Tables of devices: who is enrolled, the tokens to enrol with, and the commands to devices.

    * ``devices``: one row per enrolled device: its present certificate, the one that it asked for to
      replace it and has not shown yet, and the last status message it sent.
      ``instances`` holds its newest changes of instance as ``[instance, at, address]``, oldest first.
    * ``device_notices``: what is wrong with a device itself, by a stable code, with a count.
    * ``enrolment_tokens``: one-time tokens, by the SHA-256 of their secret.
    * ``commands``: what a device was asked to do, and its answer. ``body`` is the command as sent, without its id.

Times are Unix seconds. JSON columns hold what msgspec encoded.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["commands", "device_notices", "devices", "enrolment_tokens"]

devices = Table(
    "devices",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("tags", StoredJson, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("certificate_sha256", String(64), nullable=False),
    Column("certificate_expires_at", Float, nullable=False),
    Column("next_certificate_sha256", String(64)),
    Column("next_certificate_expires_at", Float),
    Column("revoked", Boolean, nullable=False, default=False),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen_at", Float),
    Column("status", StoredJson),
    Column("counter", BigInteger, nullable=False, default=0),
    Column("instances", StoredJson),
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
    Column("device", String(63), nullable=False),
    Column("tags", StoredJson, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)

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
)
