"""Rules about captures: their names, how long they may be, and whether a command asks for one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.ids import SHA256_PATTERN
from wheeltapper_protocols.wire.messages import CancelCommand, CaptureCommand, Command

__all__ = [
    "MAX_AUTO_BYTES_A_DAY",
    "MAX_CAPTURE_BYTES",
    "Capture",
    "capture_of_command",
    "is_auto_name",
    "is_command_id",
    "is_sha256",
]

MAX_CAPTURE_BYTES: Final = 256 * 1024 * 1024
MAX_AUTO_BYTES_A_DAY: Final = 1024 * 1024 * 1024
_AUTO_NAME: Final = re.compile(r"auto-[0-9a-f]{16}\Z")
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256: Final = re.compile(SHA256_PATTERN)


@dataclass(frozen=True)
class Capture:
    """One stored recording. ``command`` is the command's id, or the name that a rule of the device gave it."""

    command: str
    device: str
    pipeline: str
    sha256: str
    length: int
    """Bytes."""
    snapshots: int
    """Recorded windows."""
    received_at: float
    """Unix seconds."""


def is_auto_name(name: str) -> bool:
    """Whether ``name`` is one that devices give to what their own rules recorded: ``auto-<16 hex digits>``."""
    return _AUTO_NAME.match(name) is not None


def is_command_id(name: str) -> bool:
    """Whether ``name`` may be the id of a command."""
    return _COMMAND_ID.match(name) is not None


def is_sha256(text: str) -> bool:
    """Whether ``text`` is a SHA-256 as 64 lower-case hex digits."""
    return _SHA256.match(text) is not None


def capture_of_command(command: str, body: Any) -> CaptureCommand:
    """The capture that a command asks for.

    Args:
        command: its id, for the error.
        body: what its row holds: the whole command, or only its body.

    Raises:
        FleetError: ``capture.not_asked``.
    """
    try:
        if "id" in body:
            decoded = msgspec.convert(body, Command).body
        else:
            decoded = msgspec.convert(body, CaptureCommand | CancelCommand)
    except (msgspec.ValidationError, TypeError) as error:
        raise FleetError("capture.not_asked", f"the stored command {command} cannot be read: {error}") from error
    if not isinstance(decoded, CaptureCommand):
        raise FleetError("capture.not_asked", f"the command {command} does not ask for a capture")
    return decoded
