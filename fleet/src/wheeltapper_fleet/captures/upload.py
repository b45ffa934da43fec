"""An upload in one piece: written to a temporary file and hashed as it comes in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Upload"]


class Upload:
    """One recording that is being uploaded. Made by :meth:`wheeltapper_fleet.captures.service.Captures.upload`.

    Args:
        file: open for writing.
        path: of ``file``.
        cap_bytes: how long it may become.
    """

    def __init__(self, file: BinaryIO, path: Path, cap_bytes: int) -> None:
        self._file = file
        self._cap_bytes = cap_bytes
        self._digest = hashlib.sha256()
        self.path = path
        self.length = 0

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the bytes so far."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``.

        Raises:
            FleetError: ``capture.too_large``.
        """
        self.length += len(chunk)
        if self.length > self._cap_bytes:
            raise FleetError("capture.too_large", f"the capture is longer than {self._cap_bytes} bytes; ask for less")
        self._digest.update(chunk)
        self._file.write(chunk)

    def sync(self) -> None:
        """Write the bytes so far to the disk, so that a power cut does not lose them."""
        self._file.flush()
        os.fsync(self._file.fileno())
