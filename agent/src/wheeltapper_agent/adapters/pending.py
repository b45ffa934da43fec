"""Recordings that wait for their upload: a folder of files, bounded, that survives restarts.

Invariants:
    * An entry is there when its ``.json`` is; the recording was whole and durable before. What a kill left half done is
      removed at the next start.
    * Together they take at most ``max_bytes``. For a new one the oldest made by rules go first, counted and given back
      to the caller; what a person asked for is never dropped for a rule's.

Not done here: the upload (:mod:`uplink`), who records what (:mod:`wheeltapper_agent.captures`).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec

from wheeltapper_agent.adapters.files import write_atomic
from wheeltapper_agent.errors import AgentError, storage_error

__all__ = ["Pending", "PendingFolder"]

_LOG = logging.getLogger(__name__)


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
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._read()
        except OSError as error:
            _LOG.error("captures: %s", storage_error(error, "the folder of recordings cannot be used"))

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

    def add(self, entry: Pending, content: bytes) -> list[Pending]:
        """Keep a recording; returns what had to go for it.

        Raises:
            AgentError: ``capture.no_room``, ``storage.*``.
        """
        with self._lock:
            gone = self._room_for(entry)
            number = 1 + max((other.number for other in self._entries.values()), default=0)
            entry = msgspec.structs.replace(entry, number=number)
            while True:
                try:
                    write_atomic(self.path(entry), content)
                    write_atomic(self._folder / f"{entry.name}.json", msgspec.json.encode(entry))
                except OSError as error:
                    self._unlink(entry)
                    if (oldest := self._oldest_by_rule()) is None:
                        raise storage_error(error, "the recording cannot be kept") from error
                    self._drop(oldest)
                    gone.append(oldest)
                else:
                    self._entries[entry.name] = entry
                    return gone

    def remove(self, entry: Pending) -> None:
        """Forget one that was uploaded, or never can be."""
        with self._lock:
            self._drop(entry)

    def _room_for(self, entry: Pending) -> list[Pending]:
        used = sum(other.length for other in self._entries.values())
        by_rule = [other for other in self._entries.values() if other.command is None]
        gone: list[Pending] = []
        for other in sorted(by_rule, key=lambda one: one.number):
            if used + entry.length <= self._max_bytes:
                break
            gone.append(other)
            used -= other.length
        if used + entry.length > self._max_bytes:
            raise AgentError("capture.no_room", f"{entry.length} bytes do not fit into this board's cap for recordings")
        for other in gone:
            self._drop(other)
        return gone

    def _oldest_by_rule(self) -> Pending | None:
        by_rule = [other for other in self._entries.values() if other.command is None]
        return min(by_rule, key=lambda one: one.number, default=None)

    def _drop(self, entry: Pending) -> None:
        self._entries.pop(entry.name, None)
        self._unlink(entry)

    def _unlink(self, entry: Pending) -> None:
        for path in (self._folder / f"{entry.name}.json", self.path(entry)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # read-only: it is found again at the next start
                _LOG.warning("captures: %s", storage_error(error, f"{path.name} cannot be removed"))
