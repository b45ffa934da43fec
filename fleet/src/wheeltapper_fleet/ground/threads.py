"""How the threads of a process share the interpreter."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["share_interpreter"]

_SWITCH_SECONDS: Final = 0.002


def share_interpreter() -> None:
    """Let a thread that waits for the interpreter have it after two milliseconds, not after five.

    The ingest gives the interpreter up at each statement of the database, some dozens of times a batch. While another
    thread computes (signs assignments, makes a page), each of these may cost so much (:func:`sys.setswitchinterval`).
    A shorter time costs throughput: threads that change places often wait for each other's caches.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
