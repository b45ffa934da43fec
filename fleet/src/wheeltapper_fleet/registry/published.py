"""Whether a release is published: the one answer for aliases, promotions, campaigns, candidates and lineage."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.tables import releases

__all__ = ["find_published", "published_release"]


def published_release(connection: Connection, model: str, release: int, *columns: Any) -> Row[Any]:
    """The row of a published release, or some ``columns`` of it. A look-up by key.

    Raises:
        FleetError: ``release.not_found``.
    """
    row = find_published(connection, model, release, *columns)
    if row is None:
        raise FleetError("release.not_found", f"{model[:80]} has no published release {release}")
    return row


def find_published(connection: Connection, model: str, release: int, *columns: Any) -> Row[Any] | None:
    """As :func:`published_release`; None where it is not published."""
    mine = (releases.c.model == model, releases.c.release == release)
    return connection.execute(select(*(columns or (releases,))).where(*mine)).one_or_none()
