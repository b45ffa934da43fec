"""A disk that loses its power: kills the process at a chosen call, and says what would not have been on the platter.

:class:`Disk` wraps the calls by which the agent changes a folder (from outside; nothing in the agent knows of it),
numbers them, logs each, and ends the process with SIGKILL before or after a chosen one. SIGKILL alone loses nothing:
the kernel still writes what it was given. So :func:`lose_power` then takes back, from the log, what no fsync had made
durable:

    * a change of a name (create, rename, link, unlink, mkdir, rmdir) whose folder was not fsynced since is undone;
    * a file that was opened for writing and not fsynced since is cut to nothing, or to half of it.

Or only the second: names reached the disk, and what they name did not (as ext4 does with ``noauto_da_alloc``).

That is the strictest reading of POSIX (file systems promise more, e.g. ordered metadata), and each change counts
alone: a folder that was fsynced keeps its names although another one loses its own.

SQLite's files are not touched here: its own calls are cut in :mod:`tests.sim.sqlite_calls`.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Disk", "lose_power", "role"]

_REAL: dict[str, Any] = {
    name: getattr(os, name)
    for name in ("open", "fsync", "replace", "rename", "unlink", "remove", "link", "symlink", "mkdir", "rmdir", "write")
}
_IO_OPEN: Any = io.open
_WRITING = os.O_WRONLY | os.O_RDWR


def role(path: str) -> str:
    """What a path below the state folder is for: names that differ from run to run are made one."""
    path = re.sub(r"[0-9a-f]{64}", "SHA256", path)
    path = re.sub(r"-[0-9a-f]{8}(?=\b|\.)", "-SHA8", path)
    path = re.sub(r"/tmp[a-z0-9_]{8}$", "/TEMPORARY", path)
    return re.sub(r"\b\d+\.(root|targets|bearing|snapshot)", r"N.\1", path)


class Disk:
    """Counts the calls below ``root``; with ``kill_at`` above 0 the process dies at that one.

    Args:
        root: the state folder.
        log: where the calls are told; outside of ``root``.
        backups: a folder on the same file system, for what is overwritten; outside of ``root``.
        state: what the agent is doing, for the log.
        kill_at: number of the call, from 1.
        before: die before it is done rather than after.
    """

    def __init__(
        self, root: Path, log: Path, backups: Path, state: Callable[[], str], kill_at: int = 0, before: bool = False
    ) -> None:
        self._root = os.fspath(root.resolve())
        self._backups = backups
        backups.mkdir(parents=True, exist_ok=True)
        self._log = _REAL["open"](log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._state = state
        self._kill_at, self._before = kill_at, before
        self._count = 0
        self._lock = threading.RLock()

    def install(self) -> None:
        """Wrap the calls of this process."""
        for name in ("open", "fsync", "rename", "unlink", "link", "symlink", "mkdir", "rmdir"):
            setattr(os, name, getattr(self, f"_{name}"))
        os.replace, os.remove = os.rename, os.unlink
        for module in (io, builtins):
            module.__dict__["open"] = self._file_open

    # --- counting and killing -----------------------------------------------------------------------------------------

    def _tell(self, **entry: Any) -> None:
        _REAL["write"](self._log, json.dumps(entry).encode() + b"\n")

    def _call(self, kind: str, path: str, do: Callable[[], Any], told: Callable[[], dict[str, Any]]) -> Any:
        with self._lock:
            self._count += 1
            point = {"n": self._count, "state": self._state(), "call": kind, "role": role(path)}
            self._tell(point=point)
            if self._count == self._kill_at and self._before:
                os.kill(os.getpid(), signal.SIGKILL)
            entry = told() if kind in ("unlink", "rename", "rmdir") else None
            result = do()
            if entry is None:
                entry = told()
            self._tell(**entry)
            if self._count == self._kill_at and not self._before:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    def _inside(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path below the root, or None."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        if text == self._root:
            return ""
        return text[len(self._root) + 1 :] if text.startswith(self._root + "/") else None

    def _name(self, inside: str) -> list[Any]:
        folder, _, name = f"{self._root}/{inside}".rpartition("/")
        return [os.stat(folder).st_ino, name]

    def _backup(self, inside: str) -> str | None:
        full, spare = f"{self._root}/{inside}", self._backups / str(self._count)
        try:
            _REAL["link"](full, spare, follow_symlinks=False)
        except (FileNotFoundError, PermissionError):  # a folder cannot be linked
            return None
        return os.fspath(spare)

    # --- the calls ----------------------------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        inside = self._inside(path, dir_fd) if flags & (_WRITING | os.O_CREAT) else None
        if inside is None:
            return int(_REAL["open"](path, flags, mode, dir_fd=dir_fd))
        made: list[int] = []
        new = not os.path.lexists(f"{self._root}/{inside}")

        def do() -> int:
            made.append(_REAL["open"](path, flags, mode, dir_fd=dir_fd))
            return made[0]

        def told() -> dict[str, Any]:
            return {"op": "create" if new else "write", "at": self._name(inside), "dirty": os.fstat(made[0]).st_ino}

        return int(self._call("open", inside, do, told))

    def _file_open(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "opener" in options or not set(mode) & set("wax+") or self._inside(file) is None:
            return _IO_OPEN(file, mode, *args, **options)
        return _IO_OPEN(file, mode, *args, opener=lambda path, flags: self._open(path, flags, 0o666), **options)

    def _fsync(self, fd: int) -> None:
        seen = os.fstat(fd)
        inside = self._inside(os.readlink(f"/proc/self/fd/{fd}"))
        if inside is None:
            _REAL["fsync"](fd)
            return
        self._call("fsync", inside or ".", lambda: _REAL["fsync"](fd), lambda: {"op": "sync", "inode": seen.st_ino})

    def _rename(self, src: Any, dst: Any, **options: Any) -> None:
        old, new = self._inside(src), self._inside(dst)
        if old is None or new is None:
            _REAL["rename"](src, dst, **options)
            return

        def told() -> dict[str, Any]:
            return {"op": "rename", "from": self._name(old), "at": self._name(new), "backup": self._backup(new)}

        self._call("rename", new, lambda: _REAL["rename"](src, dst, **options), told)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is None or not os.path.lexists(f"{self._root}/{inside}"):
            _REAL["unlink"](path, dir_fd=dir_fd)
            return
        self._call(
            "unlink",
            inside,
            lambda: _REAL["unlink"](path, dir_fd=dir_fd),
            lambda: {"op": "unlink", "at": self._name(inside), "backup": self._backup(inside)},
        )

    def _make(self, kind: str, path: Any, do: Callable[[], Any], dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is None or os.path.lexists(f"{self._root}/{inside}"):
            do()
            return
        self._call(kind, inside, do, lambda: {"op": "create", "at": self._name(inside)})

    def _link(self, src: Any, dst: Any, **options: Any) -> None:
        self._make("link", dst, lambda: _REAL["link"](src, dst, **options))

    def _symlink(self, src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        self._make("symlink", dst, lambda: _REAL["symlink"](src, dst, target_is_directory, dir_fd=dir_fd), dir_fd)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._make("mkdir", path, lambda: _REAL["mkdir"](path, mode, dir_fd=dir_fd), dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is None:
            _REAL["rmdir"](path, dir_fd=dir_fd)
            return

        def told() -> dict[str, Any]:
            return {"op": "rmdir", "at": self._name(inside), "inode": os.stat(f"{self._root}/{inside}").st_ino}

        self._call("rmdir", inside, lambda: _REAL["rmdir"](path, dir_fd=dir_fd), told)


def _folders(root: Path) -> dict[int, Path]:
    return {os.stat(folder).st_ino: Path(folder) for folder, _, _ in os.walk(root)}


def lose_power(root: Path, log: Path, half: bool = False, names: bool = False) -> int:
    """Take back what was not durable when the process died; returns how much was lost.

    Args:
        root: the state folder.
        log: of its :class:`Disk`.
        half: files that were not fsynced keep half of their bytes rather than none.
        names: every change of a name survived.
    """
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    ops = [entry for entry in entries if "op" in entry]
    dirty: set[int] = set()
    pending: list[dict[str, Any]] = []
    for op in ops:
        if op["op"] == "sync":
            dirty.discard(op["inode"])
            pending = [other for other in pending if other["at"][0] != op["inode"]]
        else:
            if "dirty" in op:
                dirty.add(op["dirty"])
            if op["op"] != "write" and not names:
                pending.append(op)
    lost = len(pending)
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink() and path.stat().st_ino in dirty:
                lost += 1
                os.truncate(path, path.stat().st_size // 2 if half else 0)
    renewed: dict[int, int] = {}
    for op in reversed(pending):
        _undo(root, op, renewed)
    return lost


def _undo(root: Path, op: dict[str, Any], renewed: dict[int, int]) -> None:
    folders = _folders(root)

    def path(at: list[Any]) -> Path | None:
        folder = folders.get(renewed.get(at[0], at[0]))
        return folder / at[1] if folder is not None else None

    at = path(op["at"])
    if at is None:  # its folder is gone, and with it the name
        return
    match op["op"]:
        case "create":
            if at.is_dir() and not at.is_symlink():
                shutil.rmtree(at)
            else:
                at.unlink(missing_ok=True)
        case "rename":
            before = path(op["from"])
            if before is not None and os.path.lexists(at):
                os.rename(at, before)
            if op["backup"]:
                os.link(op["backup"], at, follow_symlinks=False)
        case "unlink":
            if op["backup"] and not os.path.lexists(at):
                os.link(op["backup"], at, follow_symlinks=False)
        case "rmdir":
            at.mkdir()
            renewed[op["inode"]] = at.stat().st_ino
