"""Uploads of recordings: in pieces, going on where the server is, within bounds a second and a day.

After draft-ietf-httpbis-resumable-upload-09: ``HEAD`` asks how much the server has (``Upload-Offset``), ``PATCH`` with
``application/partial-upload`` appends; the resource is named by the device, so nothing is created with ``POST``. A
fleet that does not know this gets the whole with ``PUT``.

Invariants: no more than ``bytes_per_second`` (and one piece at once); recordings of rules end for the day at
``max_mb_per_day``, counted over restarts; a person's wish is counted too but not held up. A recording is given up only
where the fleet itself says that it will never take it: a code of its own (``capture.…``), or 413. Whatever else stands
in between and refuses (a proxy, a certificate that is not valid yet, a fleet that is being mended) is tried again.

Not done here: which recording is next, what is reported (:mod:`wheeltapper_agent.captures.captures`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.pending import Pending
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.rate import TokenBucket
from wheeltapper_agent.link.https import HttpsClient, HttpsError

__all__ = ["Uplink"]

_LOG = logging.getLogger(__name__)
_MAX_ANSWER_BYTES: Final = 64 * 1024
_DAY_SECONDS: Final = 86_400
_NOT_KNOWN: Final = (405, 501)
_BUSY: Final = (408, 429)
_TOO_LARGE: Final = 413
_OWN: Final = "capture."
_SHORTER: Final = "the recording on the disk is shorter than it was"
_AGAIN: Final = ("capture.too_many", "capture.offset", "capture.changed")
"""Codes of the fleet that time mends."""
_MAX_RESTARTS: Final = 3


class _Day(msgspec.Struct, frozen=True):
    day: int = 0
    sent_bytes: int = 0


class Uplink:
    """Sends one recording at a time.

    Args:
        client: to the fleet service.
        config: the bounds.
        clock: time.
        state: the file that remembers what went out today.
        stopping: ends waiting.
    """

    def __init__(
        self, client: HttpsClient, config: CaptureConfig, clock: Clock, state: Path, stopping: threading.Event
    ) -> None:
        self._client = client
        self._config = config
        self._clock = clock
        self._state = state
        self._stopping = stopping
        self._piece_bytes = max(1, config.piece_kb) * 1024
        self._bucket = TokenBucket(config.bytes_per_second, self._piece_bytes, clock.monotonic())
        try:
            self._day = msgspec.json.decode(state.read_bytes(), type=_Day)
        except (OSError, msgspec.DecodeError):
            self._day = _Day()

    def allowed(self, entry: Pending) -> bool:
        """Whether the day's share leaves room for it."""
        limit = self._config.max_mb_per_day * 1024 * 1024
        return entry.command is not None or limit <= 0 or self._today().sent_bytes + entry.length <= limit

    def send(self, entry: Pending, path: Path) -> bool:
        """Upload what the server has not yet; True when it has all, False to try again later.

        Raises:
            AgentError: ``capture.upload``: the server will never take it, or it is lost.
        """
        restarts = 0
        try:
            offset = self._offset(entry)
            if offset is None:
                return self._put(entry, path)
            with path.open("rb") as file:
                while not self._stopping.is_set():
                    if offset >= entry.length:
                        return True
                    file.seek(offset)
                    piece = file.read(self._piece_bytes)
                    if not piece:
                        raise AgentError("capture.upload", _SHORTER)
                    self._wait_for(len(piece))
                    try:
                        self._patch(entry, offset, piece)
                    except HttpsError as error:
                        if error.remote_code not in ("capture.offset", "capture.hash", "capture.changed"):
                            raise
                        restarts += 1
                        if restarts > _MAX_RESTARTS:
                            raise
                        offset = self._restarted(entry, error)
                        continue
                    self._count(len(piece))
                    offset += len(piece)
        except HttpsError as error:
            if _never(error):
                raise AgentError("capture.upload", error.message) from error
            _LOG.info("capture %s: %s", entry.name, error)
        except FileNotFoundError as error:
            raise AgentError("capture.upload", "the recording is no longer on the disk") from error
        except OSError as error:  # no descriptor, a card that is away for a moment
            _LOG.warning("capture %s: the recording cannot be read: %s", entry.name, error)
        return False

    def _url(self, entry: Pending) -> str:
        return f"/v1/captures/{entry.name}"

    def _offset(self, entry: Pending) -> int | None:
        """Where the server is; None if it does not know pieces."""
        try:
            headers = self._client.head(self._url(entry))
        except HttpsError as error:
            if error.status in _NOT_KNOWN and entry.command is not None:
                return None
            if 400 <= error.status < 500 and error.status not in _BUSY:
                self._patch(entry, 0, b"")  # an answer to HEAD has no body that could say why; one to this has
            raise
        text = headers.get("upload-offset", "")
        return min(int(text), entry.length) if text.isascii() and text.isdigit() and len(text) < 16 else None

    def _restarted(self, entry: Pending, error: HttpsError) -> int:
        """Where to go on after the server saw something else than we."""
        _LOG.info("capture %s: %s", entry.name, error)
        if error.remote_code == "capture.changed":
            self._client.request("DELETE", self._url(entry), _MAX_ANSWER_BYTES)
        return self._offset(entry) or 0

    def _patch(self, entry: Pending, offset: int, piece: bytes) -> None:
        headers = {
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(offset),
            "Upload-Length": str(entry.length),
            "Upload-Complete": "?1" if offset + len(piece) == entry.length else "?0",
            "X-Content-SHA256": entry.sha256,
            "X-Pipeline": entry.pipeline,
        }
        self._client.request("PATCH", self._url(entry), _MAX_ANSWER_BYTES, piece, headers)

    def _put(self, entry: Pending, path: Path) -> bool:
        headers = {
            "X-Content-SHA256": entry.sha256,
            "Content-Type": "application/octet-stream",
            "Content-Length": str(entry.length),
        }
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.length:
                raise AgentError("capture.upload", _SHORTER)
            self._client.request("PUT", self._url(entry), _MAX_ANSWER_BYTES, self._pieces(file), headers)
        self._count(entry.length)
        return True

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        """The recording, as fast as the bound allows."""
        while piece := file.read(self._piece_bytes):
            self._wait_for(len(piece))
            yield piece

    def _wait_for(self, count: int) -> None:
        while (seconds := self._bucket.wait_seconds(count, self._clock.monotonic())) > 0:
            if self._stopping.wait(min(seconds, 1.0)):
                raise HttpsError("fetch.unreachable", "the agent ends")
        self._bucket.take(count)

    def _today(self) -> _Day:
        day = int(self._clock.now() // _DAY_SECONDS)
        return self._day if self._day.day == day else _Day(day=day)

    def _count(self, count: int) -> None:
        today = self._today()
        self._day = _Day(day=today.day, sent_bytes=today.sent_bytes + count)
        try:
            write_atomic(self._state, msgspec.json.encode(self._day))
        except OSError as error:
            _LOG.warning("captures: what was sent today cannot be remembered: %s", error)


def _never(error: HttpsError) -> bool:
    """Whether the fleet itself says that it will not take the recording, now or later."""
    if not 400 <= error.status < 500 or error.remote_code in _AGAIN:
        return False
    return error.status == _TOO_LARGE or error.remote_code.startswith(_OWN)
