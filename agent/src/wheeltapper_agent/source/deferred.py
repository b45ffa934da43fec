"""Stands for a source whose file or device was not there when the agent started, and makes it when it can be made.

Invariants:
    * The error is the state of this one pipeline. Making the source is tried again, with growing pauses, without end.
    * Until the source is made the form of its windows is unknown, and :attr:`DeferredSource.spec` raises the error.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.source.base import (
    Source,
    SourceSpec,
    Window,
    malformed_payloads,
    pending_windows,
    source_faults,
    source_room,
)
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["DeferredSource", "as_agent_error"]

_LOG = logging.getLogger(__name__)
_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MAX_SECONDS: Final = 60.0


def as_agent_error(error: Exception) -> AgentError:
    """Return ``error`` as an AgentError: with its own code, or ``source.failed``."""
    if isinstance(error, AgentError | ProtocolError):
        return AgentError(error.code, error.message)
    return AgentError("source.failed", f"{type(error).__name__}: {error}")


class DeferredSource:
    """Stands for a source until it can be made, then gives its windows; implements
    :class:`~wheeltapper_agent.source.base.Source`.

    Args:
        make: makes the source, or raises.
        error: why the source could not be made the first time.
        name: of the pipeline, for the log.
    """

    def __init__(self, make: Callable[[], Source], error: AgentError, name: str) -> None:
        self._make, self._error, self._name = make, error, name
        self._made: Source | None = None
        self._failures = 1
        self._ready = False
        self._closed = StopEvent()
        _LOG.warning("pipeline %s: the source cannot be opened yet: %s; trying again", name, error)

    @property
    def spec(self) -> SourceSpec:
        """The form of the windows.

        Raises:
            AgentError: the source is not made yet; the reason.
        """
        if self._made is None:
            raise AgentError(self._error.code, self._error.message)
        return self._made.spec

    @property
    def state(self) -> str:
        """The code of the error, or the state of the source once it is made."""
        return self._error.code if self._made is None else self._made.state

    @property
    def dropped(self) -> int:
        """Windows that were skipped."""
        return 0 if self._made is None else self._made.dropped

    @property
    def pending(self) -> int:
        """Windows that are ready."""
        return 0 if self._made is None else pending_windows(self._made)

    @property
    def room(self) -> int:
        """Windows that may wait without loss."""
        return 0 if self._made is None else source_room(self._made)

    @property
    def malformed_payloads(self) -> int:
        """Payloads that could not be read."""
        return 0 if self._made is None else malformed_payloads(self._made)

    @property
    def faults(self) -> list[FaultCount]:
        """What went wrong, by kind."""
        if self._made is None:
            return [FaultCount(str(self._error), self._failures, False)]
        return source_faults(self._made)

    def model_ready(self) -> None:
        """Let the source begin, if it waits for a model, now or once it is made."""
        self._ready = True  # set before _made is read; the thread of windows() sets _made before it reads _ready
        if self._made is not None:
            self._made.model_ready()

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()
        if self._made is not None:
            self._made.close()

    def windows(self, first: int) -> Iterator[Window]:
        """Make the source, trying again as long as needed, then give its windows."""
        while self._made is None:
            delay = retry_delay_seconds(self._failures, random.random(), _RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)  # noqa: S311  # jitter
            if self._closed.wait(delay):
                return
            try:
                self._made = self._make()
            except Exception as error:  # noqa: BLE001  # a plug-in may raise anything; it is the state of its own pipeline
                reason, self._failures = as_agent_error(error), self._failures + 1
                if reason.code != self._error.code:
                    _LOG.warning("pipeline %s: the source cannot be opened yet: %s; trying again", self._name, reason)
                self._error = reason
        _LOG.info("pipeline %s: the source is open", self._name)
        if self._ready:
            self._made.model_ready()
        if self._closed.is_set():
            self._made.close()
        yield from self._made.windows(first)
