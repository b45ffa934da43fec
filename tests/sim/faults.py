"""Faults that a run may plant in the agent, to show that the sweep notices them; and a kill within SQLite's writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sim import sqlite_calls
from wheeltapper_agent.ground import files
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.update import floors, journal, obtaining, running, slots, tuf_client

__all__ = ["FAULTS", "die_in_sqlite", "plant", "self_test_without_child"]


def _careless_link(link: Path, target: str) -> None:
    """Switch a link in two steps, between which there is none."""
    link.unlink(missing_ok=True)
    os.symlink(target, link)
    files.fsync_folder(link.parent)


def _careless_write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write in place, without a temporary file and without an fsync."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _no_fsync(_path: Path) -> None:
    """Make nothing durable."""


def _unsynced_write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Rename content into place before it is durable."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
    files.fsync_folder(path.parent)


_TAKE: Any = Pipeline._take


def _losing_take(self: Any, batch: list[Window]) -> int:
    """Throw away the windows that come with a swap of the model."""
    with self._lock:
        swapped = self._next is not None and self._bundle is not None
        if swapped:
            (self._bundle,), self._next = self._next, None
    return len(batch) if swapped else int(_TAKE(self, batch))


def _raise_in_memory(self: Any, more: floors.Floors) -> None:
    """Raise the floors, but do not write them."""
    self.current = floors.highest(self.current, more)


def _nothing(*_args: Any) -> None:
    """Do nothing and refuse nothing."""


FAULTS: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "link_in_two_steps": [(slots, "replace_link", _careless_link)],
    "journal_in_place": [(journal, "write_atomic", _careless_write), (floors, "write_atomic", _careless_write)],
    "slot_not_durable": [
        (slots, "fsync_file", _no_fsync),
        (slots, "fsync_folder", _no_fsync),
    ],
    "windows_lost_in_swap": [(Pipeline, "_take", _losing_take)],
    "nothing_loaded_at_start": [(running.Running, "load_active", _nothing)],
    "director_not_checked": [(tuf_client.VerifiedMetadata, "verify_director", _nothing)],
    "team_not_checked": [(tuf_client.VerifiedMetadata, "check_target", _nothing)],
    "floor_not_checked": [(floors.FloorStore, "permits", lambda *_args: True)],
    "metadata_versions_not_checked": [(tuf_client.TufClient, "_check_versions", _nothing)],
    "floors_not_written": [(floors.FloorStore, "raise_to", _raise_in_memory)],
    "floors_not_durable": [(floors, "write_atomic", _unsynced_write)],
    "journal_not_durable": [(journal, "write_atomic", _unsynced_write)],
    "metadata_not_durable": [(tuf_client, "fsync_file", _no_fsync)],
}
"""By name: the attributes of the agent's modules that the fault replaces, and by what."""


def plant(name: str) -> None:
    """Plant the fault called ``name``; none if empty."""
    for module, attribute, careless in FAULTS[name] if name else []:
        setattr(module, attribute, careless)


def self_test_without_child() -> None:
    """Run self-tests in the agent's own process. They write nothing, and children take half of the time."""

    def tried(folder: Path, profile: Profile, sha256: str, *_rest: Any) -> tuple[Bundle, dict[str, float]]:
        bundle = load_bundle(folder, profile, sha256)
        return bundle, self_test(bundle)

    vars(obtaining)["try_candidate"] = tried


def die_in_sqlite(at: int, log: Path) -> None:
    """Kill the process at SQLite's write number ``at``; with 0 only count the writes, into ``log``."""
    sqlite_calls.install(at, log)
