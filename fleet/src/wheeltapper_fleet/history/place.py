"""Where segments are kept: a :class:`~wheeltapper_fleet.ground.place.Place` whose errors have the codes
``history.*``."""

from __future__ import annotations

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.place import Place

__all__ = ["HistoryPlace", "needs_extra"]


def needs_extra() -> FleetError:
    """The error where pyarrow or DuckDB is missing."""
    return FleetError(
        "history.missing_library", "history needs pyarrow and duckdb: pip install 'wheeltapper-fleet[history]'"
    )


class HistoryPlace(Place):
    """The folder or bucket of the history.

    Args:
        url: see :class:`~wheeltapper_fleet.ground.place.Place`.

    Raises:
        FleetError: ``history.url``: the URL cannot be used; ``history.missing_library``.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, "history", "history_url")
        self._pyarrow_fs()  # segments are written with it, wherever they are kept

    def missing_library(self) -> FleetError:
        """The error where pyarrow is missing."""
        return needs_extra()
