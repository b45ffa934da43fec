"""Captures: takes recordings that devices upload, keeps their files and rows, and finds them again.

Invariants:
    * Only two kinds of recordings are taken: the answer to a capture command of that very device, and one named
      ``auto-<16 hex digits>``, which a rule of the device made.
    * Each name is taken once: the same bytes again change nothing, other bytes are refused.
    * Rules of one device may send at most :data:`MAX_AUTO_BYTES_A_DAY` within a day.
    * A kept file has the SHA-256 that the device named, is within the cap, and was read as a recording.
    * A row in the table means that the file is there: the file is written first.

What this module does not do: mark the command as answered (the device's report does, see
:mod:`wheeltapper_fleet.captures.reports`); make datasets of captures.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.captures.partial_uploads import PartialUpload, PartialUploads
from wheeltapper_fleet.captures.rules import (
    MAX_AUTO_BYTES_A_DAY,
    MAX_CAPTURE_BYTES,
    Capture,
    capture_of_command,
    is_auto_name,
    is_command_id,
    is_sha256,
)
from wheeltapper_fleet.captures.store import auto_bytes_since, find_capture, find_command, insert_capture
from wheeltapper_fleet.captures.upload import Upload
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import read_recording
from wheeltapper_protocols.wire.messages import CaptureCommand

__all__ = ["Captures"]

_DAY_SECONDS: Final = 86_400


class Captures:
    """Takes uploads and finds recordings.

    An upload comes in one piece (:meth:`upload`, then :meth:`accept`) or in several (:attr:`partials`, then
    :meth:`finish`).

    Args:
        engine: the fleet's database.
        folder: where the recordings are kept. Unfinished uploads are in ``<folder>-partial`` beside it.
        clock: Unix seconds.
        cap_bytes: how long one recording may be.
    """

    def __init__(
        self, engine: Engine, folder: Path, clock: Callable[[], float], cap_bytes: int = MAX_CAPTURE_BYTES
    ) -> None:
        self._engine = engine
        self._folder = files.make_folder(folder)
        self._clock = clock
        self._cap_bytes = cap_bytes
        self.partials = PartialUploads(folder.with_name(f"{folder.name}-partial"), clock, cap_bytes)
        self.partials.remove_expired()
        for stale in folder.glob(".*.tmp"):
            stale.unlink(missing_ok=True)

    def check_may_upload(self, device: str, name: str) -> None:
        """Check that ``device`` may upload under ``name``: a command's id, or the name of a rule's recording.

        Raises:
            FleetError: as :meth:`command_for`, and ``capture.device_mismatch`` (another device has that name),
                ``capture.too_many``.
        """
        if not is_auto_name(name):
            self.command_for(device, name)
            return
        with reading(self._engine) as connection:
            known = find_capture(connection, name)
            bytes_today = auto_bytes_since(connection, device, self._clock() - _DAY_SECONDS)
        if known is not None and known.device != device:
            raise FleetError("capture.device_mismatch", f"{name} is not a recording of {device}")
        if known is None and bytes_today >= MAX_AUTO_BYTES_A_DAY:
            raise FleetError(
                "capture.too_many", "this device's rules have sent as much as they may in a day; try again tomorrow"
            )

    def command_for(self, device: str, command: str) -> CaptureCommand:
        """The capture command ``command``, which must be one to ``device``.

        Raises:
            FleetError: ``capture.command_unknown``, ``capture.device_mismatch``, ``capture.not_asked``.
        """
        row = None
        if is_command_id(command):
            with reading(self._engine) as connection:
                row = find_command(connection, command)
        if row is None:
            raise FleetError("capture.command_unknown", f"there is no command {command[:80]!r}")
        if row.device != device:
            raise FleetError("capture.device_mismatch", f"the command {command} is not for {device}")
        return capture_of_command(command, row.body)

    @contextlib.contextmanager
    def upload(self) -> Iterator[Upload]:
        """A temporary file to stream a recording into. It is removed at the end, unless :meth:`accept` kept it."""
        path = self._folder / f".{secrets.token_hex(16)}.tmp"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield Upload(file, path, self._cap_bytes)
        finally:
            path.unlink(missing_ok=True)

    def accept(self, device: str, command: str, upload: Upload, sha256: str) -> Capture:
        """Keep what was uploaded in one piece, as the answer to ``command``.

        Raises:
            FleetError: as :meth:`command_for`, and ``capture.hash``, ``capture.invalid``, ``capture.conflict``.
        """
        asked = self.command_for(device, command)
        if not is_sha256(sha256) or upload.sha256 != sha256:
            raise FleetError(
                "capture.hash", "the bytes do not have the SHA-256 that X-Content-SHA256 names; send again"
            )
        upload.sync()
        return self._keep(device, command, asked.pipeline, upload.path, upload.length, sha256)

    def finish(self, device: str, name: str, partial: PartialUpload, pipeline: str) -> Capture:
        """Keep an upload that has come completely. It is removed from the unfinished ones, also when it is refused.

        Args:
            device: the sender.
            name: a command's id, or the name of a rule's recording.
            partial: the upload.
            pipeline: what a rule recorded; of a command's answer the command says it.

        Raises:
            FleetError: as :meth:`accept`.
        """
        self.check_may_upload(device, name)
        try:
            if partial.digest() != partial.sha256:
                raise FleetError("capture.hash", "the bytes do not have the SHA-256 that was named; send again from 0")
            recorded = pipeline if is_auto_name(name) else self.command_for(device, name).pipeline
            kept = self._keep(device, name, recorded, partial.path, partial.length, partial.sha256)
        except FleetError:
            self.partials.remove(device, name)
            raise
        self.partials.remove(device, name)
        return kept

    def path(self, sha256: str) -> Path:
        """Where the recording with this hash is kept, whether it is there or not.

        Raises:
            FleetError: ``capture.not_found``.
        """
        if not is_sha256(sha256):
            raise FleetError("capture.not_found", f"{sha256[:80]!r} is not a SHA-256")
        return self._folder / f"{sha256}.npz"

    def find(self, name: str) -> Capture | None:
        """The recording that was stored under ``name``, if there is one."""
        with reading(self._engine) as connection:
            return find_capture(connection, name)

    def _keep(self, device: str, name: str, pipeline: str, path: Path, length: int, sha256: str) -> Capture:
        """Give a complete and durable file its place, then add its row."""
        try:
            snapshots = read_recording(path).samples.shape[0]
        except RecordingError as error:
            raise FleetError("capture.invalid", f"not a recording: {error.message} ({error.code})") from error
        known = self.find(name)
        if known is None:
            files.publish_file(path, self.path(sha256))
            known = self._add(Capture(name, device, pipeline, sha256, length, snapshots, self._clock()))
        if known.sha256 != sha256:
            raise FleetError("capture.conflict", f"{name} has been answered with another recording")
        return known

    def _add(self, capture: Capture) -> Capture:
        try:
            with self._engine.begin() as connection:
                insert_capture(connection, capture)
        except IntegrityError:  # the same recording came twice at once, and the other was faster
            return self.find(capture.command) or capture
        return capture
