"""Faults that a run may plant in the agent, to show that the sweep would notice them; and death within SQLite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sim import sqlite_calls
from wheeltapper_agent import effects
from wheeltapper_agent.adapters import files, journal, marks, slots
from wheeltapper_agent.bundle import Bundle, load_bundle, self_test
from wheeltapper_agent.config import Profile

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


FAULTS: dict[str, list[tuple[Any, str, Callable[..., None]]]] = {
    "link": [(slots, "replace_link", _careless_link)],
    "journal": [(journal, "write_atomic", _careless_write), (marks, "write_atomic", _careless_write)],
    "stage": [
        (slots, "fsync_file", _no_fsync),
        (slots, "fsync_folder", _no_fsync),
    ],
}
"""By name: a link switched in two steps, a journal written in place, a release active before it is durable."""


def plant(name: str) -> None:
    """Plant the fault called ``name``; none if empty."""
    for module, attribute, careless in FAULTS[name] if name else []:
        setattr(module, attribute, careless)


def self_test_without_child() -> None:
    """Self-tests in the agent's own process: they write nothing, and a child a life takes half of the sweep's time."""

    def tried(folder: Path, profile: Profile, sha256: str, *_rest: Any) -> tuple[Bundle, dict[str, float]]:
        bundle = load_bundle(folder, profile, sha256)
        return bundle, self_test(bundle)

    vars(effects)["try_candidate"] = tried


def die_in_sqlite(at: int, log: Path) -> None:
    """Die at SQLite's write number ``at``; with 0 only count them, into ``log``."""
    sqlite_calls.install(at, log)
