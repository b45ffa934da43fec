"""What devices ever ran, which campaigns took a release, and which contents are in which versions of datasets.

Devices' releases are those that their roll-ups of a day and their status name; campaigns' those of their
specification. Everything is copied by the database itself.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_RAN = """
    INSERT INTO device_releases (model, release, device, pipeline, first_at)
    SELECT model, release, device, pipeline, MIN(at) FROM (
        SELECT model, release, device, pipeline, bucket AS at FROM rollups WHERE span = 86400
        UNION ALL
        SELECT p.model, p.release, p.device, p.pipeline, COALESCE(d.last_seen_at, d.enrolled_at, 0)
        FROM device_pipelines AS p LEFT JOIN devices AS d ON d.id = p.device
        WHERE p.model IS NOT NULL AND p.release IS NOT NULL
    ) AS ran WHERE model <> '' GROUP BY model, release, device, pipeline
"""
_TOOK_SQLITE = """
    INSERT INTO campaign_releases (model, release, campaign)
    SELECT json_extract(spec, '$.model'), json_extract(spec, '$.release'), id FROM campaigns
    WHERE CASE WHEN json_valid(spec) THEN
        json_type(spec, '$.model') = 'text' AND json_type(spec, '$.release') = 'integer' ELSE 0 END
"""
_TOOK_POSTGRESQL = """
    INSERT INTO campaign_releases (model, release, campaign)
    SELECT spec ->> 'model', CAST(spec ->> 'release' AS INTEGER), id FROM campaigns
    WHERE json_typeof(spec) = 'object' AND json_typeof(spec -> 'model') = 'string'
        AND spec ->> 'release' ~ '^[0-9]{1,9}$' AND length(spec ->> 'model') <= 63
"""


def upgrade() -> None:
    op.create_table(
        "device_releases",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", "release", "device", "pipeline", name=op.f("pk_device_releases")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_device_releases_device", "device_releases", ["device", "pipeline"])
    op.create_table(
        "campaign_releases",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("campaign", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("model", "release", "campaign", name=op.f("pk_campaign_releases")),
    )
    op.create_table(
        "dataset_contents",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.String(length=63), nullable=False),
        sa.Column("first_version", sa.Integer(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "dataset", "first_version", name=op.f("pk_dataset_contents")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dataset_index",
        sa.Column("dataset", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", name=op.f("pk_dataset_index")),
    )
    op.create_index("ix_captures_sha256", "captures", ["sha256", "command"])
    op.create_index("ix_release_datasets_model", "release_datasets", ["model", "release"])
    op.execute(_RAN)
    op.execute(_TOOK_POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _TOOK_SQLITE)


def downgrade() -> None:
    op.drop_index("ix_release_datasets_model", "release_datasets")
    op.drop_index("ix_captures_sha256", "captures")
    for name in ("dataset_index", "dataset_contents", "campaign_releases", "device_releases"):
        op.drop_table(name)
