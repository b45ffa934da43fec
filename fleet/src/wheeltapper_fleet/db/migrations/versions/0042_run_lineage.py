"""Runs by the version that they are trained on, and releases by the run that made them.

Both are copied by the database itself, from what runs and manifests say.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

_TRAINED_SQLITE = """
    UPDATE runs SET dataset_name = substr(dataset, 1, instr(dataset, '@') - 1),
        dataset_version = CAST(substr(dataset, instr(dataset, '@') + 1) AS INTEGER)
    WHERE dataset GLOB '*@[1-9]*' AND length(dataset) - instr(dataset, '@') <= 8
"""
_TRAINED_POSTGRESQL = """
    UPDATE runs SET dataset_name = split_part(dataset, '@', 1),
        dataset_version = CAST(split_part(dataset, '@', 2) AS INTEGER)
    WHERE dataset ~ '^[a-z0-9-]+@[1-9][0-9]{0,7}$'
"""
_MADE_SQLITE = """
    INSERT INTO release_runs (run, model, release)
    SELECT json_extract(manifest, '$.lineage.run'), model, release FROM releases
    WHERE CASE WHEN json_valid(manifest) THEN
        json_type(manifest, '$.lineage.run') = 'text'
        AND length(json_extract(manifest, '$.lineage.run')) = 14 ELSE 0 END
"""
_MADE_POSTGRESQL = """
    INSERT INTO release_runs (run, model, release)
    SELECT manifest -> 'lineage' ->> 'run', model, release FROM releases
    WHERE json_typeof(manifest) = 'object' AND length(manifest -> 'lineage' ->> 'run') = 14
"""


def upgrade() -> None:
    op.add_column("runs", sa.Column("dataset_name", sa.String(length=63), nullable=True))
    op.add_column("runs", sa.Column("dataset_version", sa.Integer(), nullable=True))
    op.create_table(
        "release_runs",
        sa.Column("run", sa.String(length=14), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run", "model", "release", name=op.f("pk_release_runs")),
    )
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(_TRAINED_POSTGRESQL if postgresql else _TRAINED_SQLITE)
    op.execute(_MADE_POSTGRESQL if postgresql else _MADE_SQLITE)
    op.create_index(
        op.f("ix_runs_dataset_name_dataset_version_requested_at_id"),
        "runs",
        ["dataset_name", "dataset_version", "requested_at", "id"],
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_runs_dataset_name_dataset_version_requested_at_id"), "runs")
    op.drop_table("release_runs")
    with op.batch_alter_table("runs") as batch:
        batch.drop_column("dataset_version")
        batch.drop_column("dataset_name")
