"""The store of content-addressed files (blobs), which are fetched over HTTPS where they are missing.

Invariants:
    * A file is in the store only under its own SHA-256.
    * At most ``length`` bytes and one piece more are ever read of a file.
    * A file that is here already, in the store or in a slot, is not fetched again.
    * What came of a file before the connection broke is kept, over restarts too, and only the rest is asked for. The
      hash of the whole file decides in the end, so a rest of other bytes costs time and nothing else.
    * A server that sends too few bytes in a minute is given up.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.clock import InterruptibleSleep
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import fsync_file, fsync_folder
from wheeltapper_agent.ground.rate import MinimumRate, TokenBucket
from wheeltapper_agent.link.https import CHUNK_BYTES, HttpsClient, HttpsError

__all__ = ["BlobStore", "FindLocalFile"]

_PREFIX: Final = "/v1/blobs/"
_LEAST_PIECE_BYTES: Final = 1024
_PIECES_A_SECOND: Final = 4
_RANGE_NOT_SATISFIABLE: Final = 416
SLOW_WINDOW_SECONDS: Final = 60.0
"""Seconds of waiting for the server over which the least rate is measured: a bad line has its worse half minutes."""
FindLocalFile = Callable[[str, int], Path | None]
"""Gives a file on the disk that may have this SHA-256 (hex) and length; it is not verified. None: there is none."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


