"""The pages that the header leads to, in the order of a shift. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["NAVIGATION", "Entry", "is_current"]


class Entry(NamedTuple):
    """A page in the header: its path, its title, and other paths that belong to it."""

    path: str
    title: str
    also: tuple[str, ...] = ()


NAVIGATION: Final[tuple[Entry, ...]] = (
    Entry("/", "Shift"),
    Entry("/machines", "Machines", ("/diagnosis",)),
    Entry("/cases", "Cases"),
    Entry("/devices", "Devices", ("/why", "/bulk")),
    Entry("/campaigns", "Campaigns"),
    Entry("/models", "Models"),
    Entry("/data", "Data"),
    Entry("/trust", "Trust"),
    Entry("/value", "Value"),
    Entry("/settings", "Settings"),
)
"""Only pages that exist; a test opens each."""


def is_current(entry: Entry, here: str) -> bool:
    """Whether the page at the path ``here`` is the entry's, or below it."""
    return any(here == path or (path != "/" and here.startswith(f"{path}/")) for path in (entry.path, *entry.also))
