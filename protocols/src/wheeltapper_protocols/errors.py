"""The errors of this package. Each carries a stable dotted code that programs may compare."""

from __future__ import annotations

__all__ = ["ProtocolError", "RecordingError", "WireError"]


class ProtocolError(Exception):
    """Input that does not keep the contract; the root of all errors of this package.

    Args:
        code: stable dotted code, e.g. ``wire.malformed``; never changes meaning between versions.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message


class WireError(ProtocolError):
    """A message, a manifest or an assignment that cannot be accepted (codes ``wire.*``, ``manifest.*``, ``id.*``)."""


class RecordingError(ProtocolError):
    """A recording that cannot be accepted (codes ``recording.*``)."""