class BlobStore:
    """The blobs in ``folder``, fetched through ``client`` where they are missing.

    Args:
        folder: of the blobs; it is made where it is missing.
        client: of the server.
        find_local: looks for a file outside of the store, e.g. in a slot.
        bytes_per_second: fetch at most so many, over all files; 0: no limit.
        least_bytes_per_second: the server must send so many, over a minute; 0: any rate will do.
    """

    def __init__(
        self,
        folder: Path,
        client: HttpsClient,
        find_local: FindLocalFile | None = None,
        bytes_per_second: float = 0.0,
        least_bytes_per_second: float = 0.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._client = client
        self._find_local = find_local
        self._piece_bytes = CHUNK_BYTES
        if bytes_per_second > 0:
            self._piece_bytes = int(min(CHUNK_BYTES, max(_LEAST_PIECE_BYTES, bytes_per_second / _PIECES_A_SECOND)))
        self._bucket = TokenBucket(bytes_per_second, self._piece_bytes, time.monotonic())
        self._least_bytes_per_second = least_bytes_per_second
        self.gained_bytes = 0
        """Bytes by which all answers so far brought their files nearer to being whole, without what was thrown away."""

    def missing_bytes(self, sha256: str, length: int) -> int:
        """Room on the disk that the file still takes: nothing if it is here, else the bytes that did not come yet."""
        try:
            if (self._folder / sha256).stat().st_size == length:
                return 0
        except OSError:
            pass
        if self._find_local is not None and self._find_local(sha256, length) is not None:
            return 0
        return max(0, length - _size(self._partial(sha256)))

    def fetch(self, sha256: str, length: int, sleep: InterruptibleSleep = _sleep) -> Path:
        """The file with this hash and length; fetched, if it is not here.

        Args:
            sha256: hash of the file, in hex.
            length: its length in bytes.
            sleep: called after each piece with the seconds to wait; raises to break off.

        Raises:
            AgentError: ``fetch.too_long``, ``fetch.length`` (broke off early), ``fetch.hash``, ``fetch.range``,
                ``fetch.unreachable``, ``fetch.status``, ``fetch.slow``, ``storage.*``.
        """
        path = self._folder / sha256
        if path.is_file() and path.stat().st_size == length and _digest(path) == sha256:
            return path
        try:
            if self._take_local(sha256, length, path):
                return path
            partial = self._partial(sha256)
            if _size(partial) < length:
                self._download(sha256, length, partial, sleep)
            self._check(sha256, length, partial)
            os.replace(partial, path)
            fsync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"blob {sha256[:12]} cannot be kept") from error
        return path

    def _partial(self, sha256: str) -> Path:
        return self._folder / f".{sha256}.part"

    def _take_local(self, sha256: str, length: int, path: Path) -> bool:
        """Link or copy the file from elsewhere on the disk to ``path``, if it is there and its hash is right."""
        found = self._find_local(sha256, length) if self._find_local is not None else None
        try:
            if found is None or found.stat().st_size != length or _digest(found) != sha256:
                return False
        except OSError:
            return False
        temporary = self._folder / f".{sha256}.link"
        temporary.unlink(missing_ok=True)
        try:
            os.link(found, temporary)
        except OSError:
            shutil.copyfile(found, temporary)
            fsync_file(temporary)
        os.replace(temporary, path)
        fsync_folder(self._folder)
        return True

    def _download(self, sha256: str, length: int, partial: Path, sleep: InterruptibleSleep) -> None:
        """Fetch what ``partial`` lacks of the file, and make it durable."""
        offset = _size(partial)
        try:
            with contextlib.ExitStack() as stack:
                begins, pieces = stack.enter_context(
                    self._client.stream_from(_PREFIX + sha256, offset, self._piece_bytes)
                )
                file = stack.enter_context(partial.open("r+b" if begins else "wb"))
                total = file.seek(begins)
                for piece in self._fast_enough(sha256, pieces):
                    total += len(piece)
                    if total > length:
                        raise AgentError("fetch.too_long", f"blob {sha256[:12]} is longer than its {length} bytes")
                    file.write(piece)
                    sleep(self._wait_seconds(len(piece)))
                file.flush()
                os.fsync(file.fileno())
        except AgentError as error:
            # What is there cannot be the beginning of what the server has now: begin anew next time.
            if isinstance(error, HttpsError) and error.status == _RANGE_NOT_SATISFIABLE:
                partial.unlink(missing_ok=True)
                raise AgentError("fetch.length", f"blob {sha256[:12]} ended before its {length} bytes") from error
            if error.code in ("fetch.range", "fetch.too_long"):
                partial.unlink(missing_ok=True)
            raise
        finally:
            self.gained_bytes += _size(partial) - offset

    def _fast_enough(self, sha256: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass ``pieces`` on, and measure the rate by the time that each took to come, not by what was done with it.

        Raises:
            AgentError: ``fetch.slow``.
        """
        rate = MinimumRate(self._least_bytes_per_second, SLOW_WINDOW_SECONDS)
        while True:
            began_seconds = time.monotonic()
            piece = next(pieces, b"")
            took_seconds = time.monotonic() - began_seconds
            if not piece:
                return
            yield piece  # kept, even if it is the last one of a server that is given up
            if not rate.enough(len(piece), took_seconds):
                least = self._least_bytes_per_second
                raise AgentError(
                    "fetch.slow",
                    f"blob {sha256[:12]} came with less than {least:.0f} bytes a second; it is tried again later",
                )

    def _wait_seconds(self, count_bytes: int) -> float:
        """Seconds to wait before the next piece is read, so that the rate stays below the limit."""
        now_seconds = time.monotonic()
        self._bucket.available(now_seconds)
        self._bucket.take(count_bytes)
        return self._bucket.wait_seconds(0.0, now_seconds)

    def _check(self, sha256: str, length: int, partial: Path) -> None:
        """Check length and hash of a file that was fetched.

        Raises:
            AgentError: ``fetch.length`` (it is too short), ``fetch.hash``.
        """
        size = _size(partial)
        if size < length:
            raise AgentError("fetch.length", f"blob {sha256[:12]} ended after {size} of {length} bytes")
        if size > length or _digest(partial) != sha256:
            partial.unlink(missing_ok=True)
            self.gained_bytes -= size
            raise AgentError(
                "fetch.hash", f"the blob received as {sha256[:12]} has another SHA-256, so it is thrown away"
            )

    def collect_garbage(self, keep: set[str], keep_partial: bool = False) -> None:
        """Remove every file but those of ``keep``; also what a kill left.

        Args:
            keep: hashes of the files that stay.
            keep_partial: keep also what came of them so far.
        """
        stays = keep | {self._partial(sha256).name for sha256 in keep} if keep_partial else keep
        for path in self._folder.iterdir():
            if path.name not in stays:
                path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """The size of a file in bytes; 0 if there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
