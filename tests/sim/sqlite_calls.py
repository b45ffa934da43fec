"""SQLite's own writes, counted and cut: its VFS lets a caller replace the system calls that it makes.

``sqlite3_vfs.xSetSystemCall`` (SQLite, "The SQLite OS Interface or VFS"; ``os_unix.c``: aSyscall) takes ``pwrite``,
``unlink`` and the rest by name. The spool's records go through here, so a kill at each of these calls is a kill in
the middle of a commit.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import ctypes.util
import os
import signal
from pathlib import Path
from typing import Any

__all__ = ["install"]

_WRITE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
_KEPT: list[Any] = []
"""Callbacks that SQLite holds; Python must not free them."""


class _Vfs(ctypes.Structure):
    """``struct sqlite3_vfs`` of version 3, up to what is used here."""


_SET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Vfs), ctypes.c_char_p, ctypes.c_void_p)
_GET = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Vfs), ctypes.c_char_p)
_Vfs._fields_ = [
    ("version", ctypes.c_int),
    ("file_bytes", ctypes.c_int),
    ("max_path", ctypes.c_int),
    ("next", ctypes.c_void_p),
    ("name", ctypes.c_char_p),
    ("app_data", ctypes.c_void_p),
    *((f"call_{number}", ctypes.c_void_p) for number in range(12)),
    ("current_time_64", ctypes.c_void_p),
    ("set_system_call", _SET),
    ("get_system_call", _GET),
]


def install(kill_at: int, log: Path) -> None:
    """Count SQLite's writes into ``log``, one byte each; die in the middle of number ``kill_at``."""
    library = ctypes.CDLL(_sqlite3.__file__)  # linked against the libsqlite3 in use
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0
    write = os.write

    def pwrite(fd: int, data: int, size: int, offset: int) -> int:
        nonlocal count
        count += 1
        write(handle, b".")
        content = ctypes.string_at(data, size)
        if count == kill_at:
            os.pwrite(fd, content[: size // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return os.pwrite(fd, content, offset)

    callback = _WRITE(pwrite)
    _KEPT.append(callback)
    for name in (b"pwrite", b"pwrite64"):
        vfs.contents.set_system_call(vfs, name, ctypes.cast(callback, ctypes.c_void_p))
