"""Files with passwords and private keys of a source: only their owner may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["check_private", "read_secret"]

_MAX_SECRET_BYTES: Final = 4096


def check_private(path: Path) -> None:
    """Refuse a file that others than its owner may read.

    Raises:
        AgentError: ``source.secret``.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise AgentError("source.secret", f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise AgentError("source.secret", f"{path} must be a file that only its owner can read; run: chmod 600 {path}")


def read_secret(path: Path) -> str:
    """Return the secret in a UTF-8 text file of mode 0600, without the end of its line.

    Raises:
        AgentError: ``source.secret``.
    """
    check_private(path)
    try:
        with path.open("rb") as handle:
            secret = handle.read(_MAX_SECRET_BYTES + 1)
        if len(secret) > _MAX_SECRET_BYTES:
            raise AgentError(
                "source.secret",
                f"{path} has more than {_MAX_SECRET_BYTES} bytes, too many for a secret; check the path",
            )
        return secret.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise AgentError("source.secret", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AgentError("source.secret", f"{path} must be UTF-8 text") from error
