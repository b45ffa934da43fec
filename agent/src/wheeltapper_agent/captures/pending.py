"""Recordings that wait for their upload: a folder of files, bounded, that survives restarts.

Invariants:
    * An entry exists once its ``.json`` does; its recording (``.npz``) was complete and durable before. Files without
      an entry, left by a kill, are removed at the next start. An entry that cannot be removed still exists.
    * All recordings together take at most ``max_bytes``. For a new one the oldest made by rules are dropped first, and
      the caller is told which; a recording that a command asked for is never dropped for one made by a rule.
    * On a full disk older recordings are dropped only where that makes room enough; after any other error of the disk
      none is.

Not done here: the upload (:mod:`wheeltapper_agent.captures.uploader`), who records what
(:mod:`wheeltapper_agent.captures.captures`).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import write_atomic

__all__ = ["NotKeptError", "PendingFolder", "PendingRecording"]

_LOG = logging.getLogger(__name__)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_SPARE_BLOCKS: Final = 8
"""Blocks of the file system that a recording needs beside its bytes: its last block, its ``.json``, the folder."""


class PendingRecording(msgspec.Struct, frozen=True, kw_only=True):
    """One recording that waits for its upload; stored as JSON beside it."""

    name: str
    """The name it is uploaded as: the command's id, or ``auto-<16 hex digits>``."""
    pipeline: str
    sha256: str
    length: int
    """Bytes."""
    snapshots: int
    reason: str = ""
    """Why a rule recorded it: ``alert``, ``drift.…``, ``random``; empty for a command."""
    command: str | None = None
    """Id of the command that asked for it; None: a rule did."""
    expires_at: float | None = None
    """When the command expires (Unix seconds)."""
    number: int = 0
    """Rises from one recording to the next, so the lowest is the oldest."""


class NotKeptError(AgentError):
    """A recording could not be kept; ``dropped`` are those that were dropped for it all the same."""

    def __init__(self, error: AgentError, dropped: Sequence[PendingRecording]) -> None:
        super().__init__(error.code, error.message)
        self.dropped = tuple(dropped)


class PendingFolder:
    """The recordings in ``folder``. Safe to use from several threads.

    Args:
        folder: made where it is missing.
        max_bytes: of all recordings together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: dict[str, PendingRecording] = {}
        self._was_read = False
        try:
            self._open()
        except OSError as error:
            _LOG.error("captures: %s", storage_error(error, "the folder of recordings cannot be used"))

    def _open(self) -> None:
        """Make the folder where it is missing, and read it the first time."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._was_read:
            self._read()
            self._was_read = True

    def _read(self) -> None:
        """Find the complete entries; remove the files that belong to none."""
        for path in self._folder.glob("*.json"):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=PendingRecording)
                whole = path.stem == entry.name and self.path(entry).stat().st_size == entry.length
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                whole = False
            if whole:
                self._entries[entry.name] = entry
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".npz", ".tmp") and path.stem not in self._entries:
                path.unlink(missing_ok=True)

    def path(self, entry: PendingRecording) -> Path:
        """The recording's file."""
        return self._folder / f"{entry.name}.npz"

    def entries(self) -> list[PendingRecording]:
        """All recordings: those that commands asked for first, then the oldest first."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: (entry.command is None, entry.number))

    @property
    def used_bytes(self) -> int:
        """Bytes that all recordings take together."""
        with self._lock:
            return sum(entry.length for entry in self._entries.values())

    def add(self, entry: PendingRecording, content: bytes | memoryview) -> list[PendingRecording]:
        """Keep a recording.

        Args:
            entry: what it is; its ``number`` is given here.
            content: the bytes of the ``.npz``.

        Returns:
            The recordings that were dropped to make room for it.

        Raises:
            NotKeptError: ``capture.no_room``, ``storage.*``.
        """
        dropped: list[PendingRecording] = []
        with self._lock:
            try:
                self._open()
                self._make_room(entry, dropped)
                number = 1 + max((other.number for other in self._entries.values()), default=0)
                entry = msgspec.structs.replace(entry, number=number)
                while (error := self._write(entry, content)) is not None:
                    oldest = self._oldest_by_rule()
                    if oldest is None or not self._dropping_helps(error, entry.length):
                        raise error
                    self._drop(oldest, dropped)
            except OSError as error:
                raise NotKeptError(storage_error(error, "the recording cannot be kept"), dropped) from error
            except AgentError as error:
                raise NotKeptError(error, dropped) from error
            self._entries[entry.name] = entry
            return dropped

    def remove(self, entry: PendingRecording) -> bool:
        """Remove a recording that was uploaded or never can be; False where the disk refuses."""
        with self._lock:
            try:
                self._drop(entry, [])
            except OSError as error:
                _LOG.warning("captures: %s", storage_error(error, f"{entry.name} cannot be removed"))
                return False
            return True

    def _write(self, entry: PendingRecording, content: bytes | memoryview) -> OSError | None:
        """Write both files of ``entry``, or none; returns the error of the disk, None where all went well."""
        try:
            write_atomic(self.path(entry), content)
            write_atomic(self._json(entry), msgspec.json.encode(entry))
        except OSError as error:
            try:
                self._unlink(entry)
            except OSError as again:  # without an entry, the next start removes it
                _LOG.warning("captures: %s", storage_error(again, f"{entry.name} cannot be removed"))
            return error
        return None

    def _make_room(self, entry: PendingRecording, dropped: list[PendingRecording]) -> None:
        """Drop the oldest recordings by rule until ``entry`` fits into ``max_bytes``."""
        used = sum(other.length for other in self._entries.values())
        if used - self._bytes_by_rule() + entry.length > self._max_bytes:
            raise AgentError(
                "capture.no_room",
                f"{entry.length} bytes do not fit: recordings that were asked for fill this board's {self._max_bytes}",
            )
        while used + entry.length > self._max_bytes and (oldest := self._oldest_by_rule()) is not None:
            self._drop(oldest, dropped)
            used -= oldest.length

    def _dropping_helps(self, error: OSError, length: int) -> bool:
        """Whether dropping recordings by rule could make room for ``length`` bytes after ``error``."""
        if error.errno not in _FULL:
            return False
        facts = os.statvfs(self._folder)
        free = (
            0 if error.errno == errno.EDQUOT else facts.f_bavail * facts.f_frsize
        )  # a quota does not say how much it leaves
        return free + self._bytes_by_rule() >= length + _SPARE_BLOCKS * facts.f_frsize

    def _bytes_by_rule(self) -> int:
        return sum(other.length for other in self._entries.values() if other.command is None)

    def _oldest_by_rule(self) -> PendingRecording | None:
        by_rule = [other for other in self._entries.values() if other.command is None]
        return min(by_rule, key=lambda one: one.number, default=None)

    def _drop(self, entry: PendingRecording, dropped: list[PendingRecording]) -> None:
        self._unlink(entry)
        self._entries.pop(entry.name, None)
        dropped.append(entry)

    def _unlink(self, entry: PendingRecording) -> None:
        self._json(entry).unlink(missing_ok=True)
        self.path(entry).unlink(missing_ok=True)

    def _json(self, entry: PendingRecording) -> Path:
        return self._folder / f"{entry.name}.json"
