"""The agent's one exception class, and the count of a fault that repeats. Every error carries a stable dotted code that
programs may compare.

Families of codes: ``config.*``, ``enrol.*``, ``trust.*`` (TUF metadata), ``assignment.*``, ``fetch.*``, ``slot.*``,
``update.*``, ``storage.*`` (the disk refuses), ``self_test.*``, ``probation.*``, ``runtime.*``, ``source.*``,
``capture.*``, ``journal.*``, ``export.*``, ``local.*`` (the state folder and its socket). Pure.

Example::

    raise AgentError("config.unknown_key", "device: unknown key 'nane'; known are 'name', 'state_dir'")
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

__all__ = ["AgentError", "FaultCount", "storage_error"]

_STORAGE_CODES: Final = {errno.ENOSPC: "storage.full", errno.EDQUOT: "storage.full", errno.EROFS: "storage.read_only"}


class AgentError(Exception):
    """The agent cannot do something.

    Args:
        code: stable dotted code, e.g. ``config.unknown_key``; never changes meaning between versions.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message


class FaultCount(NamedTuple):
    """What the status says of one kind of fault."""

    text: str
    """Of the newest occurrence."""
    times: int
    over: bool
    """Whether something worked since."""


def storage_error(error: OSError, what: str) -> AgentError:
    """The :class:`AgentError` for an error of the disk.

    Args:
        error: of the operating system.
        what: what could not be done, as the beginning of a sentence: "the journal cannot be written".

    Returns:
        ``storage.full``, ``storage.read_only``, or ``storage.failed`` for any other error.
    """
    code = _STORAGE_CODES.get(error.errno or 0, "storage.failed")
    return AgentError(code, f"{what}: {error.strerror or error}; free space on the device or mend its disk")
