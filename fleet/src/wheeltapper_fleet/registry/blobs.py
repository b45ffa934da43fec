"""The blob store: files named by their SHA-256, in one flat folder.

Invariants:
    * A blob's bytes hash to its name. They are hashed as they come in, before the file gets the name.
    * A blob appears whole or not at all. Storing one that is there already changes nothing.
    * No blob is longer than the cap.

What this module does not do: decide who may read a blob (every enrolled device may: nothing in a release is secret from
the fleet's own devices); know which blobs are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, MAX_FILE_BYTES, decode_manifest
from wheeltapper_protocols.wire.ids import SHA256_PATTERN

__all__ = ["Blob", "BlobStore", "chunks_of"]

_SHA256: Final = re.compile(SHA256_PATTERN)
_CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Blob:
    """A stored blob: its SHA-256 (hex) and its length in bytes."""

    sha256: str
    length: int


def chunks_of(source: BinaryIO) -> Iterable[bytes]:
    """The content of ``source`` in pieces of 1 MiB."""
    return iter(lambda: source.read(_CHUNK_BYTES), b"")


class BlobStore:
    """Keeps blobs in ``folder``, each at most ``cap_bytes`` long.

    Args:
        folder: is made where it is missing.
        cap_bytes: of one blob.
        receives: whether this is the process that stores blobs: it removes what an upload that broke off has left. Any
            other one leaves it alone, since an upload may be under way.
    """

    def __init__(self, folder: Path, cap_bytes: int = MAX_FILE_BYTES, *, receives: bool = True) -> None:
        self._folder = files.make_folder(folder)
        self._cap_bytes = cap_bytes
        for stale in folder.glob(".*.tmp") if receives else ():
            stale.unlink(missing_ok=True)

    def put(self, chunks: Iterable[bytes], sha256: str | None = None) -> Blob:
        """Store one blob.

        Args:
            chunks: its content in pieces; no more is read once the cap is passed.
            sha256: what it must hash to (hex), if that is known.

        Raises:
            FleetError: ``blob.too_large``, ``blob.hash``, ``blob.empty``.
        """
        temporary = self._folder / f".{secrets.token_hex(16)}.tmp"
        try:
            blob = self._receive(temporary, chunks)
            if sha256 is not None and blob.sha256 != sha256:
                raise FleetError(
                    "blob.hash", f"the content hashes to {blob.sha256}, not to {sha256[:64]}; send it again"
                )
            if self.has(blob.sha256, blob.length):
                self.wanted(blob.sha256)
                return blob
            files.publish_file(temporary, self._folder / blob.sha256)
            return blob
        finally:
            temporary.unlink(missing_ok=True)

    def put_bytes(self, content: bytes, sha256: str | None = None) -> Blob:
        """Store ``content``. Raises as :meth:`put`."""
        return self.put([content], sha256)

    def path(self, sha256: str) -> Path:
        """Where the blob is.

        Raises:
            FleetError: ``blob.not_found``.
        """
        path = self._folder / sha256
        if not _SHA256.match(sha256) or not path.is_file():
            raise FleetError("blob.not_found", f"there is no blob {sha256[:64]!r}")
        return path

    def file_of(self, manifest: str, name: str) -> Path | None:
        """Where a file of a bundle is, of which ``manifest`` is the manifest's SHA-256; None: it has no such file.

        Raises:
            FleetError: ``blob.not_found``.
        """
        path = self.path(manifest)
        if name == MANIFEST_FILE:
            return path
        found = (file.sha256 for file in decode_manifest(path.read_bytes()).files if file.name == name)
        return next((self.path(sha256) for sha256 in found), None)

    def has(self, sha256: str, length: int) -> bool:
        """Whether a blob with this hash (by its name) and length is stored. :meth:`check` also reads its bytes."""
        path = self._folder / sha256
        return bool(_SHA256.match(sha256)) and path.is_file() and path.stat().st_size == length

    def wanted(self, sha256: str) -> Path:
        """Where the blob is, which somebody is about to name: :meth:`remove_unused` leaves it for as long as a new one.

        Raises:
            FleetError: ``blob.not_found``.
        """
        path = self.path(sha256)
        with contextlib.suppress(OSError):  # a store that is read only removes nothing either
            os.utime(path)
        return path

    def remove_unused(self, used: Container[str], before: float) -> tuple[int, int]:
        """Remove the blobs that are not ``used`` and that nobody stored or asked for since ``before`` (Unix seconds).

        Returns:
            How many, and their bytes.
        """
        count = length = 0
        for entry in os.scandir(self._folder):
            if not _SHA256.match(entry.name) or entry.name in used:
                continue
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(entry.path)
                if found.st_mtime < before:
                    os.unlink(entry.path)
                    count, length = count + 1, length + found.st_size
        return count, length

    def check(self, sha256: str, length: int) -> None:
        """Read the blob and check that its bytes have the hash in its name, and this length.

        Raises:
            FleetError: ``blob.not_found``, ``blob.hash``.
        """
        with self.path(sha256).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256 or file.tell() != length:
                raise FleetError("blob.hash", f"the blob {sha256} is damaged; upload the file again")

    def _receive(self, temporary: Path, chunks: Iterable[bytes]) -> Blob:
        digest = hashlib.sha256()
        length = 0
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PUBLIC)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                length += len(chunk)
                if length > self._cap_bytes:
                    raise FleetError("blob.too_large", f"the content is longer than the cap of {self._cap_bytes} bytes")
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if length == 0:
            raise FleetError("blob.empty", "the content is empty")
        return Blob(digest.hexdigest(), length)
