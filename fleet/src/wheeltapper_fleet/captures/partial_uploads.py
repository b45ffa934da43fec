"""Uploads in pieces that are not complete yet: what has come is kept until the rest comes, or the upload expires.

Invariants:
    * A piece is taken only where the one before it ended. Of two senders of the same upload one goes on; the other is
      refused at its next bytes.
    * No upload is longer than its first piece said. No device has more than :data:`MAX_UPLOADS_PER_DEVICE` of them. All
      together have at most ``total_bytes``. One that got nothing for ``expire_seconds`` is removed.
    * A name belongs to one device: the same name from another device is another upload.

What this module does not do: decide who may upload what, and whether the bytes are a recording
(:mod:`wheeltapper_fleet.captures.service`).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["MAX_UPLOADS_PER_DEVICE", "PartialUpload", "PartialUploads"]

MAX_UPLOADS_PER_DEVICE: Final = 4
_TOTAL_BYTES: Final = 4 * 1024**3
_EXPIRE_SECONDS: Final = 7 * 86_400.0
_CHUNK_BYTES: Final = 1024 * 1024


class _Announcement(msgspec.Struct, frozen=True):
    """What the sender said with the first piece; kept as JSON beside the bytes."""

    device: str
    name: str
    length: int
    sha256: str


@dataclass
class PartialUpload:
    """One upload, of which ``position`` bytes have come."""

    path: Path
    length: int
    sha256: str
    position: int
    lock: threading.Lock

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``.

        Raises:
            FleetError: ``capture.offset`` (another sender has written, or the upload was removed),
                ``capture.too_large``.
        """
        if self.position + len(chunk) > self.length:
            raise FleetError("capture.too_large", f"the upload was to have {self.length} bytes; there are more")
        with self.lock:
            try:
                descriptor = os.open(self.path, os.O_WRONLY)
            except FileNotFoundError as error:
                raise _wrong_offset(0) from error
            try:
                stored_bytes = os.fstat(descriptor).st_size
                if stored_bytes != self.position:
                    raise _wrong_offset(stored_bytes)
                written = os.pwrite(descriptor, chunk, self.position)
                while written < len(chunk):
                    written += os.pwrite(descriptor, chunk[written:], self.position + written)
            finally:
                os.close(descriptor)
        self.position += len(chunk)

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self.position == self.length

    def digest(self) -> str:
        """SHA-256 (hex) of the bytes that have come. They are on the disk, safe from a power cut, when it returns."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
            os.fsync(file.fileno())
        return digest.hexdigest()


def _wrong_offset(stored_bytes: int) -> FleetError:
    return FleetError(
        "capture.offset", f"{stored_bytes} bytes are stored; ask for the offset with HEAD and go on from there"
    )


class PartialUploads:
    """All unfinished uploads.

    Args:
        folder: where they are kept; made when the first one begins.
        clock: Unix seconds.
        cap_bytes: how long one upload may be.
        total_bytes: how much space all of them may take.
        expire_seconds: after how long without a new piece one is removed.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float],
        cap_bytes: int,
        total_bytes: int = _TOTAL_BYTES,
        expire_seconds: float = _EXPIRE_SECONDS,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._cap_bytes = cap_bytes
        self._total_bytes = total_bytes
        self._expire_seconds = expire_seconds
        self._lock = threading.Lock()

    def offset(self, device: str, name: str) -> int:
        """How many bytes of an upload are stored; 0 for one that has not begun."""
        path = self._path(device, name)
        return path.stat().st_size if path.exists() else 0

    def resume(self, device: str, name: str, offset: int, length: int, sha256: str) -> PartialUpload:
        """The upload, ready for the piece at ``offset``. One of which nothing has come begins at 0.

        Args:
            device: the sender.
            name: of the upload.
            offset: where the next piece begins (bytes).
            length: of the whole upload (bytes).
            sha256: of the whole upload (hex).

        Raises:
            FleetError: ``capture.offset``, ``capture.too_large``, ``capture.changed``, ``capture.too_many``.
        """
        if not 0 <= length <= self._cap_bytes:
            raise FleetError("capture.too_large", f"a capture may have {self._cap_bytes} bytes, not {length}")
        path = self._path(device, name)
        with self._lock:
            announced = self._announcement(path)
            if announced is None:
                if offset != 0:
                    raise _wrong_offset(0)
                self._begin(path, _Announcement(device, name, length, sha256))
            elif (announced.length, announced.sha256) != (length, sha256):
                raise FleetError(
                    "capture.changed",
                    "this upload began with another length or hash; cancel it with DELETE and begin again",
                )
            stored_bytes = path.stat().st_size
            if stored_bytes != offset:
                raise _wrong_offset(stored_bytes)
            os.utime(path, (self._clock(), self._clock()))
        return PartialUpload(path, length, sha256, offset, self._lock)

    def remove(self, device: str, name: str) -> None:
        """Remove an upload, complete or not."""
        path = self._path(device, name)
        with self._lock:
            _remove(path)

    def remove_expired(self) -> None:
        """Remove every upload that got nothing for too long."""
        with self._lock:
            self._remove_expired()

    def _path(self, device: str, name: str) -> Path:
        key = hashlib.sha256(f"{device}/{name}".encode()).hexdigest()[:40]
        return self._folder / f"{key}.part"

    def _announcement(self, path: Path) -> _Announcement | None:
        try:
            announced = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Announcement)
        except (OSError, msgspec.DecodeError):
            return None
        return announced if path.exists() else None

    def _remove_expired(self) -> list[_Announcement]:
        """Remove expired uploads; returns what was announced of the others."""
        remaining: list[_Announcement] = []
        for path in sorted(self._folder.glob("*.part")) if self._folder.is_dir() else []:
            announced = self._announcement(path)
            if announced is None or self._clock() - path.stat().st_mtime > self._expire_seconds:
                _remove(path)
            else:
                remaining.append(announced)
        return remaining

    def _begin(self, path: Path, announced: _Announcement) -> None:
        others = self._remove_expired()
        of_this_device = sum(other.device == announced.device for other in others)
        announced_bytes = sum(other.length for other in others) + announced.length
        if of_this_device >= MAX_UPLOADS_PER_DEVICE or announced_bytes > self._total_bytes:
            raise FleetError("capture.too_many", "finish the uploads under way first; unfinished ones expire")
        files.make_folder(self._folder)
        files.write_atomic(path.with_suffix(".json"), msgspec.json.encode(announced), files.PRIVATE)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, files.PRIVATE))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
