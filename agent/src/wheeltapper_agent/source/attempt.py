"""A call of foreign code in a thread of its own, so that whoever waits for it can give up waiting.

A plug-in may hang, or raise what ends a thread without a word, such as ``SystemExit``. What hangs cannot be ended: its
thread is left behind, and nobody waits for it any longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Attempt"]

_T = TypeVar("_T")


class Attempt(Generic[_T]):
    """Calls ``work`` at once, in a daemon thread.

    Args:
        work: the call.
        name: of the thread.

    Example::

        attempt = Attempt(source.close, "close-main")
        if not attempt.wait(5.0):
            ...  # it hangs
    """

    def __init__(self, work: Callable[[], _T], name: str) -> None:
        self._work = work
        self._ended = threading.Event()
        self._result: list[_T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001  # handed on by result()
            self._error = error
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the call ended, at most ``seconds``; return whether it did."""
        return self._ended.wait(seconds)

    @property
    def error(self) -> BaseException | None:
        """What the call raised; None: nothing, or it has not ended."""
        return self._error

    def result(self) -> _T:
        """What the call returned, once it has ended.

        Raises:
            BaseException: what it raised.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]
