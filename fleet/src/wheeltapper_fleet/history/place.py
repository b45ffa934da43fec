"""Where segments are kept: a folder of this machine, or a bucket of any S3 server.

Invariant: a file appears whole or not at all, and is on the disk, or acknowledged by the server, before
:meth:`HistoryPlace.write` returns.

Credentials of S3 come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``) or the machine's role, as
the AWS tools read them; a URL that holds some is refused, because URLs are logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["HistoryPlace", "needs_extra"]

_S3_OPTIONS = ("endpoint_override", "region", "scheme")


def needs_extra() -> FleetError:
    """The error where pyarrow or DuckDB is missing."""
    return FleetError(
        "history.missing_library", "history needs pyarrow and duckdb: pip install 'wheeltapper-fleet[history]'"
    )


class HistoryPlace:
    """The folder or bucket of the history.

    Args:
        url: a path, or ``s3://bucket/prefix`` with ``?endpoint_override=host:port``, ``region=…``, ``scheme=http`` for
            servers that are not Amazon's.

    Raises:
        FleetError: ``history.url``: the URL cannot be used; ``history.missing_library``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder: Path | None = None
        try:
            from pyarrow import fs
        except ImportError as error:
            raise needs_extra() from error
        if "://" not in url:
            self._folder = Path(url).absolute()
            self.filesystem: Any = fs.SubTreeFileSystem(str(self._folder), fs.LocalFileSystem())
            return
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme != "s3" or not parts.hostname or parts.username or set(options) - set(_S3_OPTIONS):
            raise FleetError(
                "history.url",
                "history_url is a path, or s3://BUCKET/PREFIX with the options "
                f"{', '.join(_S3_OPTIONS)}; credentials come from the environment",
                400,
            )
        try:
            server = fs.S3FileSystem(**options, connect_timeout=10, request_timeout=60)
        except (OSError, ValueError, TypeError) as error:
            raise FleetError("history.url", f"history_url cannot be used: {error}", 400) from error
        self.filesystem = fs.SubTreeFileSystem(f"{parts.netloc}{parts.path}".rstrip("/"), server)

    def write(self, path: str, content: bytes) -> None:
        """Write a file; one of that path is replaced.

        Raises:
            FleetError: ``history.unreachable``.
        """
        try:
            if self._folder is not None:
                target = self._folder / path
                files.make_folder(target.parent, private=True)
                files.write_atomic(target, content, files.PRIVATE)
                return
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
        except OSError as error:
            raise FleetError("history.unreachable", f"{path} cannot be written to the history: {error}", 503) from error

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file.

        Raises:
            FleetError: ``history.unreachable``: also where the file is missing.
        """
        digest = hashlib.sha256()
        try:
            for chunk in self._chunks(path):
                digest.update(chunk)
        except OSError as error:
            raise FleetError("history.unreachable", f"{path} of the history cannot be read: {error}", 503) from error
        return digest.hexdigest()

    def _chunks(self, path: str) -> Iterator[bytes]:
        with self.filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(1024 * 1024):
                yield chunk
