"""Writes files so that a power cut leaves the old or the new content, never a mixture."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fsync_file", "fsync_folder", "replace_link", "write_atomic", "write_once"]


def fsync_folder(folder: Path) -> None:
    """Make renames and new files in ``folder`` durable: they survive a power cut from now on."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _written(path: Path, content: bytes | memoryview, mode: int) -> Iterator[Path]:
    """A durable temporary file beside ``path`` with ``content``; it is deleted at the end if it is still there."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):  # on a disk that refuses everything the first error counts
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | memoryview, mode: int = 0o600) -> None:
    """Create or replace the file ``path``: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file.
        content: its new content.
        mode: its permissions.

    Raises:
        OSError: the disk refuses; ``path`` is as before.
    """
    with _written(path, content, mode) as temporary:
        os.replace(temporary, path)
    fsync_folder(path.parent)


def write_once(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Create the file ``path`` at once with its whole content: temporary file, fsync, link, fsync of the folder.

    Args:
        path: the file.
        content: its content.
        mode: its permissions, from the first moment on.

    Raises:
        FileExistsError: ``path`` exists; it is not changed.
        OSError: the disk refuses.
    """
    with _written(path, content, mode) as temporary:
        os.link(temporary, path, follow_symlinks=False)  # unlike a rename, a link never replaces a file
    fsync_folder(path.parent)


def replace_link(link: Path, target: str) -> None:
    """Create the symbolic link ``link`` to ``target``, or let an existing one point there, in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, link)
    fsync_folder(link.parent)
