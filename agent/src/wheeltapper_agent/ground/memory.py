"""Returns memory that the running agent no longer uses to the operating system.

Not done here: avoiding that it is used at all (:mod:`wheeltapper_agent.ground.lazy_import`).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from typing import Final

__all__ = ["release_memory", "start_releasing_memory"]

_LOG = logging.getLogger(__name__)
_FIRST_SECONDS: Final = 10.0
"""By then the models are loaded and the first windows are scored."""
_INTERVAL_SECONDS: Final = 600.0


def release_memory() -> None:
    """Collect objects that only refer to each other, and have glibc return freed memory to the system
    (``malloc_trim(3)``). With another C library only the first is done."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        _LOG.debug("this C library has no malloc_trim")


def start_releasing_memory() -> threading.Thread:
    """Start a daemon thread that calls :func:`release_memory` after ten seconds and then every ten minutes.

    Returns:
        The thread, which ends with the process.
    """

    def work() -> None:
        never = threading.Event()
        seconds = _FIRST_SECONDS
        while not never.wait(seconds):
            release_memory()
            seconds = _INTERVAL_SECONDS

    thread = threading.Thread(target=work, name="release-memory", daemon=True)
    thread.start()
    return thread
