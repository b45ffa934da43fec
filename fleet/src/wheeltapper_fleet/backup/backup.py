"""Makes backups of a fleet service, verifies them, and makes a service from one.

A backup is a folder: ``fleet.db`` (SQLite, whatever the service's database is), the files of the data folder below
``data/``, and ``backup.json``, which names every file with length, mode and SHA-256 and is written last.

Invariants:
    * The service may run meanwhile; nothing of it is locked. Rows are read before files, and ``timestamp.json`` of the
      TUF repository before the rest: whatever a row or the timestamp names is among the files.
    * A folder without ``backup.json`` is no backup. One whose files do not have their hashes is refused.
    * Nothing is restored over something: the data folder and the database must be empty.
    * Devices never see metadata go back: what is restored goes on with versions far above those that they may have
      seen (:data:`VERSIONS_SKIPPED`). The numbers of assignments rise by themselves.
    * The offline keys are in no backup. The online keys are: the folder has mode 0700, its files 0600.

What is not in a backup: what the broker keeps. Devices send what is not acknowledged again, and what they shall run is
published anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Engine

from wheeltapper_fleet import __version__
from wheeltapper_fleet.backup.rows import Progress, copy_rows, count_rows
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["VERSIONS_SKIPPED", "Contents", "create_backup", "restore_backup", "verify_backup"]

VERSIONS_SKIPPED: Final = 100_000
"""More versions of snapshot and timestamp than a service signs between a backup and its restoration."""
_CONTENTS: Final = "backup.json"
_DATABASE: Final = "fleet.db"
_FORMAT: Final = 1
_CHUNK_BYTES: Final = 1024 * 1024
_LEFT_OUT: Final = frozenset({"broker", "serve.json", "serve.lock", _DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm"})
"""Entries of the data folder that are not copied as files: what belongs to a running process, and the database."""
_FIRST: Final = "tuf/timestamp.json"


class SavedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a backup: its path within the backup, its length in bytes, its mode bits."""

    path: str
    length: int
    sha256: str
    mode: int


class Contents(Struct, frozen=True, kw_only=True):
    """What a backup holds; the content of ``backup.json``. ``made_at`` is Unix seconds, ``rows`` is by table."""

    format: int
    made_at: float
    version: str
    database: str
    rows: dict[str, int]
    files: list[SavedFile]

    @property
    def total_bytes(self) -> int:
        """The length of all files together."""
        return sum(file.length for file in self.files)


def create_backup(
    data_dir: Path, database_url: str, folder: Path, progress: Progress = lambda name, done: None
) -> Contents:
    """Write a backup into the new folder ``folder``.

    Args:
        data_dir: the service's data folder.
        database_url: of the service's database.
        folder: must not exist.
        progress: is told what is copied.

    Raises:
        FleetError: ``backup.exists``, ``backup.no_service`` (no service was set up in ``data_dir``), ``backup.failed``
            (such as a full disk; nothing is left behind).
    """
    if not (data_dir / _FIRST).is_file():
        raise FleetError("backup.no_service", f"{data_dir} is not the data folder of a fleet service", 400)
    with _made_whole(folder, "backup") as partial:
        engine = open_database(database_url)
        try:
            rows = _save_database(engine, partial / _DATABASE, progress)
            kind = engine.dialect.name
        finally:
            engine.dispose()
        saved = [_described(partial, _DATABASE)]
        for name in _names(data_dir):
            with contextlib.suppress(FileNotFoundError):  # it was removed since the folder was read
                saved.append(_copy(data_dir / name, partial, f"data/{name}"))
                progress("files", sum(file.length for file in saved))
        contents = Contents(
            format=_FORMAT, made_at=time.time(), version=__version__, database=kind, rows=rows, files=saved
        )
        encoded = msgspec.json.format(msgspec.json.encode(contents), indent=1)
        files.write_atomic(partial / _CONTENTS, encoded, files.PRIVATE)
    return contents


def verify_backup(folder: Path, progress: Progress = lambda name, done: None) -> Contents:
    """Read every file of a backup and compare it with ``backup.json``; check the database as a whole.

    Raises:
        FleetError: ``backup.not_found``, ``backup.unreadable``, ``backup.damaged``.
    """
    contents = _read_contents(folder)
    done = 0
    for expected in contents.files:
        try:
            found = _described(folder, expected.path)
        except OSError as error:
            raise _damaged(folder, f"{expected.path} is missing or cannot be read: {error}") from error
        if (found.length, found.sha256) != (expected.length, expected.sha256):
            raise _damaged(folder, f"{expected.path} does not have its SHA-256")
        done += found.length
        progress("files", done)
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{folder / _DATABASE}?mode=ro&immutable=1", uri=True)
        ) as database:
            answers = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    except sqlite3.Error as error:
        raise _damaged(folder, f"its database cannot be read: {error}") from error
    if answers != ["ok"]:
        raise _damaged(folder, f"its database is damaged: {answers[0]}")
    return contents


