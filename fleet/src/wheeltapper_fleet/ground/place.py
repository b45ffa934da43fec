"""Where large files are kept: a folder of this machine, or a bucket of any S3 server.

Invariants:
    * A file appears whole or not at all, and is on the disk, or acknowledged by the server, before :meth:`Place.write`
      or :meth:`Place.write_file` returns.
    * A folder needs no library: pyarrow is imported for a bucket, and for :attr:`Place.filesystem`.

Credentials of S3 come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``) or the machine's role, as
the AWS tools read them; a URL that holds some is refused, because URLs are logged.

Errors have the codes ``SUBJECT.url``, ``SUBJECT.missing_library`` and ``SUBJECT.unreachable``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, urlsplit

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Place"]

_S3_OPTIONS: Final = ("endpoint_override", "region", "scheme")
_CHUNK_BYTES: Final = 1024 * 1024


class Place:
    """A folder or bucket.

    Args:
        url: a path, or ``s3://bucket/prefix`` with ``?endpoint_override=host:port``, ``region=…``, ``scheme=http`` for
            servers that are not Amazon's.
        subject: what is kept there; the first part of error codes.
        setting: the setting with the URL, for messages.

    Raises:
        FleetError: ``SUBJECT.url``: the URL cannot be used; ``SUBJECT.missing_library``.
    """

    def __init__(self, url: str, subject: str, setting: str) -> None:
        self.url = url
        self._subject = subject
        self._folder: Path | None = None
        if "://" not in url:
            self._folder = Path(url).absolute()
            return
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme != "s3" or not parts.hostname or parts.username or set(options) - set(_S3_OPTIONS):
            raise FleetError(
                f"{subject}.url",
                f"{setting} is a path, or s3://BUCKET/PREFIX with the options "
                f"{', '.join(_S3_OPTIONS)}; credentials come from the environment",
                400,
            )
        fs = self._pyarrow_fs()
        try:
            server = fs.S3FileSystem(**options, connect_timeout=10, request_timeout=60)
        except (OSError, ValueError, TypeError) as error:
            raise FleetError(f"{subject}.url", f"{setting} cannot be used: {error}", 400) from error
        self._bucket: Any = fs.SubTreeFileSystem(f"{parts.netloc}{parts.path}".rstrip("/"), server)

    @functools.cached_property
    def filesystem(self) -> Any:
        """The place as pyarrow's file system.

        Raises:
            FleetError: ``SUBJECT.missing_library``.
        """
        if self._folder is None:
            return self._bucket
        fs = self._pyarrow_fs()
        return fs.SubTreeFileSystem(str(self._folder), fs.LocalFileSystem())

    def missing_library(self) -> FleetError:
        """The error where pyarrow is missing."""
        return FleetError(
            f"{self._subject}.missing_library", "S3 needs pyarrow: pip install 'wheeltapper-fleet[history]'"
        )

    def write(self, path: str, content: bytes) -> None:
        """Write a file; one of that path is replaced.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(path, "written to"):
            if self._folder is not None:
                target = self._folder / path
                files.make_folder(target.parent, private=True)
                files.write_atomic(target, content, files.PRIVATE)
                return
            with self._bucket.open_output_stream(path) as stream:
                stream.write(content)

    def write_new(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; False, and nothing is changed, where it is.

        In a folder one of two writers wins. A bucket is asked before: of two that write at once there, the later wins.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(path, "written to"):
            if self._folder is None:
                if self.length(path) is not None:
                    return False
                self.write(path, content)
                return True
            target = self._folder / path
            files.make_folder(target.parent, private=True)
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
            files.write_atomic(temporary, content, files.PRIVATE)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:  # a file system without hard links, such as that of a USB stick
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                    raise
                if target.exists():
                    return False
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
                files.sync_folder(target.parent)
            return True

    def write_file(self, path: str, source: BinaryIO) -> None:
        """Write a file from an open one, from its present position on; one of that path is replaced.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(path, "written to"):
            if self._folder is None:
                with self._bucket.open_output_stream(path) as stream:
                    while chunk := source.read(_CHUNK_BYTES):
                        stream.write(chunk)
                return
            target = self._folder / path
            files.make_folder(target.parent, private=True)
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, files.PRIVATE)
                with os.fdopen(descriptor, "wb") as file:
                    while chunk := source.read(_CHUNK_BYTES):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                files.publish_file(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def length(self, path: str) -> int | None:
        """How many bytes a file has; None where it is not there.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(path, "looked up in"):
            if self._folder is not None:
                try:
                    return (self._folder / path).stat().st_size
                except (FileNotFoundError, NotADirectoryError):
                    return None
            found = self._bucket.get_file_info(path)
            return int(found.size) if found.is_file else None

    def names(self, folder: str) -> list[str]:
        """The names of what is directly in a folder, sorted; empty where there is no such folder.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(folder, "listed in"):
            if self._folder is not None:
                try:
                    return sorted(name for name in os.listdir(self._folder / folder) if not name.startswith("."))
                except (FileNotFoundError, NotADirectoryError):
                    return []
            from pyarrow import fs

            found = self._bucket.get_file_info(fs.FileSelector(folder, allow_not_found=True))
            return sorted(each.base_name for each in found)

    def touch(self, path: str) -> None:
        """Have a file of a folder count as written now; in a bucket nothing is done.

        Raises:
            FleetError: ``SUBJECT.unreachable``: also where the file is missing.
        """
        if self._folder is not None:
            with self._reported(path, "touched in"):
                os.utime(self._folder / path)

    def files(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """The files directly in a folder, by name: path, length in bytes, and when each was written (Unix seconds).

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        for name in self.names(folder):
            path = f"{folder}/{name}"
            with self._reported(path, "looked up in"):
                if self._folder is not None:
                    try:
                        about = (self._folder / path).lstat()
                    except FileNotFoundError:  # it was removed since
                        continue
                    if stat.S_ISREG(about.st_mode):
                        yield path, about.st_size, about.st_mtime
                    continue
                found = self._bucket.get_file_info(path)
                if found.is_file:
                    yield path, int(found.size), found.mtime.timestamp() if found.mtime is not None else 0.0

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[BinaryIO]:
        """A file, opened for reading; it can be sought in.

        Raises:
            FleetError: ``SUBJECT.unreachable``: also where the file is missing.
        """
        with contextlib.ExitStack() as stack:
            with self._reported(path, "read from"):
                if self._folder is not None:
                    file: Any = stack.enter_context((self._folder / path).open("rb"))
                else:
                    file = stack.enter_context(self._bucket.open_input_file(path))
            yield file

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            FleetError: ``SUBJECT.unreachable``: also where the file is missing.
        """
        with self._reported(path, "read from"), self.opened(path) as file:
            return file.read()

    def remove(self, path: str) -> None:
        """Remove a file, if it is there.

        Raises:
            FleetError: ``SUBJECT.unreachable``.
        """
        with self._reported(path, "removed from"):
            if self._folder is not None:
                target = self._folder / path
                target.unlink(missing_ok=True)
                if target.parent.is_dir():
                    files.sync_folder(target.parent)
            elif self.length(path) is not None:
                self._bucket.delete_file(path)

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file.

        Raises:
            FleetError: ``SUBJECT.unreachable``: also where the file is missing.
        """
        digest = hashlib.sha256()
        with self._reported(path, "read from"), self.opened(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _pyarrow_fs(self) -> Any:
        try:
            from pyarrow import fs
        except ImportError as error:
            raise self.missing_library() from error
        return fs

    @contextlib.contextmanager
    def _reported(self, path: str, done: str) -> Iterator[None]:
        """Raise what the file system or the server refuses as an error of ours."""
        try:
            yield
        except OSError as error:
            message = f"{path} cannot be {done} {self._subject}: {error}"
            raise FleetError(f"{self._subject}.unreachable", message, 503) from error
