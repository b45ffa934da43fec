"""Content-addressed files over HTTPS.

Invariants: a blob is in the store only under its own SHA-256; at most ``length`` bytes and one piece more are ever
read; what is there
and right is not fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from wheeltapper_agent.adapters.files import fsync_folder
from wheeltapper_agent.adapters.http import HttpsClient
from wheeltapper_agent.errors import AgentError, storage_error

__all__ = ["BlobStore"]

_PREFIX: Final = "/v1/blobs/"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class BlobStore:
    """The blobs in ``folder``, fetched through ``client`` where missing."""

    def __init__(self, folder: Path, client: HttpsClient) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._client = client

    def fetch(self, sha256: str, length: int) -> Path:
        """The file with this hash and length.

        Raises:
            AgentError: ``fetch.too_long``, ``fetch.length`` (broke off early), ``fetch.hash``, ``fetch.unreachable``,
            ``fetch.status``, ``storage.*``.
        """
        path = self._folder / sha256
        if path.is_file() and path.stat().st_size == length and _digest(path) == sha256:
            return path
        temporary = self._folder / f".{sha256}.tmp"
        try:
            self._download(sha256, length, temporary)
            os.replace(temporary, path)
            fsync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"blob {sha256[:12]} cannot be kept") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return path

    def _download(self, sha256: str, length: int, target: Path) -> None:
        digest, total = hashlib.sha256(), 0
        with target.open("wb") as file:
            for piece in self._client.stream(_PREFIX + sha256):
                total += len(piece)
                if total > length:
                    raise AgentError("fetch.too_long", f"blob {sha256[:12]} is longer than its {length} bytes")
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if total != length:
            raise AgentError("fetch.length", f"blob {sha256[:12]} ended after {total} of {length} bytes")
        if digest.hexdigest() != sha256:
            raise AgentError("fetch.hash", f"the blob received as {sha256[:12]} has another SHA-256")

    def collect_garbage(self, keep: set[str]) -> None:
        """Remove every file that is not one of ``keep`` (hashes), also what was left by a kill."""
        for path in self._folder.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)
