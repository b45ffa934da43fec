"""Tags and attributes are found by their numbers and in their order, too."""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_TABLES = ("device_tags", "device_attributes")


def upgrade() -> None:
    for table in _TABLES:
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f'ALTER TABLE {table} ALTER COLUMN sort_key TYPE text COLLATE "C"')
        op.create_index(f"ix_{table}_name_number_device", table, ["name", "number", "device"])
        op.create_index(f"ix_{table}_name_sort_key_device", table, ["name", "sort_key", "device"])


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"ix_{table}_name_number_device", table)
        op.drop_index(f"ix_{table}_name_sort_key_device", table)
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f'ALTER TABLE {table} ALTER COLUMN sort_key TYPE text COLLATE "default"')
