"""Upload of one recording: in pieces, resumed where the server is, within limits per second and per day.

Follows draft-ietf-httpbis-resumable-upload-09: ``HEAD`` asks how much the server has (``Upload-Offset``), ``PATCH``
with ``application/partial-upload`` appends. The device names the resource, so nothing is created with ``POST``. A fleet
service that does not know this protocol gets the whole recording with ``PUT``.

Invariants:
    * At most ``bytes_per_second`` are sent, and one piece at once.
    * At most ``max_mb_per_day`` of recordings by rule are sent in a day (:mod:`wheeltapper_agent.captures.day_share`).
      Recordings that a command asked for count too, but are never held back by it.
    * While the network is metered, nothing is sent.
    * A recording is given up only where the fleet service itself says that it will never take it: a code of its own
      (``capture.…``), or status 413. Whatever else refuses (a proxy, a certificate that is not valid yet, a service
      that is under maintenance) is tried again.

Not done here: which recording is next, and what is reported (:mod:`wheeltapper_agent.captures.uploader`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from wheeltapper_agent.captures.config import CaptureConfig
from wheeltapper_agent.captures.day_share import DayShare
from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.rate import TokenBucket
from wheeltapper_agent.link.https import HttpsClient, HttpsError

__all__ = ["ResumableUpload"]

_LOG = logging.getLogger(__name__)
_MAX_ANSWER_BYTES: Final = 64 * 1024
# Status codes of HTTP, RFC 9110.
_NO_PARTIAL_UPLOADS: Final = (405, 501)
_TRY_LATER: Final = (408, 429)
_TOO_LARGE: Final = 413
_FLEET_CODES: Final = "capture."
"""How a code begins that only the fleet service gives, never a proxy."""
_PASSING_CODES: Final = ("capture.too_many", "capture.offset", "capture.changed")
"""Codes of the fleet service that do not last: a later attempt may succeed."""
_RESTART_CODES: Final = ("capture.offset", "capture.hash", "capture.changed")
"""The server has something else than the device thought: ask it again where to go on."""
_SHORTER: Final = "the recording on the disk is shorter than it was when it was stored"
_MAX_RESTARTS: Final = 3


class ResumableUpload:
    """Sends one recording at a time.

    Args:
        client: HTTPS to the fleet service.
        config: the limits.
        clock: time.
        state: the file that remembers how much was sent today.
        stopping: set to end an upload that waits.
        metered: says whether traffic to the fleet costs; while it does, nothing is sent.
    """

    def __init__(
        self,
        client: HttpsClient,
        config: CaptureConfig,
        clock: Clock,
        state: Path,
        stopping: threading.Event,
        metered: Callable[[], bool | None] = lambda: False,
    ) -> None:
        self._client = client
        self._config = config
        self._clock = clock
        self._state = state
        self._stopping = stopping
        self._metered = metered
        self._piece_bytes = max(1, config.piece_kb) * 1024
        self._bucket = TokenBucket(config.bytes_per_second, self._piece_bytes, clock.monotonic())
        self._share = DayShare(state, clock)

    def allowed(self, entry: PendingRecording) -> bool:
        """Whether the network may be used for the recording now, and the limit of a day leaves room for it.

        True also for a command that expired, so that this is reported.
        """
        if self._metered():
            return entry.expires_at is not None and self._clock.now() > entry.expires_at
        limit = self.limit_bytes
        return entry.command is not None or limit <= 0 or self.sent_bytes + entry.length <= limit

    @property
    def limit_bytes(self) -> float:
        """What recordings by rule may take of the network in a day; 0 or less: no limit."""
        return self._config.max_mb_per_day * 1024 * 1024

    @property
    def sent_bytes(self) -> int:
        """Bytes that were uploaded in the present day. Any thread may ask."""
        return self._share.sent_bytes

    def send(self, entry: PendingRecording, path: Path) -> bool:
        """Upload what the server does not have yet.

        Args:
            entry: the recording.
            path: its file.

        Returns:
            True when the server has all of it; False to try again later.

        Raises:
            AgentError: ``capture.upload``: the server will never take it, or the file is lost.
        """
        restarts = 0
        if self._metered():
            return False
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
                    if self._metered():
                        _LOG.info("capture %s: the network is metered now; the upload goes on later", entry.name)
                        return False
                    try:
                        self._patch(entry, offset, piece)
                    except HttpsError as error:
                        if error.remote_code not in _RESTART_CODES:
                            raise
                        restarts += 1
                        if restarts > _MAX_RESTARTS:
                            raise
                        offset = self._restarted(entry, error)
                        continue
                    self._share.add(len(piece))
                    offset += len(piece)
        except HttpsError as error:
            if _is_final(error):
                raise AgentError("capture.upload", error.message) from error
            _LOG.info("capture %s: %s", entry.name, error)
        except FileNotFoundError as error:
            raise AgentError("capture.upload", "the recording is no longer on the disk") from error
        except OSError as error:  # too many open files, an SD card with a loose contact
            _LOG.warning("capture %s: the recording cannot be read: %s", entry.name, error)
        return False

    def _url(self, entry: PendingRecording) -> str:
        return f"/v1/captures/{entry.name}"

    def _offset(self, entry: PendingRecording) -> int | None:
        """How many bytes the server has; None where it does not know partial uploads."""
        try:
            headers = self._client.head(self._url(entry))
        except HttpsError as error:
            if error.status in _NO_PARTIAL_UPLOADS and entry.command is not None:
                return None
            if 400 <= error.status < 500 and error.status not in _TRY_LATER:
                self._patch(entry, 0, b"")  # an answer to HEAD has no body, so no code; this one has
            raise
        text = headers.get("upload-offset", "")
        return min(int(text), entry.length) if text.isascii() and text.isdigit() and len(text) < 16 else None

    def _restarted(self, entry: PendingRecording, error: HttpsError) -> int:
        """Where to go on after the server refused a piece: what it has differs from what the device thought."""
        _LOG.info("capture %s: %s", entry.name, error)
        if error.remote_code == "capture.changed":
            self._client.request("DELETE", self._url(entry), _MAX_ANSWER_BYTES)
        return self._offset(entry) or 0

    def _patch(self, entry: PendingRecording, offset: int, piece: bytes) -> None:
        headers = {
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(offset),
            "Upload-Length": str(entry.length),
            "Upload-Complete": "?1" if offset + len(piece) == entry.length else "?0",
            "X-Content-SHA256": entry.sha256,
            "X-Pipeline": entry.pipeline,
        }
        self._client.request("PATCH", self._url(entry), _MAX_ANSWER_BYTES, piece, headers)

    def _put(self, entry: PendingRecording, path: Path) -> bool:
        headers = {
            "X-Content-SHA256": entry.sha256,
            "Content-Type": "application/octet-stream",
            "Content-Length": str(entry.length),
        }
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.length:
                raise AgentError("capture.upload", _SHORTER)
            self._client.request("PUT", self._url(entry), _MAX_ANSWER_BYTES, self._pieces(file), headers)
        self._share.add(entry.length)
        return True

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        """The recording in pieces, as fast as the limit per second allows."""
        while piece := file.read(self._piece_bytes):
            self._wait_for(len(piece))
            yield piece

    def _wait_for(self, count: int) -> None:
        while (seconds := self._bucket.wait_seconds(count, self._clock.monotonic())) > 0:
            if self._stopping.wait(min(seconds, 1.0)):
                raise HttpsError("fetch.unreachable", "the agent is stopping")
        self._bucket.take(count)


def _is_final(error: HttpsError) -> bool:
    """Whether the fleet service itself says that it takes the recording neither now nor later."""
    if not 400 <= error.status < 500 or error.remote_code in _PASSING_CODES:
        return False
    return error.status == _TOO_LARGE or error.remote_code.startswith(_FLEET_CODES)