def restore_backup(
    folder: Path, data_dir: Path, database_url: str = "", progress: Progress = lambda name, done: None
) -> Contents:
    """Make the data folder ``data_dir`` from a backup, and fill the database.

    Tables are brought up to date, so a backup of an earlier version may be restored by a later one.

    Args:
        folder: the backup.
        data_dir: must not exist, or be empty.
        database_url: an empty database; empty: SQLite in ``data_dir``.
        progress: is told what is copied.

    Raises:
        FleetError: the codes of :func:`verify_backup`; ``restore.not_empty``, ``restore.failed``.
    """
    contents = verify_backup(folder, progress)
    with _made_whole(data_dir, "restore") as partial:
        for file in contents.files:
            if file.path.startswith("data/"):
                _copy(folder / file.path, partial, file.path.removeprefix("data/"), file.mode)
        shutil.copyfile(folder / _DATABASE, partial / _DATABASE)
        saved = open_database(f"sqlite:///{partial.resolve() / _DATABASE}")
        try:
            if database_url:
                target = open_database(database_url)
                try:
                    copy_rows(saved, target, progress)
                finally:
                    target.dispose()
        finally:
            saved.dispose()
        if database_url:
            (partial / _DATABASE).unlink()
        Repository.open(partial, time.time).skip_versions(VERSIONS_SKIPPED)
    return contents


def _save_database(engine: Engine, path: Path, progress: Progress) -> dict[str, int]:
    """Write all rows of one moment into the SQLite file ``path``; returns how many there are, by table."""
    if engine.dialect.name == "sqlite":
        with reading(engine) as connection:
            connection.rollback()  # VACUUM runs outside of a transaction
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.execute("VACUUM INTO ?", (str(path),))
        os.chmod(path, files.PRIVATE)
        copy = open_database(f"sqlite:///{path}")
        try:
            with reading(copy) as connection:
                rows = count_rows(connection)
        finally:
            _close(copy, path)
        return rows
    target = open_database(f"sqlite:///{path}")
    try:
        return copy_rows(engine, target, progress)
    finally:
        _close(target, path)


def _close(engine: Engine, path: Path) -> None:
    """Close the SQLite database ``path`` so that everything is in its one file."""
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")


@contextlib.contextmanager
def _made_whole(folder: Path, what: str) -> Iterator[Path]:
    """A private folder that becomes ``folder`` when all of it was written; nothing is left behind if that fails."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        code = "backup.exists" if what == "backup" else "restore.not_empty"
        raise FleetError(code, f"{folder} is not empty; name a folder that does not exist", 400)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        files.make_folder(folder.parent)
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise FleetError(f"{what}.failed", f"{partial} cannot be made: {error}; remove it if it is old") from error
    try:
        yield partial
        files.sync_folder(partial)
        os.replace(partial, folder)
        files.sync_folder(folder.parent)
    except OSError as error:
        raise FleetError(f"{what}.failed", f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _names(data_dir: Path) -> Iterator[str]:
    """The files of the data folder, as paths below it; the repository's timestamp first."""
    yield _FIRST
    for folder, folders, names in os.walk(data_dir):
        below = Path(folder).relative_to(data_dir)
        if not below.parts:
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            names = [name for name in names if name not in _LEFT_OUT]
        folders.sort()
        for name in sorted(names):
            path = (below / name).as_posix()
            if path != _FIRST and not name.endswith((".tmp", ".lock")) and not (data_dir / path).is_symlink():
                yield path


def _copy(source: Path, folder: Path, name: str, mode: int = files.PRIVATE) -> SavedFile:
    """Copy one file to ``name`` below ``folder`` and flush it to the disk; returns its description."""
    target = folder / name
    for part in reversed(PurePosixPath(name).parents):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    digest, length = hashlib.sha256(), 0
    with source.open("rb") as read:
        kept = os.fstat(read.fileno()).st_mode & 0o777
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as write:
            while chunk := read.read(_CHUNK_BYTES):
                digest.update(chunk)
                length += len(chunk)
                write.write(chunk)
            write.flush()
            os.fchmod(write.fileno(), mode)
            os.fsync(write.fileno())
    return SavedFile(path=name, length=length, sha256=digest.hexdigest(), mode=kept)


def _described(folder: Path, name: str) -> SavedFile:
    with (folder / name).open("rb") as read:
        digest = hashlib.file_digest(read, "sha256").hexdigest()
        return SavedFile(path=name, length=read.tell(), sha256=digest, mode=files.PRIVATE)


def _read_contents(folder: Path) -> Contents:
    try:
        raw = (folder / _CONTENTS).read_bytes()
    except OSError as error:
        raise FleetError(
            "backup.not_found", f"{folder} holds no finished backup: there is no {_CONTENTS}", 400
        ) from error
    try:
        numbered: Any = json.loads(raw)
        if isinstance(numbered, dict) and numbered.get("format") != _FORMAT:
            raise FleetError(
                "backup.unreadable",
                f"{folder} has format {numbered.get('format')!r}; use the version that made it, or a later one",
                400,
            )
        contents = msgspec.convert(numbered, Contents)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise FleetError("backup.unreadable", f"{folder / _CONTENTS} cannot be read: {error}", 400) from error
    for file in contents.files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not (file.path == _DATABASE or file.path.startswith("data/")):
            raise FleetError("backup.unreadable", f"{folder / _CONTENTS} names a file outside: {file.path[:80]!r}", 400)
    return contents


def _damaged(folder: Path, what: str) -> FleetError:
    return FleetError("backup.damaged", f"the backup {folder} is damaged: {what}; use another one", 409)
