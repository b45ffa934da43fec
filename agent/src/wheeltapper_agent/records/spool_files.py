"""The files beside the spool's database: the reserve for a full disk, and a damaged database that was set aside.

For a database ``spool.db`` these are ``spool.db.reserve`` (1 MB that keeps room on the disk) and ``spool.db.bad`` with
its ``-wal`` and ``-shm``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

__all__ = ["create_reserve", "delete_damaged", "delete_reserve", "free_bytes", "path_of_damaged", "set_aside"]

_RESERVE_BYTES: Final = 1024 * 1024
_SUFFIXES: Final = ("", "-wal", "-shm")
"""SQLite's own files of one database: the database, its write-ahead log, and the index of that log."""


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the disk of ``path``; 0 if the disk does not say."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def _path_of_reserve(path: Path) -> Path:
    return path.with_name(path.name + ".reserve")


def create_reserve(path: Path) -> bool:
    """Create the reserve beside the database ``path``, if it is not there yet.

    Returns:
        Whether it is there. It is not created where the disk has less than twice its size free.
    """
    file = _path_of_reserve(path)
    if file.exists():
        return True
    if free_bytes(path) < 2 * _RESERVE_BYTES:
        return False
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, _RESERVE_BYTES)
        finally:
            os.close(handle)
    except OSError:
        delete_reserve(path)
        return False
    return True


def delete_reserve(path: Path) -> None:
    """Delete the reserve, so that its room can be used."""
    with contextlib.suppress(OSError):
        _path_of_reserve(path).unlink(missing_ok=True)


def path_of_damaged(path: Path, suffix: str = "") -> Path:
    """Where :func:`set_aside` keeps the damaged database of ``path``, or its file with ``suffix`` (``-wal``)."""
    return path.with_name(f"{path.name}.bad{suffix}")


def delete_damaged(path: Path) -> bool:
    """Delete the damaged database that :func:`set_aside` kept; returns whether there was one."""
    deleted = False
    for suffix in _SUFFIXES:
        with contextlib.suppress(OSError):
            path_of_damaged(path, suffix).unlink()
            deleted = True
    return deleted


def set_aside(path: Path) -> None:
    """Rename a damaged database to ``<name>.bad``; a damaged one that was kept before is deleted.

    The database goes first and its log second. A kill in between leaves a log without a database, which SQLite
    deletes. The other order would leave a database that looks sound, but lacks the records in its log; it would give
    their numbers a second time.

    Raises:
        OSError: the disk refuses.
    """
    delete_damaged(path)
    for suffix in _SUFFIXES:
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(path_of_damaged(path, suffix))
