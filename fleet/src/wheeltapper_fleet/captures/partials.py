"""Uploads that are not whole yet: what came of each, until the rest comes or its time is over.

Invariants:
    * A piece is taken only where the one before it ended; of two senders of the same upload one goes on and the other
      is refused at its next bytes.
    * No upload is longer than it said at its beginning, no device has more than :data:`MAX_A_DEVICE` of them, all
      together have at most ``total_bytes``, and one that got nothing for ``expire_seconds`` is gone.
    * A name is one device's own: another's upload of the same name is another upload.

Not here: who may upload what, whether the bytes are right (:mod:`captures`).
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

__all__ = ["MAX_A_DEVICE", "Partial", "Partials"]

MAX_A_DEVICE: Final = 4
_TOTAL_BYTES: Final = 4 * 1024**3
_EXPIRE_SECONDS: Final = 7 * 86_400.0
_CHUNK_BYTES: Final = 1024 * 1024


class _Begun(msgspec.Struct, frozen=True):
    """What a sender said at the beginning."""

    device: str
    name: str
    length: int
    sha256: str


@dataclass
class Partial:
    """One upload under way, at ``position``."""

    path: Path
    length: int
    sha256: str
    position: int
    lock: threading.Lock

    def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            FleetError: ``capture.offset`` (somebody else wrote, or it was removed), ``capture.too_large``.
        """
        if self.position + len(chunk) > self.length:
            raise FleetError("capture.too_large", f"the upload was to have {self.length} bytes; there are more")
        with self.lock:
            try:
                handle = os.open(self.path, os.O_WRONLY)
            except FileNotFoundError as error:
                raise _moved(0) from error
            try:
                there = os.fstat(handle).st_size
                if there != self.position:
                    raise _moved(there)
                written = os.pwrite(handle, chunk, self.position)
                while written < len(chunk):
                    written += os.pwrite(handle, chunk[written:], self.position + written)
            finally:
                os.close(handle)
        self.position += len(chunk)

    @property
    def whole(self) -> bool:
        """Whether everything is there."""
        return self.position == self.length

    def digest(self) -> str:
        """SHA-256 (hex) of what is there; it is durable then."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
            os.fsync(file.fileno())
        return digest.hexdigest()


def _moved(there: int) -> FleetError:
    return FleetError("capture.offset", f"there are {there} bytes; ask with HEAD and go on from there")


class Partials:
    """All uploads under way.

    Args:
        folder: where they lie.
        clock: Unix seconds.
        cap_bytes: how long one may be.
        total_bytes: how much all of them may take.
        expire_seconds: how long one may lie still.
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
        """How many bytes of an upload are there; 0 where there is none."""
        path = self._path(device, name)
        return path.stat().st_size if path.exists() else 0

    def at(self, device: str, name: str, offset: int, length: int, sha256: str) -> Partial:
        """The upload, to be gone on with at ``offset``; 0 where nothing came yet begins it.

        Raises:
            FleetError: ``capture.offset``, ``capture.too_large``, ``capture.changed``, ``capture.too_many``.
        """
        if not 0 <= length <= self._cap_bytes:
            raise FleetError("capture.too_large", f"a capture may have {self._cap_bytes} bytes, not {length}")
        path = self._path(device, name)
        with self._lock:
            begun = self._begun(path)
            if begun is None:
                if offset != 0:
                    raise _moved(0)
                self._begin(path, _Begun(device, name, length, sha256))
            elif (begun.length, begun.sha256) != (length, sha256):
                raise FleetError("capture.changed", "this upload began with another length or hash")
            there = path.stat().st_size
            if there != offset:
                raise _moved(there)
            os.utime(path, (self._clock(), self._clock()))
        return Partial(path, length, sha256, offset, self._lock)

    def forget(self, device: str, name: str) -> None:
        """Remove an upload, whole or not."""
        path = self._path(device, name)
        with self._lock:
            _remove(path)

    def sweep(self) -> None:
        """Remove what lay still too long."""
        with self._lock:
            self._sweep()

    def _path(self, device: str, name: str) -> Path:
        key = hashlib.sha256(f"{device}/{name}".encode()).hexdigest()[:40]
        return self._folder / f"{key}.part"

    def _begun(self, path: Path) -> _Begun | None:
        try:
            begun = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Begun)
        except (OSError, msgspec.DecodeError):
            return None
        return begun if path.exists() else None

    def _sweep(self) -> list[tuple[_Begun | None, int]]:
        """What is left: who began it, and the bytes that it may take."""
        left: list[tuple[_Begun | None, int]] = []
        for path in sorted(self._folder.glob("*.part")) if self._folder.is_dir() else []:
            begun = self._begun(path)
            if begun is None or self._clock() - path.stat().st_mtime > self._expire_seconds:
                _remove(path)
            else:
                left.append((begun, begun.length))
        return left

    def _begin(self, path: Path, begun: _Begun) -> None:
        left = self._sweep()
        mine = sum(1 for other, _ in left if other is not None and other.device == begun.device)
        if mine >= MAX_A_DEVICE or sum(length for _, length in left) + begun.length > self._total_bytes:
            raise FleetError("capture.too_many", "finish the uploads under way first; unfinished ones expire")
        files.make_folder(self._folder)
        files.write_atomic(path.with_suffix(".json"), msgspec.json.encode(begun), files.PRIVATE)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, files.PRIVATE))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
