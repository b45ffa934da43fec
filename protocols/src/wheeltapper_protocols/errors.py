"""The errors of this package. Each carries a stable dotted code that programs may compare."""

from __future__ import annotations

__all__ = ["ProtocolError", "RecordingError", "WireError", "brief"]


def brief(text: object, limit: int = 600) -> str:
    """Return ``text`` in at most ``limit`` characters, on one line.

    The middle is left out where it is longer, because libraries begin with where they are and end with the cause.
    """
    words = " ".join(str(text).split())
    if len(words) <= limit:
        return words
    tail = limit * 2 // 3
    return f"{words[: limit - tail - 3]} … {words[len(words) - tail :]}"


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
