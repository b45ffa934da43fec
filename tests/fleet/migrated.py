"""Databases whose tables are there at once: copies of one that the real migrations made, once in each process.

The migrations themselves are tested in ``tests/fleet/db``, from every revision; all other tests need the tables only.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from wheeltapper_fleet.db import engine as database

__all__ = ["Migrated"]


class Migrated:
    """Stands for :func:`wheeltapper_fleet.db.engine.migrate` while it is installed.

    A new SQLite file becomes a copy of one that was migrated; every other database is migrated as always.
    """

    def __init__(self, folder: Path) -> None:
        made = database.open_database(f"sqlite:///{folder / 'migrated.db'}")
        made.dispose()
        self._content = (folder / "migrated.db").read_bytes()
        self._migrate = database.migrate
        self.up_to_date: set[str] = set()
        """URLs of databases that need no look at their revision: they have it, and live as long as this process."""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let :func:`~wheeltapper_fleet.db.engine.open_database` call this."""
        patch.setattr(database, "migrate", self.migrate)

    def migrate(self, engine: Engine) -> None:
        """Bring the tables of ``engine``'s database up to date."""
        url = engine.url
        file = Path(url.database or ":memory:")
        if url.render_as_string(hide_password=False) in self.up_to_date:
            return
        if url.get_backend_name() == "sqlite" and file.is_file() and file.stat().st_size == 0:
            file.write_bytes(self._content)  # keeps its mode
        else:
            self._migrate(engine)
