"""What the manifests of releases say of channels, remembered. In the caller's transaction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, select, tuple_

from wheeltapper_fleet.alerts.channel import KnownChannels, known_channels
from wheeltapper_fleet.registry.tables import releases

__all__ = ["ReleaseChannels"]

_REMEMBERED: Final = 500
Release = tuple[str, int]


class ReleaseChannels:
    """Remembers the newest :data:`_REMEMBERED` releases that were asked for: a published one never changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[Release, KnownChannels] = OrderedDict()

    def read(self, connection: Connection, wanted: Iterable[Release]) -> dict[Release, KnownChannels]:
        """The channels of releases; one query for those that are not remembered. What is not published has none."""
        asked = set(wanted)
        missing = sorted(asked - self._known.keys())
        if missing:
            query = select(releases.c.model, releases.c.release, releases.c.manifest)
            for row in connection.execute(query.where(tuple_(releases.c.model, releases.c.release).in_(missing))):
                self._known[row.model, row.release] = known_channels(row.manifest)
        found = {each: self._known[each] for each in asked if each in self._known}
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found
