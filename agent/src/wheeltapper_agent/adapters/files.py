"""Writing files so that a power cut leaves the old or the new content, never something between."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["fsync_file", "fsync_folder", "replace_link", "write_atomic", "write_once"]


def fsync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make what was written to ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes, mode: int, flags: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content``: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    _write(temporary, content, mode, os.O_EXCL)
    os.replace(temporary, path)
    fsync_folder(path.parent)


def write_once(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Create ``path`` with ``mode`` from its first moment.

    Raises:
        FileExistsError: it is there already.
    """
    _write(path, content, mode, os.O_EXCL)
    fsync_folder(path.parent)


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link ``link`` at ``target`` in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, link)
    fsync_folder(link.parent)
