"""Where a device is in its life, its site, and tables of its tags, attributes and pipelines, which queries read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SLICE = 1000
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?\Z", re.ASCII)


def _text_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Float(), nullable=True),
        sa.Column("sort_key", sa.Text(), nullable=False),
    )


def upgrade() -> None:
    with op.batch_alter_table("devices") as batch:
        batch.add_column(sa.Column("state", sa.String(length=16), nullable=False, server_default="active"))
        batch.add_column(sa.Column("site", sa.String(length=120), nullable=True))
        batch.alter_column("enrolled_at", existing_type=sa.Float(), nullable=True)
        batch.alter_column("certificate_sha256", existing_type=sa.String(length=64), nullable=True)
        batch.alter_column("certificate_expires_at", existing_type=sa.Float(), nullable=True)
    op.execute("UPDATE devices SET state = 'revoked' WHERE revoked")
    with op.batch_alter_table("devices") as batch:
        batch.drop_column("revoked")
        batch.create_index("ix_devices_state_online_id", ["state", "online", "id"])
        batch.create_index("ix_devices_online_id", ["online", "id"])
        batch.create_index("ix_devices_site_id", ["site", "id"])
        batch.create_index("ix_devices_last_seen_at", ["last_seen_at"])
    tags = op.create_table(
        "device_tags",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        *_text_columns(),
        sa.PrimaryKeyConstraint("device", "name", name=op.f("pk_device_tags")),
    )
    attributes = op.create_table(
        "device_attributes",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        *_text_columns(),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device", "name", name=op.f("pk_device_attributes")),
    )
    pipelines = op.create_table(
        "device_pipelines",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=True),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("device", "pipeline", name=op.f("pk_device_pipelines")),
    )
    for rows in _slices():
        _fill(tags, [row for each in rows for row in _tags(each)])
        _fill(attributes, [row for each in rows for row in _attributes(each)])
        _fill(pipelines, [row for each in rows for row in _pipelines(each)])
        sites = [{"of": each.id, "at": site} for each in rows if (site := _read(each.tags).get("site"))]
        if sites:
            op.get_bind().execute(sa.text("UPDATE devices SET site = :at WHERE id = :of"), sites)
    op.create_index("ix_device_tags_name_value_device", "device_tags", ["name", "value", "device"])
    op.create_index("ix_device_attributes_name_value_device", "device_attributes", ["name", "value", "device"])
    op.create_index(
        "ix_device_pipelines_pipeline_model_release_device",
        "device_pipelines",
        ["pipeline", "model", "release", "device"],
    )


def downgrade() -> None:
    for table in ("device_pipelines", "device_attributes", "device_tags"):
        op.drop_table(table)
    with op.batch_alter_table("devices") as batch:
        for name in ("last_seen_at", "site_id", "online_id", "state_online_id"):
            batch.drop_index(f"ix_devices_{name}")
        batch.add_column(sa.Column("revoked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("DELETE FROM devices WHERE certificate_sha256 IS NULL OR enrolled_at IS NULL")
    devices = sa.table("devices", sa.column("state", sa.String), sa.column("revoked", sa.Boolean))
    op.execute(devices.update().where(devices.c.state != "active").values(revoked=sa.true()))
    with op.batch_alter_table("devices") as batch:
        batch.alter_column("enrolled_at", existing_type=sa.Float(), nullable=False)
        batch.alter_column("certificate_sha256", existing_type=sa.String(length=64), nullable=False)
        batch.alter_column("certificate_expires_at", existing_type=sa.Float(), nullable=False)
        batch.drop_column("site")
        batch.drop_column("state")


def _slices() -> Iterator[list[Any]]:
    """The devices, a thousand at a time; JSON as text on both databases."""
    query = sa.text(
        "SELECT id, CAST(tags AS TEXT) AS tags, CAST(status AS TEXT) AS status, COALESCE(last_seen_at, 0) AS at"
        " FROM devices WHERE id > :after ORDER BY id LIMIT :most"
    )
    after = ""
    while rows := list(op.get_bind().execute(query, {"after": after, "most": _SLICE})):
        yield rows
        after = rows[-1].id


def _fill(table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        op.bulk_insert(table, rows)


def _read(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> dict[str, Any] | None:
    """The columns of a text; None for what is none."""
    if not isinstance(value, str) or not value:
        return None
    text = value.replace("\x00", "?").encode("utf-8", "replace").decode("utf-8")[:200]
    number = float(text) if _NUMBER.match(text) else None
    key = re.sub("[0-9]+", lambda found: f"{len(found[0].lstrip('0')):03d}{found[0].lstrip('0')}", text)
    return {"value": text, "number": number if number is None or math.isfinite(number) else None, "sort_key": key}


def _tags(row: Any) -> Iterator[dict[str, Any]]:
    for name, value in _read(row.tags).items():
        if (text := _text(value)) is not None:
            yield {"device": row.id, "name": name, **text}


def _attributes(row: Any) -> Iterator[dict[str, Any]]:
    status = _read(row.status)
    found: dict[str, Any] = {name: status.get(name) for name in ("agent_version", "profile")}
    for name, value in _described(status).items():
        found[f"runtime.{name}"] = value.get("runtime")
    for name, value in found.items():
        if (text := _text(value)) is not None:
            yield {"device": row.id, "name": name, **text, "at": row.at}


def _pipelines(row: Any) -> Iterator[dict[str, Any]]:
    for name, value in _described(_read(row.status)).items():
        yield {"device": row.id, "pipeline": name, "model": value.get("model"), "release": value.get("release")}


def _described(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pipelines = status.get("pipelines")
    items = pipelines.items() if isinstance(pipelines, dict) else ()
    return {name: value for name, value in items if isinstance(value, dict)}
