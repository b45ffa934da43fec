"""Captures: raw recordings that a device sends because it was asked to, or because a rule of its own says so.

Invariants:
    * Only the answer to a capture command of that very device is taken, or a recording named ``auto-<16 hex digits>``
      of a device's rules; each only once: the same bytes again change nothing, other bytes are refused.
    * A device's rules bring at most :data:`MAX_AUTO_BYTES_A_DAY` within a day.
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
from sqlalchemy import Engine, Row, func, insert, select
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.captures.partials import Partial, Partials
from wheeltapper_fleet.captures.tables import captures as table
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import commands
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import read_recording
from wheeltapper_protocols.wire.ids import SHA256_PATTERN
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command

__all__ = ["AUTO", "MAX_AUTO_BYTES_A_DAY", "MAX_CAPTURE_BYTES", "Capture", "Captures", "Upload"]

MAX_CAPTURE_BYTES: Final = 256 * 1024 * 1024
MAX_AUTO_BYTES_A_DAY: Final = 1024 * 1024 * 1024
AUTO: Final = re.compile(r"auto-[0-9a-f]{16}\Z")
"""Names that devices give to what their own rules recorded."""
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256: Final = re.compile(SHA256_PATTERN)


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
        self.partials = Partials(folder.with_name(f"{folder.name}-partial"), clock, cap_bytes)
        self.partials.sweep()
        for stale in folder.glob(".*.tmp"):
            stale.unlink(missing_ok=True)

    def may_upload(self, device: str, name: str) -> None:
        """Whether ``device`` may upload under ``name``: a command's id, or the name of a rule's recording.

        Raises:
            FleetError: as :meth:`check`, and ``capture.device_mismatch`` (another device has that name),
                ``capture.too_many``.
        """
        if not AUTO.match(name):
            self.check(device, name)
            return
        with reading(self._engine) as connection:
            owner = connection.execute(select(table.c.device).where(table.c.command == name)).scalar_one_or_none()
            recent = select(func.coalesce(func.sum(table.c.length), 0)).where(
                table.c.device == device, table.c.command.like("auto-%"), table.c.received_at > self._clock() - 86_400
            )
            bytes_today = connection.execute(recent).scalar_one()
        if owner is not None and owner != device:
            raise FleetError("capture.device_mismatch", f"{name} is not a recording of {device}")
        if owner is None and bytes_today >= MAX_AUTO_BYTES_A_DAY:
            raise FleetError("capture.too_many", "this device's rules have sent enough for a day; try tomorrow")

    def finish(self, device: str, name: str, partial: Partial, pipeline: str) -> Capture:
        """Keep an upload that is whole; it is no longer among the partial ones, whether it was right or not.

        Raises:
            FleetError: as :meth:`accept`.
        """
        self.may_upload(device, name)
        try:
            if partial.digest() != partial.sha256:
                raise FleetError("capture.hash", "the bytes do not have the SHA-256 that was named; send again from 0")
            asked = pipeline if AUTO.match(name) else self.check(device, name).pipeline
            kept = self._keep(device, name, asked, partial.path, partial.length, partial.sha256)
        except FleetError:
            self.partials.forget(device, name)
            raise
        self.partials.forget(device, name)
        return kept

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
        return self._keep(device, command, asked.pipeline, upload.path, upload.length, sha256)

    def _keep(self, device: str, name: str, pipeline: str, path: Path, length: int, sha256: str) -> Capture:
        """Publish a file that is whole and durable, then its row."""
        try:
            snapshots = read_recording(path).samples.shape[0]
        except RecordingError as error:
            raise FleetError("capture.invalid", f"not a recording: {error.message} ({error.code})") from error
        known = self.find(name)
        if known is None:
            files.publish_file(path, self.path(sha256))
            known = self._record(Capture(name, device, pipeline, sha256, length, snapshots, self._clock()))
        if known.sha256 != sha256:
            raise FleetError("capture.conflict", f"{name} has been answered with another recording")
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

    def find(self, command: str) -> Capture | None:
        """What was received under this name, if it was."""
        with reading(self._engine) as connection:
            row = connection.execute(select(table).where(table.c.command == command)).first()
        return _capture(row) if row is not None else None

    def _record(self, capture: Capture) -> Capture:
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(table).values(dataclasses.asdict(capture)))
        except IntegrityError:  # the same command was answered meanwhile
            return self.find(capture.command) or capture
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
