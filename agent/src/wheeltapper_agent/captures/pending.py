"""Recordings that wait for their upload: a folder of files, bounded, that survives restarts.

Invariants:
    * An entry is there when its ``.json`` is; the recording was whole and durable before. What a kill left half done is
      removed at the next start. An entry that cannot be removed is still there.
    * Together they take at most ``max_bytes``. For a new one the oldest made by rules go first, counted and given back
      to the caller; what a person asked for is never dropped for a rule's.
    * A full disk costs older recordings only where they make room enough; a disk that refuses otherwise costs none.

Not done here: the upload (:mod:`uplink`), who records what (:mod:`wheeltapper_agent.captures.captures`).
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

__all__ = ["NotKeptError", "Pending", "PendingFolder"]

_LOG = logging.getLogger(__name__)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_SPARE_BLOCKS: Final = 8
"""Of the file system, beside the recording: its last block, its ``.json``, the folder."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """One recording that waits."""

    name: str
    """Under which it is uploaded: the command's id, or ``auto-<16 hex digits>``."""
    pipeline: str
    sha256: str
    length: int
    snapshots: int
    reason: str = ""
    command: str | None = None
    expires_at: float | None = None
    """Unix seconds, of a command."""
    number: int = 0
    """Rises from one to the next."""


class NotKeptError(AgentError):
    """A recording could not be kept; ``gone`` are those that had to go for it all the same."""

    def __init__(self, error: AgentError, gone: Sequence[Pending]) -> None:
        super().__init__(error.code, error.message)
        self.gone = tuple(gone)


class PendingFolder:
    """The recordings in ``folder``. Safe to use from several threads.

    Args:
        folder: made where it is missing.
        max_bytes: of all of them.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: dict[str, Pending] = {}
        self._was_read = False
        try:
            self._open()
        except OSError as error:
            _LOG.error("captures: %s", storage_error(error, "the folder of recordings cannot be used"))

    def _open(self) -> None:
        """Make the folder where it is missing; read it, once."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._was_read:
            self._read()
            self._was_read = True

    def _read(self) -> None:
        for path in self._folder.glob("*.json"):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=Pending)
                whole = path.stem == entry.name and self.path(entry).stat().st_size == entry.length
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                whole = False
            if whole:
                self._entries[entry.name] = entry
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".npz", ".tmp") and path.stem not in self._entries:
                path.unlink(missing_ok=True)

    def path(self, entry: Pending) -> Path:
        """Where the recording lies."""
        return self._folder / f"{entry.name}.npz"

    def entries(self) -> list[Pending]:
        """All of them: commands first, then the oldest."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: (entry.command is None, entry.number))

    @property
    def used_bytes(self) -> int:
        """What they take."""
        with self._lock:
            return sum(entry.length for entry in self._entries.values())

    def add(self, entry: Pending, content: bytes | memoryview) -> list[Pending]:
        """Keep a recording; returns what had to go for it.

        Raises:
            NotKeptError: ``capture.no_room``, ``storage.*``.
        """
        gone: list[Pending] = []
        with self._lock:
            try:
                self._open()
                self._make_room(entry, gone)
                number = 1 + max((other.number for other in self._entries.values()), default=0)
                entry = msgspec.structs.replace(entry, number=number)
                while (error := self._write(entry, content)) is not None:
                    oldest = self._oldest_by_rule()
                    if oldest is None or not self._makes_room(error, entry.length):
                        raise error
                    self._drop(oldest, gone)
            except OSError as error:
                raise NotKeptError(storage_error(error, "the recording cannot be kept"), gone) from error
            except AgentError as error:
                raise NotKeptError(error, gone) from error
            self._entries[entry.name] = entry
            return gone

    def remove(self, entry: Pending) -> bool:
        """Forget one that was uploaded, or never can be; False where the disk does not let it go."""
        with self._lock:
            try:
                self._drop(entry, [])
            except OSError as error:
                _LOG.warning("captures: %s", storage_error(error, f"{entry.name} cannot be removed"))
                return False
            return True

    def _write(self, entry: Pending, content: bytes | memoryview) -> OSError | None:
        """Keep the files of ``entry``, or none of them."""
        try:
            write_atomic(self.path(entry), content)
            write_atomic(self._json(entry), msgspec.json.encode(entry))
        except OSError as error:
            try:
                self._unlink(entry)
            except OSError as again:  # it is no entry: the next start removes it
                _LOG.warning("captures: %s", storage_error(again, f"{entry.name} cannot be removed"))
            return error
        return None

    def _make_room(self, entry: Pending, gone: list[Pending]) -> None:
        """Drop what ``max_bytes`` has no room for beside ``entry``."""
        used = sum(other.length for other in self._entries.values())
        by_rule = sum(other.length for other in self._entries.values() if other.command is None)
        if used - by_rule + entry.length > self._max_bytes:
            raise AgentError("capture.no_room", f"{entry.length} bytes do not fit into this board's cap for recordings")
        while used + entry.length > self._max_bytes and (oldest := self._oldest_by_rule()) is not None:
            self._drop(oldest, gone)
            used -= oldest.length

    def _makes_room(self, error: OSError, length: int) -> bool:
        """Whether dropping recordings by rule could help against ``error``."""
        if error.errno not in _FULL:
            return False
        facts = os.statvfs(self._folder)
        free = 0 if error.errno == errno.EDQUOT else facts.f_bavail * facts.f_frsize  # nobody says what a quota leaves
        by_rule = sum(other.length for other in self._entries.values() if other.command is None)
        return free + by_rule >= length + _SPARE_BLOCKS * facts.f_frsize

    def _oldest_by_rule(self) -> Pending | None:
        by_rule = [other for other in self._entries.values() if other.command is None]
        return min(by_rule, key=lambda one: one.number, default=None)

    def _drop(self, entry: Pending, gone: list[Pending]) -> None:
        self._unlink(entry)
        self._entries.pop(entry.name, None)
        gone.append(entry)

    def _unlink(self, entry: Pending) -> None:
        self._json(entry).unlink(missing_ok=True)
        self.path(entry).unlink(missing_ok=True)

    def _json(self, entry: Pending) -> Path:
        return self._folder / f"{entry.name}.json"
