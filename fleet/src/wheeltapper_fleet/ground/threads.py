"""How the threads of a process share the interpreter."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["share_interpreter"]

_SWITCH_SECONDS: Final = 0.0005


def share_interpreter() -> None:
    """Let a thread that waits for the interpreter have it after half a millisecond, not after five.

    The ingest gives the interpreter up at each read of the socket and each statement of the database, some dozens of
    times a batch. While another thread computes (signs assignments, makes a page), each of these would cost 5 ms
    (:func:`sys.setswitchinterval`).
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
