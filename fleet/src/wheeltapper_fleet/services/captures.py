"""Captures: raw recordings that a device sends because it was asked to.

Invariants:
    * Only the answer to a capture command of that very device is taken, and only once: the same bytes again change
      nothing, other bytes are refused.
    * What is kept has the SHA-256 that the device named, is within the cap, and was read as a recording.
    * A row in the table means that the file is there (the file comes first).

Not here: whether the command is answered (the device's report says so) and datasets made of captures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from sqlalchemy import Engine, Row, insert, select
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.tables import captures as table
from wheeltapper_fleet.db.tables import commands
from wheeltapper_fleet.errors import FleetError
from wheeltapper_fleet.trust import files
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.ids import SHA256_PATTERN
from wheeltapper_protocols.messages import CancelCommand, CaptureCommand, Command
from wheeltapper_protocols.recording import read_recording

__all__ = ["MAX_CAPTURE_BYTES", "Capture", "Captures", "Upload"]

MAX_CAPTURE_BYTES: Final = 256 * 1024 * 1024
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256: Final = re.compile(SHA256_PATTERN[:-1] + r"\Z")


@dataclass(frozen=True)
class Capture:
    """One recording as stored."""

    command: str
    device: str
    pipeline: str
    sha256: str
    length: int
    snapshots: int
    received_at: float


class Upload:
    """One recording on its way in. Made by :meth:`Captures.upload`."""

    def __init__(self, file: BinaryIO, path: Path, cap_bytes: int) -> None:
        self._file = file
        self._cap_bytes = cap_bytes
        self._digest = hashlib.sha256()
        self.path = path
        self.length = 0

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of what came so far."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Take the next piece.

        Raises:
            FleetError: ``capture.too_large``.
        """
        self.length += len(chunk)
        if self.length > self._cap_bytes:
            raise FleetError("capture.too_large", f"the capture is longer than {self._cap_bytes} bytes; ask for less")
        self._digest.update(chunk)
        self._file.write(chunk)

    def sync(self) -> None:
        """Make what came durable."""
        self._file.flush()
        os.fsync(self._file.fileno())


class Captures:
    """Takes uploads and finds them again.

    Args:
        engine: the fleet's database.
        folder: where the recordings go.
        clock: Unix seconds.
        cap_bytes: how long one may be.
    """

    def __init__(
        self, engine: Engine, folder: Path, clock: Callable[[], float], cap_bytes: int = MAX_CAPTURE_BYTES
    ) -> None:
        self._engine = engine
        self._folder = files.make_folder(folder)
        self._clock = clock
        self._cap_bytes = cap_bytes
        for stale in folder.glob(".*.tmp"):
            stale.unlink(missing_ok=True)

    def check(self, device: str, command: str) -> CaptureCommand:
        """The capture that ``device`` was asked for.

        Raises:
            FleetError: ``capture.command_unknown``, ``capture.device_mismatch``, ``capture.not_asked``.
        """
        row = None
        if _COMMAND.match(command):
            with reading(self._engine) as connection:
                row = connection.execute(select(commands).where(commands.c.id == command)).first()
        if row is None:
            raise FleetError("capture.command_unknown", f"there is no command {command[:80]!r}")
        if row.device != device:
            raise FleetError("capture.device_mismatch", f"the command {command} is not for {device}")
        asked = _body(row.body)
        if not isinstance(asked, CaptureCommand):
            raise FleetError("capture.not_asked", f"the command {command} does not ask for a capture")
        return asked

    @contextlib.contextmanager
    def upload(self) -> Iterator[Upload]:
        """A place to stream into; whatever was not accepted at the end is gone."""
        path = self._folder / f".{secrets.token_hex(16)}.tmp"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield Upload(file, path, self._cap_bytes)
        finally:
            path.unlink(missing_ok=True)

    def accept(self, device: str, command: str, upload: Upload, sha256: str) -> Capture:
        """Keep what was uploaded as the answer to ``command``.

        Raises:
            FleetError: as :meth:`check`, and ``capture.hash``, ``capture.invalid``, ``capture.conflict``.
        """
        asked = self.check(device, command)
        if not _SHA256.match(sha256) or upload.sha256 != sha256:
            raise FleetError(
                "capture.hash", "the bytes do not have the SHA-256 that X-Content-SHA256 names; send again"
            )
        upload.sync()
        try:
            snapshots = read_recording(upload.path).samples.shape[0]
        except RecordingError as error:
            raise FleetError("capture.invalid", f"not a recording: {error.message} ({error.code})") from error
        known = self._find(command)
        if known is None:
            files.publish_file(upload.path, self.path(sha256))
            known = self._record(
                Capture(command, device, asked.pipeline, sha256, upload.length, snapshots, self._clock())
            )
        if known.sha256 != sha256:
            raise FleetError("capture.conflict", f"the command {command} has been answered with another recording")
        return known

    def list(self) -> list[Capture]:
        """Every capture, the oldest first."""
        with reading(self._engine) as connection:
            return [_capture(row) for row in connection.execute(select(table).order_by(table.c.received_at))]

    def path(self, sha256: str) -> Path:
        """Where the recording with this hash lies (or would)."""
        if not _SHA256.match(sha256):
            raise FleetError("capture.not_found", f"{sha256[:80]!r} is not a SHA-256")
        return self._folder / f"{sha256}.npz"

    def _find(self, command: str) -> Capture | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(table).where(table.c.command == command)).first()
        return _capture(row) if row is not None else None

    def _record(self, capture: Capture) -> Capture:
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(table).values(dataclasses.asdict(capture)))
        except IntegrityError:  # the same command was answered meanwhile
            return self._find(capture.command) or capture
        return capture


def _body(body: Any) -> CaptureCommand | CancelCommand:
    """The body of a command, whether the row keeps the whole command or its body alone."""
    try:
        if "id" in body:
            return msgspec.convert(body, Command).body
        return msgspec.convert(body, CaptureCommand | CancelCommand)
    except (msgspec.ValidationError, TypeError) as error:
        raise FleetError("capture.not_asked", "the command cannot be read") from error


def _capture(row: Row[Any]) -> Capture:
    return Capture(
        command=row.command,
        device=row.device,
        pipeline=row.pipeline,
        sha256=row.sha256,
        length=row.length,
        snapshots=row.snapshots,
        received_at=row.received_at,
    )
