"""Tables of the index of datasets: which content is in which versions, so that a recording is followed forward.

    * ``dataset_contents``: ``sha256`` is in the versions ``first_version`` to ``last_version`` of a dataset. One row a
      content and run of versions: versions that carry their items on cost no new rows.
    * ``dataset_index``: up to which version the index has come, and how many bytes of its list of items; -1: all.

The store of datasets is the truth; the index follows it and can be made anew.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["dataset_contents", "dataset_index"]

dataset_contents = Table(
    "dataset_contents",
    metadata,
    Column("sha256", String(64), nullable=False),
    Column("dataset", String(63), nullable=False),
    Column("first_version", Integer, nullable=False),
    Column("last_version", Integer, nullable=False),
    PrimaryKeyConstraint("sha256", "dataset", "first_version"),
    sqlite_with_rowid=False,
)

dataset_index = Table(
    "dataset_index",
    metadata,
    Column("dataset", String(63), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
)
