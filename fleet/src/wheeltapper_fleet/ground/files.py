"""Writes files that survive a power cut.

Invariants:
    * A file appears whole or not at all: temporary file, fsync, rename, fsync of the folder.
    * A private file has mode 0600 from the moment it exists.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["PRIVATE", "PUBLIC", "locked", "make_folder", "publish_file", "sync_folder", "write_atomic"]

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def make_folder(folder: Path, *, private: bool = False) -> Path:
    """Create ``folder`` and its parents if they are missing (mode 0700 if ``private``, else 0755); returns it."""
    folder.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is not there; waits for other threads and processes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        if os.geteuid() == 0:  # a command that root runs must not lock the service's user out
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that files that were created, renamed or removed in it stay so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Replace the content of ``path``. After a crash the file holds either the old or the new bytes."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        publish_file(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def publish_file(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file to ``path``. The caller has already flushed its content to disk."""
    os.replace(temporary, path)
    sync_folder(path.parent)
