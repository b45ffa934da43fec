"""Alembic's entry: runs the migrations on the connection that :func:`wheeltapper_fleet.db.engine.migrate` hands in."""

from __future__ import annotations

from alembic import context

from wheeltapper_fleet.db.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=False
)
with context.begin_transaction():
    context.run_migrations()
