"""The one error root of the agent. Every error carries a stable dotted code that programs may compare.

Codes by family: ``config.*``, ``enrol.*``, ``trust.*`` (TUF metadata), ``assignment.*``, ``fetch.*``, ``slot.*``,
``update.*``, ``storage.*`` (the disk refuses),
``self_test.*``, ``probation.*``, ``runtime.*``, ``source.*``, ``capture.*``, ``journal.*``, ``local.*`` (the state
folder and its socket).
"""

from __future__ import annotations

import errno
from typing import Final

__all__ = ["AgentError", "storage_error"]

_STORAGE_CODES: Final = {errno.ENOSPC: "storage.full", errno.EDQUOT: "storage.full", errno.EROFS: "storage.read_only"}


class AgentError(Exception):
    """Something that the agent cannot do.

    Args:
        code: stable dotted code, e.g. ``config.unknown_key``; never changes meaning between versions.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message


def storage_error(error: OSError, what: str) -> AgentError:
    """``storage.full``, ``storage.read_only`` or ``storage.failed`` for what the disk said when ``what`` happened."""
    code = _STORAGE_CODES.get(error.errno or 0, "storage.failed")
    return AgentError(code, f"{what}: {error.strerror or error}; free space on the device or mend its disk")
