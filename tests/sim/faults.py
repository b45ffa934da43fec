"""Faults that a run may plant in the agent, to show that the sweep would notice them; and death within SQLite."""

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
    """Not in one step: between the two there is no link."""
    link.unlink(missing_ok=True)
    os.symlink(target, link)
    files.fsync_folder(link.parent)


def _careless_write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """In place: neither a temporary file nor an fsync."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _no_fsync(_path: Path) -> None:
    """Nothing is made durable."""


def _unsynced_write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Content that is renamed into place before it is durable."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
    files.fsync_folder(path.parent)


_TAKE: Any = Pipeline._take


def _losing_take(self: Any, batch: list[Window]) -> None:
    """The windows that come with a swap are thrown away."""
    with self._lock:
        swapped = self._next is not None and self._bundle is not None
        if swapped:
            (self._bundle,), self._next = self._next, None
    if not swapped:
        _TAKE(self, batch)


def _raise_in_memory(self: Any, more: floors.Floors) -> None:
    self.current = floors.highest(self.current, more)


def _nothing(*_args: Any) -> None:
    """Nothing is done, nothing is refused."""


FAULTS: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "link": [(slots, "replace_link", _careless_link)],
    "journal": [(journal, "write_atomic", _careless_write), (floors, "write_atomic", _careless_write)],
    "stage": [
        (slots, "fsync_file", _no_fsync),
        (slots, "fsync_folder", _no_fsync),
    ],
    "losing": [(Pipeline, "_take", _losing_take)],
    "unloaded": [(running.Running, "load_active", _nothing)],
    "unsigned": [(tuf_client.VerifiedMetadata, "verify_director", _nothing)],
    "alone": [(tuf_client.VerifiedMetadata, "check_target", _nothing)],
    "floorless": [(floors.FloorStore, "permits", lambda *_args: True)],
    "unversioned": [(tuf_client.TufClient, "_check_versions", _nothing)],
    "forgetful": [(floors.FloorStore, "raise_to", _raise_in_memory)],
    "floors": [(floors, "write_atomic", _unsynced_write)],
    "renamed": [(journal, "write_atomic", _unsynced_write)],
    "metadata": [(tuf_client, "fsync_file", _no_fsync)],
}
"""By name: a link switched in two steps; a journal written in place; a release active before it is durable; windows
lost in a swap; nothing loaded at a start; the director's signature, the team's word, the floor, the versions of
metadata not checked; floors that are not written, or not durable; a journal, metadata that are not durable."""


def plant(name: str) -> None:
    """Plant the fault called ``name``; none if empty."""
    for module, attribute, careless in FAULTS[name] if name else []:
        setattr(module, attribute, careless)


def self_test_without_child() -> None:
    """Self-tests in the agent's own process: they write nothing, and a child a life takes half of the sweep's time."""

    def tried(folder: Path, profile: Profile, sha256: str, *_rest: Any) -> tuple[Bundle, dict[str, float]]:
        bundle = load_bundle(folder, profile, sha256)
        return bundle, self_test(bundle)

    vars(obtaining)["try_candidate"] = tried


def die_in_sqlite(at: int, log: Path) -> None:
    """Die at SQLite's write number ``at``; with 0 only count them, into ``log``."""
    sqlite_calls.install(at, log)
